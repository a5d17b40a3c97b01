"""Symmetric 8-bit weights, trained with a straight-through estimator.

A weight w is stored as the integer q = round(w / s) from -127 to 127, with zero point 0 and scale s
= max|w| / 127 per layer or per output channel. Without -128 the range is symmetric: w and -w have
codes q and -q. In training the network computes with s q, and the gradient ignores the rounding
(Bengio et al. 2013; Jacob et al.: *Quantization and training of neural networks for efficient
integer-arithmetic-only inference*, CVPR 2018; symmetric range as in Krishnamoorthi, arXiv
1806.08342).

Exactly the pruned weights are 0: a kept weight that would round to 0 is stored as 1 or -1, so the
size of a model depends on its pruning alone.
"""
from typing import Any, Literal

import torch
from torch import Tensor, nn

LEVELS = 127


def weight_scale(weight: Tensor, mask: Tensor, per: Literal["tensor", "channel"]) -> Tensor:
    """Return the scale of the kept weights, max|w| / 127; 0 if none is kept.

    Shape: weight, mask [C, ...] -> float32 [] (``tensor``) or [C, 1, ...] (``channel``).
    """
    magnitude = weight.abs() * mask
    largest = magnitude.max() if per == "tensor" else magnitude.amax(tuple(range(1, weight.dim())), keepdim=True)
    return largest / LEVELS


def quantize(weight: Tensor, mask: Tensor, scale: Tensor) -> Tensor:
    """Return int8 codes round(weight / scale) in the shape of ``weight``, 0 exactly where ``mask``
    is False."""
    q = (weight / torch.where(scale > 0, scale, 1.0)).round()
    # a kept weight below s / 2 takes the smallest code of its sign, so that zeros are exactly the
    # pruned weights
    q = torch.where(q == 0, torch.ones_like(q).copysign(weight), q)
    return (q.clamp(-LEVELS, LEVELS) * mask).to(torch.int8)


def dequantize(q: Tensor, scale: Tensor) -> Tensor:
    """Return the float32 weights of int8 codes: scale x q."""
    return q.to(torch.float32) * scale


class PrunedQuantized(nn.Module):
    """A parametrization (``torch.nn.utils.parametrize``): a layer computes with the weights that
    will be stored, while the float32 weights behind them are trained.

    The buffer ``kept`` is the mask of the weights that are not pruned; checkpoints contain it under
    this name.

    Shape: [C, ...] -> the same.
    """

    def __init__(self, weight: Tensor, per: Literal["tensor", "channel"]) -> None:
        super().__init__()
        self.per = per
        self.register_buffer("kept", torch.ones_like(weight, dtype=torch.bool))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the float32 weights that will be stored."""
        return _Rounded.apply(weight, self.kept, self.per)


class _Rounded(torch.autograd.Function):
    """Forward scale x q; backward the gradient of the kept weights, unchanged."""

    @staticmethod
    def forward(weight: Tensor, mask: Tensor, per: Literal["tensor", "channel"]) -> Tensor:
        scale = weight_scale(weight, mask, per)
        return dequantize(quantize(weight, mask, scale), scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, str], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        # The straight-through estimator: rounding has gradient 0 almost everywhere, so it is taken
        # for the identity. Pruned weights get no gradient, because they stay pruned.
        return gradient * ctx.saved_tensors[0], None, None
