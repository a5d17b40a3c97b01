"""Networks, front ends and normalizations. They know no data, no configuration and no files."""
import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from task1a.models.bcresnet import BCResNet
from task1a.models.bcresnet_asc import BCResNetASC
from task1a.models.cp_resnet import CPResNet
from task1a.models.front_end import PCEN, FreqNorm, WithFrontEnd

ARCHITECTURES = {"bcresnet_asc": BCResNetASC, "bcresnet": BCResNet, "cp_resnet": CPResNet}


def build(classes: int, name: str, **settings: Any) -> nn.Module:
    """The named architecture with freshly drawn weights; ``settings`` are the arguments of its class."""
    return ARCHITECTURES[name](classes, **settings)


def with_front_end(network: nn.Module, name: str, bins: int, frame_rate: float, log_floor: float) -> nn.Module:
    """The network behind the named front end; the network alone where it takes the log-mel energies as they are.

    Args:
        network: with freshly drawn weights or trained ones.
        name: ``log_mel``, ``freqnorm`` or ``pcen``.
        bins: mel bins.
        frame_rate: frames a second.
        log_floor: what was added to the energies before the logarithm.
    """
    match name:
        case "log_mel":
            return network
        case "freqnorm":
            return WithFrontEnd(FreqNorm(bins), network)
        case "pcen":
            return WithFrontEnd(PCEN(frame_rate, log_floor), network)
    raise KeyError(name)


def learn_statistics(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set the statistics of a model's front end, where it has any, to those of the training clips.

    Args:
        model: is changed in place.
        batches: log-mel energies [n, 1, mel bins, frames]; gone through only where there are statistics to learn.
    """
    front_end = getattr(model, "front_end", None)
    if isinstance(front_end, FreqNorm):
        front_end.learn(batches)


def parameter_count(model: nn.Module) -> int:
    """Trainable values of a model."""
    return sum(parameter.numel() for parameter in model.parameters())


def training_bytes(model: nn.Module, input_shape: tuple[int, ...], batch_size: int) -> int:
    """Memory that a training step in float32 takes: everything that is kept for the backward pass, and the gradient and
    momentum of every parameter.

    Taken from a forward pass without data; what the backward pass takes for a moment is not counted.

    Args:
        model: of any device; it is not changed.
        input_shape: of one input, without the batch axis.
        batch_size: inputs of a step.
    """
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    shadow = copy.deepcopy(model).to("meta").train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = shadow(torch.empty(batch_size, *input_shape, device="meta"))
    del outputs
    of_step = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    return of_step + 2 * 4 * parameter_count(model)


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


__all__ = ["ARCHITECTURES", "BCResNet", "BCResNetASC", "CPResNet", "build", "learn_statistics", "multiply_accumulates",
           "parameter_count", "training_bytes", "with_front_end"]
