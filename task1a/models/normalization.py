"""Residual Normalization and sub-spectral normalization; tensors are [clips, channels, frequency,
time]."""
from typing import Literal

import torch
from torch import Tensor, nn

from task1a.models.cpu import kernels


def residual_norm(x: Tensor, shortcut: float | Tensor, eps: float) -> Tensor:
    """Residual Normalization: lambda x + (x - mean_nf) / sqrt(variance_nf + eps), where lambda is
    ``shortcut``.

    Mean and (biased) variance of each example n and frequency f over channels and time (Kim et al.,
    DCASE 2021 Task 1A, arXiv 2206.13909, eq. 1-3). With lambda = 0 it is FreqIN, frequency-wise
    instance normalization.

    Shape: [N, C, F, T] -> the same.
    """
    if kernels.applies(x):
        return kernels.residual_norm(x, shortcut, eps)
    # a population's variance, without Bessel's correction, as layer and instance norms have it
    variance, mean = torch.var_mean(x, dim=(1, 3), correction=0, keepdim=True)
    scale = torch.rsqrt(variance + eps)
    # one pass over x: x (scale + lambda) - mean scale
    return torch.addcmul(-mean * scale, x, scale + shortcut)


def relaxed_norm(x: Tensor, share: float | Tensor, eps: float) -> Tensor:
    """Relaxed instance frequency-wise normalization: lambda LN(x) + (1 - lambda) FreqIN(x), where
    lambda is ``share``.

    LN normalizes each example over channels, frequency and time, without parameters; FreqIN is
    :func:`residual_norm` with lambda = 0 (Kim et al., *Domain generalization with relaxed instance
    frequency-wise normalization*, Interspeech 2022, eq. 4).

    Shape: [N, C, F, T] -> the same.
    """
    if kernels.applies(x):
        return kernels.relaxed_norm(x, share, eps)
    variance, mean = torch.var_mean(x, dim=(1, 2, 3), correction=0, keepdim=True)
    whole = torch.rsqrt(variance + eps) * share
    variances, means = torch.var_mean(x, dim=(1, 3), correction=0, keepdim=True)
    each = torch.rsqrt(variances + eps) * (1 - share)
    # one pass over x, as in residual_norm
    return torch.addcmul(-mean * whole - means * each, x, whole + each)


class ResidualNorm(nn.Module):
    """:func:`residual_norm` or :func:`relaxed_norm` as a layer without running statistics.

    Args:
        shortcut: lambda.
        eps: added to the variance.
        form: ``residual`` or ``relaxed``.
        learned: whether lambda is a parameter that begins with ``shortcut``; otherwise the layer
            has none.

    Shape: [N, C, F, T] -> the same.
    """

    def __init__(self, shortcut: float, eps: float, form: Literal["residual", "relaxed"] = "residual",
                 learned: bool = False) -> None:
        super().__init__()
        self.shortcut = nn.Parameter(torch.tensor(shortcut)) if learned else shortcut
        self.eps = eps
        self.norm = {"residual": residual_norm, "relaxed": relaxed_norm}[form]

    def forward(self, x: Tensor) -> Tensor:
        # sums of squares need float32, also under autocast
        return self.norm(x.to(torch.promote_types(x.dtype, torch.float32)), self.shortcut, self.eps)

    def extra_repr(self) -> str:
        return f"{self.norm.__name__}, shortcut={float(self.shortcut):g}, eps={self.eps}"


class SubSpectralNorm(nn.Module):
    """Sub-spectral normalization (Chang et al., ICASSP 2021): an affine batch norm for every
    channel and sub-band.

    Shape: [N, channels, F, T] -> the same; F is a multiple of ``sub_bands``.
    """

    def __init__(self, channels: int, sub_bands: int) -> None:
        super().__init__()
        self.sub_bands = sub_bands
        self.norm = nn.BatchNorm2d(channels * sub_bands)

    def forward(self, x: Tensor) -> Tensor:
        n, c, f, t = x.shape
        if f % self.sub_bands:
            raise ValueError(f"{f} frequencies do not divide into {self.sub_bands} sub-bands")
        # Consecutive frequencies of a channel become one channel of the batch norm, c sub_bands + b for
        # sub-band b of channel c. For contiguous memory that is a view.
        bands = x.reshape(n, c * self.sub_bands, f // self.sub_bands, t)
        return self.norm(bands).reshape(n, c, f, t)
