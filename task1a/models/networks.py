"""The networks by name, and the front ends before them."""
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from task1a.models.bcresnet import BCResNet
from task1a.models.bcresnet_asc import BCResNetASC
from task1a.models.cp_resnet import CPResNet
from task1a.models.front_end import PCEN, FreqNorm, WithFrontEnd

ARCHITECTURES = {"bcresnet_asc": BCResNetASC, "bcresnet": BCResNet, "cp_resnet": CPResNet}


def build(classes: int, name: str, **settings: Any) -> nn.Module:
    """Build a network with random weights; ``settings`` are the arguments of its class."""
    return ARCHITECTURES[name](classes, **settings)


def with_front_end(network: nn.Module, name: str, bins: int, frame_rate: float, log_floor: float) -> nn.Module:
    """Put a network behind the front end ``log_mel`` (none), ``freqnorm`` or ``pcen``.

    The features have ``bins`` mel bins and ``frame_rate`` frames per second; ``log_floor`` was
    added to the energies before the logarithm.
    """
    match name:
        case "log_mel":
            return network  # without a wrapper, so that its tensors have plain names in a model file
        case "freqnorm":
            return WithFrontEnd(FreqNorm(bins), network)
        case "pcen":
            return WithFrontEnd(PCEN(frame_rate, log_floor), network)
    raise KeyError(name)


def fit_front_end(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set the statistics of a FreqNorm front end to those of the training clips, [n, 1, mel bins,
    frames] a batch.

    Without such a front end, no batch is read.
    """
    front_end = getattr(model, "front_end", None)
    if isinstance(front_end, FreqNorm):
        front_end.fit(batches)
