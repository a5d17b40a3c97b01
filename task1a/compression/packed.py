"""The packed form of a compressed model: int8 weights with scales, and float16 for everything else.

Every convolution is stored as ``<layer>.weight`` (int8) and ``<layer>.weight_scale`` (float32),
every batch norm as the scale and shift that it computes with (:mod:`task1a.compression.fold`),
``<layer>.weight`` and ``<layer>.bias``, and these and every other value as float16. Unpacking gives
float32 tensors with exactly the stored values.
"""
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from task1a.compression.fold import scale_and_shift
from task1a.compression.quantize import PrunedQuantized, dequantize, quantize, weight_scale
from task1a.errors import InputError

SCALE = "_scale"
"""end of the name of a weight's scale"""
# the step counter of a batch norm, which only serves a momentum of None
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Packing:
    """What is needed besides the architecture to rebuild a compressed model."""

    weight_scales: Literal["tensor", "channel"]


def convolutions(model: nn.Module) -> dict[str, nn.Conv2d]:
    """Return the layers to prune and quantize, by name."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)}


def prepare(model: nn.Module, packing: Packing) -> None:
    """Make the convolutions compute with the weights that will be stored
    (:class:`PrunedQuantized`)."""
    for layer in convolutions(model).values():
        parametrize.register_parametrization(layer, "weight", PrunedQuantized(layer.weight, packing.weight_scales))


def pruning(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the float32 weights of the convolutions of a prepared model, and their masks (True is
    kept), by layer."""
    weights, masks = {}, {}
    for name, layer in convolutions(model).items():
        parametrizations: Any = layer.parametrizations
        rounding = parametrizations["weight"]
        weights[name], masks[name] = rounding.original.detach(), rounding[0].kept
    return weights, masks


def stored_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the stored part of a model's state: all but the step counters of batch norms."""
    return {name: value.detach() for name, value in model.state_dict().items() if not name.endswith(_COUNTER)}


def pack(model: nn.Module, packing: Packing) -> dict[str, Tensor]:
    """Return the tensors of a prepared model as they are stored.

    Raises:
        InputError: a weight is not finite, or another value exceeds half precision.
    """
    tensors = {}
    weights, masks = pruning(model)
    for name, weight in weights.items():
        if not weight.isfinite().all():
            raise InputError(f"{name}: a weight is no longer finite; lower the learning rate")
        scale = weight_scale(weight, masks[name], packing.weight_scales)
        quantized = quantize(weight, masks[name], scale)
        assert torch.equal(quantized != 0, masks[name]), f"{name}: the zeros are not those of the mask"
        tensors[f"{name}.weight"], tensors[f"{name}.weight{SCALE}"] = quantized, scale

    others = {name: value for name, value in stored_state(model).items() if ".parametrizations." not in name}
    for name, norm in _batch_norms(model):
        del others[f"{name}.running_mean"], others[f"{name}.running_var"]
        others[f"{name}.weight"], others[f"{name}.bias"] = scale_and_shift(norm)
    for name, value in others.items():
        tensors[name] = half = value.to(torch.float16)
        if not half.isfinite().all():
            raise InputError(f"{name}: {value.abs().max():g} does not fit half precision, whose maximum is 65,504; "
                             "lower the learning rate")
    return tensors


def packed_form(model: nn.Module, packing: Packing) -> dict[str, Tensor]:
    """Return tensors without values, with the names, shapes and types of the file of a vanilla
    model once packed."""
    form = {}
    for name, value in stored_state(model).items():
        form[name] = value.new_empty(value.shape, dtype=torch.float16)
    for name, _ in _batch_norms(model):
        del form[f"{name}.running_mean"], form[f"{name}.running_var"]
    for name, layer in convolutions(model).items():
        channels, *others = layer.weight.shape
        scales = [channels, *(1 for _ in others)] if packing.weight_scales == "channel" else []
        form[f"{name}.weight"] = layer.weight.new_empty(layer.weight.shape, dtype=torch.int8)
        form[f"{name}.weight{SCALE}"] = layer.weight.new_empty(scales)
    return form


def _batch_norms(model: nn.Module) -> list[tuple[str, nn.BatchNorm2d]]:
    return [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.BatchNorm2d)]


def unpack(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn packed tensors into the float32 state of the architecture."""
    state = {}
    for name, value in tensors.items():
        if name + SCALE in tensors:
            state[name] = dequantize(value, tensors[name + SCALE])
        elif not name.endswith(SCALE):
            state[name] = value.float()
    return state
