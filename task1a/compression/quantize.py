"""Symmetric 8-bit weights, learned in training through a straight-through estimator.

A weight w is stored as the integer q = round(w / s) from -127 to 127 with the zero point 0 and the scale
s = max|w| / 127, of a whole layer or of each output channel. In training the network sees s q, and the gradient goes
through the rounding as if it were not there (Bengio et al. 2013; Jacob et al.: *Quantization and training of neural
networks for efficient integer-arithmetic-only inference*, CVPR 2018; the symmetric range as in Krishnamoorthi,
arXiv 1806.08342).

A pruned weight is exactly 0, and nothing else is: a kept one that would round to 0 is stored as 1 or -1, so that the
size of a model is known from its pruning alone.
"""
from typing import Any, Literal

import torch
from torch import Tensor, nn

LEVELS = 127


def scale_of(weight: Tensor, kept: Tensor, per: Literal["tensor", "channel"]) -> Tensor:
    """The scale of the kept weights, max|w| / 127; 0 where none is kept.

    Shape: weight, kept [C, ...] -> float32 [] (``tensor``) or [C, 1, ...] (``channel``).
    """
    magnitude = weight.abs() * kept
    largest = magnitude.max() if per == "tensor" else magnitude.amax(tuple(range(1, weight.dim())), keepdim=True)
    return largest / LEVELS


def quantize(weight: Tensor, kept: Tensor, scale: Tensor) -> Tensor:
    """int8 of the shape of ``weight``: round(weight / scale), 0 exactly where a weight is not kept."""
    steps = (weight / torch.where(scale > 0, scale, 1.0)).round()
    steps = torch.where(steps == 0, torch.ones_like(steps).copysign(weight), steps)
    return (steps.clamp(-LEVELS, LEVELS) * kept).to(torch.int8)


def dequantize(steps: Tensor, scale: Tensor) -> Tensor:
    """float32 weights of int8 ``steps``: scale x steps."""
    return steps.to(torch.float32) * scale


class PrunedQuantized(nn.Module):
    """A parametrization (``torch.nn.utils.parametrize``) under which a layer computes with the weights that will be
    stored, while the float32 ones behind them are trained.

    The buffer ``kept`` says which weights are not pruned.

    Args:
        weight: of the layer, [C, ...].
        per: scales of the whole ``tensor`` or of each output ``channel``.

    Shape: [C, ...] -> the same.
    """

    def __init__(self, weight: Tensor, per: Literal["tensor", "channel"]) -> None:
        super().__init__()
        self.per = per
        self.register_buffer("kept", torch.ones_like(weight, dtype=torch.bool))

    def forward(self, weight: Tensor) -> Tensor:
        """The weights that will be stored, as float32."""
        return _Rounded.apply(weight, self.kept, self.per)


class _Rounded(torch.autograd.Function):
    """scale x steps forward, the gradient of the kept weights straight through backward."""

    @staticmethod
    def forward(weight: Tensor, kept: Tensor, per: Literal["tensor", "channel"]) -> Tensor:
        scale = scale_of(weight, kept, per)
        return dequantize(quantize(weight, kept, scale), scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, str], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient * ctx.saved_tensors[0], None, None
