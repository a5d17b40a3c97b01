"""Batch-norm statistics, re-estimated after the training on the training clips without
augmentation.

The running statistics of batch norms come from clips that were mixed and masked, while the network
was still changing. Clips to be predicted are not augmented, so statistics of such clips with the
final weights fit them better (Wu & Johnson, *Rethinking "Batch" in BatchNorm*, arXiv 2105.07576,
sections 3 and 5).
"""
import math

import numpy as np
import torch
from torch import nn

from task1a.training.examples import Examples


@torch.no_grad()
def reestimate(model: nn.Module, examples: Examples, batch_size: int, seed: int, torch_device: torch.device) -> None:
    """Replace the running statistics of a model's batch norms by their means over random batches.

    Everything but the batch norms is in evaluation mode, and so is the model afterwards.

    Args:
        model: the model, on ``torch_device``.
        examples: the training clips; every clip is used once.
        batch_size: largest number of clips per batch.
        seed: random seed of the batches.
        torch_device: where to compute.
    """
    model.eval()
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    # the dropout stays off: its scaled zeros would change the variances
    for norm in norms:
        norm.train()
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(examples)))
    # batches of the same size, because each counts as much as any other
    for indices in order.tensor_split(math.ceil(len(examples) / batch_size)):
        model(examples.batch(indices, torch_device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
