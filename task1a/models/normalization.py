"""Normalizations over frequency: Residual Normalization and sub-spectral normalization.

Tensors are [clips, channels, frequency, time] throughout.
"""
import torch
from torch import Tensor, nn


def residual_norm(x: Tensor, shortcut: float = 0.1, eps: float = 1e-5) -> Tensor:
    """Residual Normalization: lambda x + (x - mean_nf) / sqrt(variance_nf + eps), with ``shortcut`` for lambda.

    Mean and (biased) variance are those of each example n and frequency f over channels and time. Kim et al., DCASE
    2021 Task 1A (arXiv 2206.13909), eq. 1-3. Without the shortcut it is FreqIN, frequency-wise instance norm.

    Shape: [N, C, F, T] -> the same.
    """
    variance, mean = torch.var_mean(x, dim=(1, 3), correction=0, keepdim=True)
    scale = torch.rsqrt(variance + eps)
    # one pass over x: x (scale + lambda) - mean scale
    return torch.addcmul(-mean * scale, x, scale + shortcut)


class ResidualNorm(nn.Module):
    """:func:`residual_norm` as a layer; it has no parameters and keeps no statistics."""

    def __init__(self, shortcut: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.shortcut = shortcut
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        # squares and their sums need float32, whatever autocast makes of the layer before
        return residual_norm(x.to(torch.promote_types(x.dtype, torch.float32)), self.shortcut, self.eps)

    def extra_repr(self) -> str:
        return f"shortcut={self.shortcut}, eps={self.eps}"


class SubSpectralNorm(nn.Module):
    """Sub-spectral normalization (Chang et al., ICASSP 2021): a batch norm of its own for every sub-band.

    One affine batch norm over (channel, sub-band) pairs, with scale and shift for each pair.

    Args:
        channels: C.
        sub_bands: S; the number of frequencies must be a multiple of it.

    Shape: [N, C, F, T] -> the same.
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
