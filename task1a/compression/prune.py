"""Unstructured magnitude pruning: which weights stay, how the pruned part grows over the epochs, and how large it must
be for a size.

Zhu & Gupta: *To prune, or not to prune* (ICLR 2018 workshop) for the gradual schedule; Han et al.: *Learning both
weights and connections for efficient neural networks* (NeurIPS 2015) for the iterative one. BC-ResNet-ASC is pruned in
one shot, ratio 0.89 (arXiv 2206.13909).
"""
import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

# so that a ratio that stands for a whole number of weights prunes that number, however it was rounded
_SLACK = 1e-6


def kept_by_magnitude(weights: Mapping[str, Tensor], kept: Mapping[str, Tensor], ratio: float,
                      scope: Literal["global", "layer", "lamp"]) -> dict[str, Tensor]:
    """Choose the weights that stay: all but the smallest magnitudes.

    Exactly ``ratio`` of the weights, rounded up, is pruned: of all together (``global``), of every layer by itself
    (``layer``), or of all together by their share in their layer (``lamp``: w^2 over the sum of v^2 of the weights v of
    the layer that are not smaller), so that none loses all. Among equal magnitudes the earlier is pruned first. What
    was pruned stays pruned.

    Args:
        weights: by layer, of any shape.
        kept: bool of the same shapes, what stays so far.
        ratio: pruned part of the weights, 0 to 1.
        scope: ``global``, ``layer`` or ``lamp``.

    Returns:
        bool by layer, of the shapes of the weights: True stays.
    """
    if scope == "layer":
        return {name: _smallest_out(_magnitude(weight, kept[name]).flatten(), ratio).view(weight.shape) & kept[name]
                for name, weight in weights.items()}
    magnitudes = [_magnitude(weight, kept[name]).flatten() for name, weight in weights.items()]
    if scope == "lamp":
        magnitudes = [_layer_adaptive(layer) for layer in magnitudes]
    parts = _smallest_out(torch.cat(magnitudes), ratio).split([len(part) for part in magnitudes])
    return {name: part.view(weight.shape) & kept[name]
            for (name, weight), part in zip(weights.items(), parts, strict=True)}


def ratio_at(epoch: int, ratio: float, schedule: Literal["one_shot", "iterative", "gradual"], epochs: int,
             steps: int) -> float:
    """The pruned part from the start of an epoch (counted from 0) on; it reaches ``ratio`` within ``epochs``.

    ``one_shot`` prunes all at once; ``iterative`` in ``steps`` prunings that each take the same part of what is left;
    ``gradual`` a little before every epoch, along the cubic of Zhu & Gupta.
    """
    if schedule == "one_shot" or epoch >= epochs:
        return ratio
    if schedule == "iterative":
        steps = min(steps, epochs)
        return 1 - (1 - ratio) ** ((1 + epoch * steps // epochs) / steps)
    return ratio * (1 - (1 - (epoch + 1) / epochs) ** 3)


def ratio_for_bytes(target: int, weights: int, other_bytes: int) -> float:
    """The part of 8-bit ``weights`` to prune so that they and ``other_bytes`` come to at most ``target`` bytes.

    Raises:
        ValueError: the rest alone is larger than the target.
    """
    if other_bytes >= target:
        raise ValueError(f"{other_bytes:,} B are taken by what is not pruned")
    return max(0.0, 1 - (target - other_bytes) / weights)


def _magnitude(weight: Tensor, kept: Tensor) -> Tensor:
    # below every magnitude, so that a kept weight that happens to be 0 does not change places with a pruned one
    return torch.where(kept, weight.abs(), -1.0)


def _layer_adaptive(magnitudes: Tensor) -> Tensor:
    """The scores of layer-adaptive magnitude pruning (Lee et al., ICLR 2021, eq. 2) of one layer, [weights].

    Their order within the layer is that of the magnitudes, and the largest of every layer has the greatest score, 1.
    """
    order = magnitudes.argsort(stable=True)
    squares = magnitudes[order].double().square()
    not_smaller = squares.flip(0).cumsum(0).flip(0)
    scores = torch.empty_like(squares)
    scores[order] = squares / not_smaller.clamp(min=torch.finfo(torch.float64).tiny)
    return torch.where(magnitudes < 0, -1.0, scores)


def _smallest_out(magnitudes: Tensor, ratio: float) -> Tensor:
    stays = torch.ones(len(magnitudes), dtype=torch.bool, device=magnitudes.device)
    pruned = min(len(magnitudes), math.ceil(ratio * len(magnitudes) - _SLACK))
    stays[magnitudes.argsort(stable=True)[:pruned]] = False
    return stays
