"""Residual Normalization and sub-spectral normalization; tensors are [clips, channels, frequency, time]."""
import torch
from torch import Tensor, nn

from task1a.models import kernels


def residual_norm(x: Tensor, shortcut: float, eps: float) -> Tensor:
    """Residual Normalization: lambda x + (x - mean_nf) / sqrt(variance_nf + eps), where lambda is ``shortcut``.

    Mean and (biased) variance of each example n and frequency f over channels and time (Kim et al., DCASE 2021 Task 1A,
    arXiv 2206.13909, eq. 1-3). With lambda = 0 it is FreqIN, frequency-wise instance normalization.

    Shape: [N, C, F, T] -> the same.
    """
    if kernels.applies(x):
        return kernels.residual_norm(x, shortcut, eps)
    variance, mean = torch.var_mean(x, dim=(1, 3), correction=0, keepdim=True)
    scale = torch.rsqrt(variance + eps)
    # one pass over x: x (scale + lambda) - mean scale
    return torch.addcmul(-mean * scale, x, scale + shortcut)


class ResidualNorm(nn.Module):
    """:func:`residual_norm` as a layer without parameters or running statistics."""

    def __init__(self, shortcut: float, eps: float) -> None:
        super().__init__()
        self.shortcut = shortcut
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        # sums of squares need float32, also under autocast
        return residual_norm(x.to(torch.promote_types(x.dtype, torch.float32)), self.shortcut, self.eps)

    def extra_repr(self) -> str:
        return f"shortcut={self.shortcut}, eps={self.eps}"


class SubSpectralNorm(nn.Module):
    """Sub-spectral normalization (Chang et al., ICASSP 2021): an affine batch norm for every channel and sub-band.

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
        bands = x.reshape(n, c * self.sub_bands, f // self.sub_bands, t)
        return self.norm(bands).reshape(n, c, f, t)
