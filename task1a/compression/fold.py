"""Batch norms folded into the convolutions before them: four stored values a channel become one, the bias.

In evaluation mode a batch norm is an affine map of each channel, so it and the convolution before it are one
convolution (Jacob et al., CVPR 2018, section 3.2). Sub-spectral norms have several maps a channel and stay.
"""
import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batch_norms(model: nn.Module, input_shape: tuple[int, ...]) -> nn.Module:
    """Replace every batch norm that takes the output of a convolution as it is by that convolution's bias.

    Args:
        model: changed in place, and put in evaluation mode.
        input_shape: of one input, without the batch axis.

    Returns:
        ``model``. In evaluation mode it computes what it did before, but for rounding.
    """
    model.eval()
    for conv, norm in _followed_by_norm(model, input_shape).items():
        fused = fuse_conv_bn_eval(model.get_submodule(conv), model.get_submodule(norm))
        # the bias comes of running statistics, which are not trained; it is
        model.set_submodule(conv, fused.requires_grad_())
        model.set_submodule(norm, nn.Identity())
    return model


def _followed_by_norm(model: nn.Module, input_shape: tuple[int, ...]) -> dict[str, str]:
    """Names of the convolutions whose output goes into a batch norm, and of that norm, seen in a pass without data."""
    shadow, pairs = copy.deepcopy(model).to("meta", torch.float32).eval(), {}
    outputs: list[tuple[Tensor, str]] = []

    def watch(name: str, layer: nn.Module) -> None:
        def came_out(_: nn.Module, inputs: Any, output: Tensor) -> None:
            outputs.append((output, name))

        def goes_in(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            pairs.update({conv: name for output, conv in outputs if output is inputs[0]})

        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(came_out)
        elif isinstance(layer, nn.BatchNorm2d):
            layer.register_forward_pre_hook(goes_in)

    for name, layer in shadow.named_modules():
        watch(name, layer)
    shadow(torch.empty(1, *input_shape, device="meta"))
    return pairs
