"""Networks and normalizations. They know no data, no configuration and no files."""
import copy
from typing import Any

import torch
from torch import Tensor, nn

from task1a.models.bcresnet_asc import BCResNetASC

ARCHITECTURES = {"bcresnet_asc": BCResNetASC}


def build(classes: int, name: str, **settings: Any) -> nn.Module:
    """The named architecture with freshly drawn weights; ``settings`` are the arguments of its class."""
    return ARCHITECTURES[name](classes, **settings)


def parameter_count(model: nn.Module) -> int:
    """Trainable values of a model."""
    return sum(parameter.numel() for parameter in model.parameters())


def multiply_accumulates(model: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Multiply-accumulates of all convolutions and linear layers for one input of ``input_shape`` (no batch axis).

    Counted from the shapes of a pass without data, padding included; biases, norms and activations are not counted.
    """
    total = 0

    def count(layer: nn.Module, _: Any, output: Tensor) -> None:
        nonlocal total
        total += output[0].numel() * layer.weight[0].numel()

    shadow = copy.deepcopy(model).to("meta").eval()
    for layer in shadow.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(count)
    shadow(torch.empty(1, *input_shape, device="meta"))
    return total


__all__ = ["ARCHITECTURES", "BCResNetASC", "build", "multiply_accumulates", "parameter_count"]
