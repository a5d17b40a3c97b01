"""Networks, front ends and normalizations, which know tensors but no data, configuration or files."""
import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from task1a.models.bcresnet import BCResNet
from task1a.models.bcresnet_asc import BCResNetASC
from task1a.models.cp_resnet import CPResNet
from task1a.models.front_end import PCEN, FreqNorm, WithFrontEnd
from task1a.models.mixstyle import FreqMixStyle

ARCHITECTURES = {"bcresnet_asc": BCResNetASC, "bcresnet": BCResNet, "cp_resnet": CPResNet}


def build(classes: int, name: str, **settings: Any) -> nn.Module:
    """Build a network with random weights; ``settings`` are the arguments of its class."""
    return ARCHITECTURES[name](classes, **settings)


def with_front_end(network: nn.Module, name: str, bins: int, frame_rate: float, log_floor: float) -> nn.Module:
    """Put a network behind the front end ``log_mel`` (none), ``freqnorm`` or ``pcen``.

    The features have ``bins`` mel bins and ``frame_rate`` frames per second; ``log_floor`` was added to the energies
    before the logarithm.
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
    """Set the statistics of a FreqNorm front end to those of the training clips, [n, 1, mel bins, frames] a batch.

    Without such a front end, no batch is read.
    """
    front_end = getattr(model, "front_end", None)
    if isinstance(front_end, FreqNorm):
        front_end.learn(batches)


def parameter_count(model: nn.Module) -> int:
    """Number of trainable values."""
    return sum(parameter.numel() for parameter in model.parameters())


def training_bytes(model: nn.Module, input_shape: tuple[int, ...], batch_size: int) -> int:
    """Memory of a training step in float32, in bytes: the tensors saved for the backward pass, and the gradient and
    momentum of every parameter.

    Found by a forward pass without data; temporary memory of the backward pass is not counted. ``input_shape`` has no
    batch axis.
    """
    saved: dict[int, Tensor] = {}

    def save(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor
        return tensor

    shadow = copy.deepcopy(model).to("meta").train()
    for layer in shadow.modules():
        if isinstance(layer, FreqMixStyle):
            layer.eval()  # which batches are mixed is random, and its distribution cannot be sampled without data
    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        outputs = shadow(torch.empty(batch_size, *input_shape, device="meta"))
    del outputs
    saved_bytes = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    return saved_bytes + 2 * 4 * parameter_count(model)


def multiply_accumulates(model: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Multiply-accumulates of all convolutions and linear layers for one input of ``input_shape`` (no batch axis).

    Padding is counted; biases, norms and activations are not.
    """
    shadow = copy.deepcopy(model).to("meta").eval()
    with FlopCounterMode(display=False) as counter:
        shadow(torch.empty(1, *input_shape, device="meta"))
    return counter.get_total_flops() // 2  # multiplications and additions are counted apart


__all__ = ["ARCHITECTURES", "BCResNet", "BCResNetASC", "CPResNet", "build", "learn_statistics", "multiply_accumulates",
           "parameter_count", "training_bytes", "with_front_end"]
