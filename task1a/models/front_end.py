"""Front ends between the log-mel energies and the network.

Batches are ln(energy + floor), [clips, 1, mel bins, frames], after augmentation.
"""
import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

SCALE = 2.0 ** 31
"""Factor that librosa's documentation prescribes for its default parameters and recordings within
+-1."""


class FreqNorm(nn.Module):
    """Global FreqNorm: (x - mean_f) / sqrt(variance_f + eps), with the statistics of mel bin f over
    the training clips.

    One of the comparisons in Kim et al., arXiv 2206.13909. The statistics are not parameters; they
    are stored, named and counted like the running statistics of a batch norm. Until :meth:`fit`
    they are 0 and 1.

    Shape: [N, 1, F, T] -> the same.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, bins: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("running_mean", torch.zeros(bins))
        self.register_buffer("running_var", torch.ones(bins))

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor]) -> None:
        """Set the statistics to those of all batches [n, 1, F, T] together.

        The variance is a difference of means, E[x^2] - E[x]^2, so that one pass over the clips is
        enough. In float64 it keeps its digits, because log-mel energies are not much further from 0
        than they vary.
        """
        count = 0
        total = torch.zeros_like(self.running_mean, dtype=torch.float64)
        squares = torch.zeros_like(total)
        for batch in batches:
            x = batch.double()
            count += x.numel() // len(self.running_mean)
            total += x.sum(dim=(0, 1, 3)).to(total.device)
            squares += x.square().sum(dim=(0, 1, 3)).to(total.device)
        mean = total / count
        self.running_mean.copy_(mean)
        self.running_var.copy_((squares / count - mean.square()).clamp(min=0))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.running_mean[:, None]) * torch.rsqrt(self.running_var[:, None] + self.eps)


def smooth(x: Tensor, weight: float, initial: float = 1.0) -> Tensor:
    """Low-pass the last axis: y_t = (1 - weight) y_(t-1) + weight x_t, with ``initial`` for y_(-1).

    With d = 1 - weight, y_t is the sum of d^k weight x_(t-k). The sum over a span of 2 n frames is
    that over the last n plus d^n times that over the n before (Hillis, Steele: *Data parallel
    algorithms*, Communications of the ACM 1986). So log2 T steps over whole tensors replace T steps
    over single frames.

    Shape: [..., T] -> the same.
    """
    y = weight * x
    y[..., 0] += (1 - weight) * initial
    span, decay = 1, 1 - weight
    while span < y.shape[-1]:
        y[..., span:] += decay * y[..., :-span]
        span, decay = 2 * span, decay ** 2
    return y


def smoothing_weight(frames: float) -> float:
    """Return the weight of :func:`smooth` for a time constant of ``frames``.

    It is librosa's, the solution of weight^2 = (1 - weight) / frames^2. At low angular frequencies
    w the power response of the low-pass is weight^2 / (weight^2 + (1 - weight) w^2), which is 1 / 2
    at w = 1 / frames.
    """
    return (math.sqrt(1 + 4 * frames ** 2) - 1) / (2 * frames ** 2)


def pcen(energies: Tensor, weight: float, gain: float = 0.98, bias: float = 2.0, power: float = 0.5,
         eps: float = 1e-6) -> Tensor:
    """Normalize the energy per channel: (E / (eps + M)^gain + bias)^power - bias^power, where M is
    the smoothed E.

    Wang et al.: *Trainable frontend for robust and far-field keyword spotting*, ICASSP 2017.
    Defaults and the initial state, M_(-1) = 1, are those of ``librosa.pcen``.

    Args:
        energies: E, not negative.
        weight: weight of the smoothing over time (:func:`smoothing_weight`).
        gain: exponent of the gain control.
        bias: offset of the root.
        power: exponent of the root.
        eps: added to the smoothed energies.

    Shape: [..., T] -> the same.
    """
    level = energies * (smooth(energies, weight) + eps).pow(-gain)
    # (level + bias)^power - bias^power without the difference, which would cancel where the level
    # is small
    return bias ** power * torch.expm1(power * torch.log1p(level / bias))


class PCEN(nn.Module):
    """Fixed PCEN in place of the logarithm: :func:`pcen` of the energies behind the log-mel
    energies.

    One of the comparisons in Kim et al., arXiv 2206.13909, which does not state its parameters;
    these are librosa's.

    Args:
        frame_rate: frames per second.
        log_floor: added to the energies before the logarithm.
        time_constant: time constant of the smoothing in seconds.

    Shape: [N, 1, F, T] -> the same.
    """

    def __init__(self, frame_rate: float, log_floor: float, time_constant: float = 0.4) -> None:
        super().__init__()
        self.log_floor = log_floor
        self.weight = smoothing_weight(time_constant * frame_rate)

    def forward(self, x: Tensor) -> Tensor:
        # the range of half precision is too small for energies; the network casts its input again
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        return pcen((x.exp() - self.log_floor).clamp(min=0) * SCALE, self.weight)

    def extra_repr(self) -> str:
        return f"log_floor={self.log_floor}, weight={self.weight:.6g}"


class WithFrontEnd(nn.Module):
    """A network behind a front end.

    Shape: log-mel energies [N, 1, F, T] -> logits [N, classes].
    """

    def __init__(self, front_end: nn.Module, network: nn.Module) -> None:
        super().__init__()
        self.front_end = front_end
        self.network = network

    @property
    def head(self) -> nn.Module:
        """The layer that scales the logits."""
        head = self.network.head
        assert isinstance(head, nn.Module)
        return head

    def forward(self, x: Tensor) -> Tensor:
        return self.network(self.front_end(x))
