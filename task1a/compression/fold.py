"""Batch norms in evaluation mode: a scale and a shift per channel, which can be folded into the
convolution before.

A batch norm with weight g, bias s, running mean m and running variance v stores four values per
channel, but computes w x + b with w = g / sqrt(v + eps) and b = s - m w. Where x is the output of a
convolution, the convolution can compute that itself (Jacob et al., CVPR 2018, section 3.2).
Sub-spectral norms have several scales and shifts per channel of a convolution, and are not folded.
"""
import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_FRAMES = 32  # the networks need at least 17


class ScaleShift(nn.Module):
    """A scale and a shift per channel.

    Args:
        weight: w [channels].
        bias: b [channels].

    Shape: [N, channels, F, T] -> the same.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        """Compute w x + b in the type of x."""
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        # A batch norm with mean 0 and variance 1 is one pass over x, also in an exported model. The
        # zeros are computed from the weights, because vectors of constants would be stored in the
        # exported file, and counted.
        zeros = 0 * weight.detach()
        return F.batch_norm(x, zeros, zeros + 1, weight, bias, eps=0.0)


def scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return w and b [channels] of a batch norm in evaluation mode."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None and variance is not None
    scale = (norm.weight * torch.rsqrt(variance + norm.eps)).detach()
    return scale, norm.bias.detach() - mean * scale


def merge_batch_norms(model: nn.Module) -> nn.Module:
    """Replace every batch norm by its scale and shift, in place.

    The model is put in evaluation mode, in which it computes the same up to rounding, and returned.
    """
    model.eval()
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.BatchNorm2d):
            model.set_submodule(name, ScaleShift(*scale_and_shift(layer)))
    return model


def fold_batch_norms(model: nn.Module, input_shape: tuple[int, ...]) -> nn.Module:
    """Replace every batch norm by its scale and shift, and fold those behind a convolution into it,
    in place.

    The model is put in evaluation mode, in which it computes the same up to rounding, and returned.
    ``input_shape`` has no batch axis.
    """
    merge_batch_norms(model)
    for conv_name, norm_name in _followed_by_scale(model, input_shape).items():
        conv, norm = model.get_submodule(conv_name), model.get_submodule(norm_name)
        assert isinstance(conv, nn.Conv2d) and isinstance(norm, ScaleShift)
        # w (K * x + c) + b = (w K) * x + (w c + b), per output channel
        bias = norm.bias if conv.bias is None else norm.bias + conv.bias * norm.weight
        conv.weight = nn.Parameter((conv.weight * norm.weight.view(-1, 1, 1, 1)).detach())
        conv.bias = nn.Parameter(bias.detach())
        model.set_submodule(norm_name, nn.Identity())
    return model


def _followed_by_scale(model: nn.Module, input_shape: tuple[int, ...]) -> dict[str, str]:
    """Map the name of each convolution to the name of the :class:`ScaleShift` that takes its
    output.

    Found by running a copy on silence. A few frames are enough, because their number does not
    change the order.
    """
    shadow = copy.deepcopy(model).float().cpu()
    outputs: list[tuple[Tensor, str]] = []
    pairs: dict[str, str] = {}

    def watch(name: str, layer: nn.Module) -> None:
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda _, inputs, output: outputs.append((output, name)))
        elif isinstance(layer, ScaleShift):
            layer.register_forward_pre_hook(
                lambda _, inputs: pairs.update({conv: name for output, conv in outputs if output is inputs[0]}))

    for name, layer in shadow.named_modules():
        watch(name, layer)
    *leading, frames = input_shape
    with torch.no_grad():
        shadow(torch.zeros(1, *leading, min(frames, _FRAMES)))
    return pairs
