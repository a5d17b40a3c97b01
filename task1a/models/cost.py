"""What a network costs: parameters, multiply-accumulates, memory of a training step."""
import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from task1a.models.mixstyle import FreqMixStyle


@dataclass(frozen=True)
class Cost:
    """What a network costs in training and in prediction."""

    parameters: int
    """number of trainable values"""
    multiply_accumulates: int
    """of all convolutions and linear layers for one input; padding is counted; biases, norms and
    activations are not"""
    training_bytes: int
    """memory of a training step in float32: the tensors saved for the backward pass, and the
    gradient and the momentum of every parameter; temporary memory of the backward pass is not
    counted"""


def parameter_count(model: nn.Module) -> int:
    """Return the number of trainable values."""
    return sum(parameter.numel() for parameter in model.parameters())


def estimate(model: nn.Module, input_shape: tuple[int, ...], batch_size: int = 2) -> Cost:
    """Estimate what a network costs, from a forward pass on the meta device, whose tensors have no
    values.

    The first pass of a process takes a second, because torch imports its compiler for the shapes of
    results.

    Args:
        model: the network, on any device; it is not changed.
        input_shape: shape of one input, without the batch axis.
        batch_size: inputs of a training step; at least 2, because batch norms refuse to train on a
            single value.
    """
    shadow = copy.deepcopy(model).to("meta").train()
    for layer in shadow.modules():
        if isinstance(layer, FreqMixStyle):
            layer.eval()  # which batches are mixed is random, and its distribution cannot be sampled without data

    # A tensor that autograd saves stays in memory until the backward pass reaches its operation, so
    # all of them together are the peak.
    saved: dict[int, Tensor] = {}  # by storage, because several operations may save one tensor, or views of it

    def save(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(save, lambda value: value):
        shadow(torch.empty(batch_size, *input_shape, device="meta"))
    operations = counter.get_total_flops() // batch_size  # multiplications and additions
    parameters = parameter_count(model)
    saved_bytes = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    return Cost(parameters, operations // 2, saved_bytes + 2 * 4 * parameters)
