"""Layers that hold the tensors of a packed model in their stored types and compute in float32.

They give the outputs of the unpacked model. They need as much memory as the packed file, and
summing ``numel * element_size`` over the parameters gives the stored size.
"""
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from task1a.compression.fold import ScaleShift
from task1a.compression.packed import SCALE, unpack
from task1a.compression.quantize import dequantize


class StoredConv2d(nn.Module):
    """A convolution with int8 weights and their scale.

    Shape: as ``torch.nn.Conv2d``.
    """

    def __init__(self, conv: nn.Conv2d, weight: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight, self.scale = _parameter(weight), _parameter(scale)
        self.bias = None if bias is None else _parameter(bias)
        self.geometry: tuple[Any, ...] = conv.stride, conv.padding, conv.dilation, conv.groups

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.float()
        return F.conv2d(x, dequantize(self.weight, self.scale), bias, *self.geometry)


def load_packed(model: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Load packed tensors into a model, keeping their stored types.

    Args:
        model: the architecture with merged batch norms, which is changed.
        tensors: its packed form (:mod:`task1a.compression.packed`).

    Returns:
        The model, in evaluation mode.
    """
    model.load_state_dict(unpack(tensors), strict=False)  # what other layers hold
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Conv2d):
            weight = f"{name}.weight"
            stored = StoredConv2d(layer, tensors[weight], tensors[weight + SCALE], tensors.get(f"{name}.bias"))
            model.set_submodule(name, stored)
        elif isinstance(layer, ScaleShift):
            layer.half().requires_grad_(False)
    return model.eval()


def _parameter(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value, requires_grad=False)
