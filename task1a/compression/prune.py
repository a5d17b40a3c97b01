"""Unstructured magnitude pruning: masks of the kept weights, schedules, and the ratio for a size in
bytes.

Zhu & Gupta: *To prune, or not to prune* (ICLR 2018 workshop) for the gradual schedule; Han et al.:
*Learning both weights and connections for efficient neural networks* (NeurIPS 2015) for the
iterative one. BC-ResNet-ASC is pruned in one shot, ratio 0.89 (arXiv 2206.13909).
"""
import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

# subtracted before a number of weights is rounded up: 0.07 x 100 is 7.000000000000001, but stands
# for 7 weights
_SLACK = 1e-6


def magnitude_masks(weights: Mapping[str, Tensor], masks: Mapping[str, Tensor], ratio: float,
                    scope: Literal["global", "layer", "lamp"]) -> dict[str, Tensor]:
    """Return masks of the kept weights: all but those of the smallest magnitude.

    Exactly ``ratio`` of the weights, rounded up, is pruned. They are ranked over all layers
    (``global``), within each layer (``layer``), or over all layers by their layer-adaptive score
    (``lamp``), which empties no layer. Among equal magnitudes the earlier is pruned first. Pruned
    weights stay pruned.

    Args:
        weights: weights by layer.
        masks: masks by layer (bool, True for kept weights), as they are so far.
        ratio: fraction of all weights that is pruned, 0 to 1.
        scope: ``global``, ``layer`` or ``lamp``.
    """
    # -1 for pruned weights, so that they rank below kept weights that happen to be 0
    scores = {name: torch.where(masks[name], weight.abs(), -1.0).flatten() for name, weight in weights.items()}
    if scope == "layer":
        layers = [_all_but_smallest(layer, ratio) for layer in scores.values()]
    else:
        if scope == "lamp":
            scores = {name: _layer_adaptive(layer) for name, layer in scores.items()}
        sizes = [len(layer) for layer in scores.values()]
        layers = _all_but_smallest(torch.cat(list(scores.values())), ratio).split(sizes)
    return {name: layer.view(masks[name].shape) & masks[name] for name, layer in zip(scores, layers, strict=True)}


def ratio_at(epoch: int, ratio: float, schedule: Literal["one_shot", "iterative", "gradual"], epochs: int,
             steps: int) -> float:
    """Return the pruned fraction in an epoch (counted from 0); it reaches ``ratio`` within
    ``epochs``.

    ``one_shot`` prunes everything at once, ``iterative`` in ``steps`` that each take the same
    fraction of the remaining weights, ``gradual`` before every epoch, along the cubic of Zhu &
    Gupta.
    """
    if schedule == "one_shot" or epoch >= epochs:
        return ratio
    if schedule == "iterative":
        # of the weights that are left, every step keeps the same fraction, (1 - ratio)^(1 / steps)
        steps = min(steps, epochs)
        return 1 - (1 - ratio) ** ((1 + epoch * steps // epochs) / steps)
    return ratio * (1 - (1 - (epoch + 1) / epochs) ** 3)


def ratio_for_bytes(target: int, weights: int, other_bytes: int) -> float:
    """Return the fraction of 8-bit ``weights`` to prune so that they and ``other_bytes`` take at
    most ``target`` bytes.

    Raises:
        ValueError: ``other_bytes`` alone reach the target.
    """
    if other_bytes >= target:
        raise ValueError(f"{other_bytes:,} B are taken by values that are not pruned")
    return max(0.0, 1 - (target - other_bytes) / weights)


def _layer_adaptive(magnitudes: Tensor) -> Tensor:
    """Return the scores of layer-adaptive magnitude pruning (Lee et al., ICLR 2021, eq. 2) for one
    layer, [weights].

    The score of a weight w is w^2 over the sum of v^2 of the weights v of the layer that are not
    smaller. It ranks weights within the layer like their magnitudes, and the largest weight of
    every layer has the maximum, 1.
    """
    # sums from the largest square down to each; in float64 they still grow with the smallest
    # squares of a wide layer
    order = magnitudes.argsort(stable=True)
    squares = magnitudes[order].double().square()
    not_smaller = squares.flip(0).cumsum(0).flip(0)
    scores = torch.empty_like(squares)
    scores[order] = squares / not_smaller.clamp(min=torch.finfo(torch.float64).tiny)
    return torch.where(magnitudes < 0, -1.0, scores)


def _all_but_smallest(scores: Tensor, ratio: float) -> Tensor:
    # stable, so that the same weights are pruned on every device where magnitudes are equal
    mask = torch.ones(len(scores), dtype=torch.bool, device=scores.device)
    pruned = min(len(scores), math.ceil(ratio * len(scores) - _SLACK))
    mask[scores.argsort(stable=True)[:pruned]] = False
    return mask
