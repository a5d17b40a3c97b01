"""Batch norms folded into the preceding convolutions: four stored values per channel become one, the bias.

In evaluation mode a batch norm is an affine map of each channel, so it and the convolution before it are one
convolution (Jacob et al., CVPR 2018, section 3.2). Sub-spectral norms have several maps per channel and stay.
"""
import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batch_norms(model: nn.Module, input_shape: tuple[int, ...]) -> nn.Module:
    """Fold every batch norm whose input is the output of a convolution into that convolution, in place.

    The model is put in evaluation mode, in which it computes the same up to rounding, and returned. ``input_shape`` has
    no batch axis.
    """
    model.eval()
    for conv, norm in _followed_by_norm(model, input_shape).items():
        fused = fuse_conv_bn_eval(model.get_submodule(conv), model.get_submodule(norm))
        # a bias computed from running statistics, which are not trained, must be trainable itself
        model.set_submodule(conv, fused.requires_grad_())
        model.set_submodule(norm, nn.Identity())
    return model


def _followed_by_norm(model: nn.Module, input_shape: tuple[int, ...]) -> dict[str, str]:
    """Names of the convolutions whose output goes into a batch norm, with the name of that norm."""
    shadow, pairs = copy.deepcopy(model).to("meta", torch.float32).eval(), {}
    outputs: list[tuple[Tensor, str]] = []

    def watch(name: str, layer: nn.Module) -> None:
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda _, inputs, output: outputs.append((output, name)))
        elif isinstance(layer, nn.BatchNorm2d):
            layer.register_forward_pre_hook(
                lambda _, inputs: pairs.update({conv: name for output, conv in outputs if output is inputs[0]}))

    for name, layer in shadow.named_modules():
        watch(name, layer)
    shadow(torch.empty(1, *input_shape, device="meta"))
    return pairs
