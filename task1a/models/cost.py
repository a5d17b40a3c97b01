"""What a network costs: parameters, memory of a training step, multiply-accumulates."""
import copy

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from task1a.models.mixstyle import FreqMixStyle


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
