import math

import pytest
import torch
from torch import nn
from torch.nn.utils import prune as reference

from task1a.compression.prune import magnitude_masks, ratio_at, ratio_for_bytes

SHAPES = {"stem": (7, 1, 5, 5), "depthwise": (10, 1, 3, 1), "mix": (10, 14, 1, 1), "head": (3, 10, 1, 1)}
SCHEDULES = ("one_shot", "iterative", "gradual")


def drawn(seed=0):
    """Weights of layers of different spread."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) * (1 + k) for k, (name, shape) in enumerate(SHAPES.items())}


def all_kept(weights):
    return {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}


def pruned(kept):
    return sum(int((~mask).sum()) for mask in kept.values())


def test_the_smallest_magnitudes_go_by_hand():
    weights = {"a": torch.tensor([1.0, -4.0, 2.0]), "b": torch.tensor([[3.0, -0.5], [6.0, 5.0]])}
    together = magnitude_masks(weights, all_kept(weights), 3 / 7, "global")
    assert together["a"].tolist() == [False, True, False] and together["b"].tolist() == [[True, False], [True, True]]
    each = magnitude_masks(weights, all_kept(weights), 0.5, "layer")  # two of three and two of four
    assert each["a"].tolist() == [False, True, False] and each["b"].tolist() == [[False, False], [True, True]]
    assert all(mask.dtype == torch.bool for mask in (*together.values(), *each.values()))


def test_equal_magnitudes():
    weights = {"a": torch.tensor([2.0, -2.0]), "b": torch.tensor([2.0, -2.0, 1.0])}
    kept = magnitude_masks(weights, all_kept(weights), 3 / 5, "global")
    assert kept["a"].tolist() == [False, False] and kept["b"].tolist() == [True, True, False]


@pytest.mark.parametrize("weights, ratio, expected", [
    (10, 0.89, 9), (100, 0.89, 89), (300_320, 0.89, 267_285), (100, 0.07, 7), (100, 0.0701, 8), (3, 1 / 3, 1),
    (49, 1 - 1 / 49, 48), (7, 0.0, 0), (5, 0.999, 5), (1, 0.01, 1), (4, 1.0, 4)])
def test_pruned_number(weights, ratio, expected):
    one = {"w": torch.rand(weights)}
    for scope in ("global", "layer", "lamp"):
        assert pruned(magnitude_masks(one, all_kept(one), ratio, scope)) == expected


def test_layer_adaptive_scores_by_hand():
    """Of a: 1/14, 4/13, 9/9; of b, a hundred times as large: 1/17, 16/16."""
    weights = {"a": torch.tensor([-2.0, 1.0, 3.0]), "b": torch.tensor([100.0, -400.0])}
    gone = [{name: mask.tolist() for name, mask in magnitude_masks(weights, all_kept(weights), part, "lamp").items()}
            for part in (1 / 5, 2 / 5, 3 / 5)]
    assert gone[0] == {"a": [True, True, True], "b": [False, True]}
    assert gone[1] == {"a": [True, False, True], "b": [False, True]}
    assert gone[2] == {"a": [False, False, True], "b": [False, True]}


def test_layer_adaptive_pruning():
    weights = drawn()
    scaled = {name: weight * 10 ** k for k, (name, weight) in enumerate(weights.items())}
    kept, other = (magnitude_masks(some, all_kept(some), 0.98, "lamp") for some in (weights, scaled))
    assert all(torch.equal(kept[name], other[name]) and kept[name].any() for name in kept)
    zeros = {"a": torch.zeros(4), "b": torch.ones(4)}
    assert magnitude_masks(zeros, all_kept(zeros), 0.5, "lamp")["b"].sum() > 0


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.89, 0.99])
def test_the_masks_are_those_of_torch(ratio):
    weights = drawn()
    layers = {name: nn.ParameterDict({"weight": nn.Parameter(weight.clone())}) for name, weight in weights.items()}
    total = sum(weight.numel() for weight in weights.values())
    reference.global_unstructured([(layer, "weight") for layer in layers.values()], reference.L1Unstructured,
                                  amount=math.ceil(ratio * total))
    kept = magnitude_masks(weights, all_kept(weights), ratio, "global")
    assert all(torch.equal(kept[name], layers[name].weight_mask.bool()) for name in weights)
    kept = magnitude_masks(weights, all_kept(weights), ratio, "layer")
    for name, weight in weights.items():
        layer = nn.ParameterDict({"weight": nn.Parameter(weight.clone())})
        reference.l1_unstructured(layer, "weight", amount=math.ceil(ratio * weight.numel()))
        assert torch.equal(kept[name], layer.weight_mask.bool())


def test_pruned_stays_pruned():
    weights = {"a": torch.tensor([9.0, 0.0, -0.0, 1.0]), "b": torch.tensor([8.0, 0.0])}
    before = {"a": torch.tensor([False, True, True, True]), "b": torch.tensor([False, True])}
    for scope, ratio in (("global", 2 / 6), ("layer", 1 / 4)):
        kept = magnitude_masks(weights, before, ratio, scope)
        assert kept["a"].tolist() == before["a"].tolist() and kept["b"].tolist() == before["b"].tolist()
    further = magnitude_masks(weights, before, 3 / 6, "global")
    assert further["a"].tolist() == [False, False, True, True] and further["b"].tolist() == [False, True]


@pytest.mark.parametrize("scope", ["global", "layer", "lamp"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_pruning_only_grows(scope, schedule):
    kept = all_kept(drawn())
    for epoch in range(6):
        weights = drawn(seed=epoch)  # nothing of the magnitudes that decided before is left
        weights["mix"][:, ::2] = 0
        ratio = ratio_at(epoch, 0.8, schedule, 5, 3)
        after = magnitude_masks(weights, kept, ratio, scope)
        assert all(not (after[name] & ~kept[name]).any() for name in kept)
        parts = [after] if scope != "layer" else [{name: mask} for name, mask in after.items()]
        for part in parts:
            assert pruned(part) == math.ceil(ratio * sum(mask.numel() for mask in part.values()) - 1e-6)
        kept = after
    assert pruned(kept) == 300  # 0.8 of 375, and of 175 + 30 + 140 + 30


def test_one_shot_is_the_ratio_from_the_start():
    assert [ratio_at(epoch, 0.89, "one_shot", 3, 5) for epoch in range(5)] == [0.89] * 5


def test_iterative_steps():
    ratios = [ratio_at(epoch, 0.875, "iterative", 6, 3) for epoch in range(8)]
    assert ratios == pytest.approx([0.5, 0.5, 0.75, 0.75, 0.875, 0.875, 0.875, 0.875], abs=1e-12)
    uneven = [ratio_at(epoch, 0.9375, "iterative", 5, 4) for epoch in range(6)]
    assert uneven == pytest.approx([0.5, 0.5, 0.75, 0.875, 0.9375, 0.9375], abs=1e-12)


def test_gradual_goes_along_the_cubic():
    """s_t = s_f + (s_i - s_f) (1 - t / n)^3 (Zhu & Gupta, eq. 1) with s_i = 0, taken at the end of every epoch."""
    ratios = [ratio_at(epoch, 0.8, "gradual", 4, 5) for epoch in range(6)]
    by_hand = [0.8 * (1 - 27 / 64), 0.8 * (1 - 8 / 64), 0.8 * (1 - 1 / 64), 0.8, 0.8, 0.8]
    assert ratios == pytest.approx(by_hand, abs=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("epochs", [1, 2, 3, 10])
@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_schedule_reaches_the_ratio(schedule, epochs, steps):
    ratios = [ratio_at(epoch, 0.89, schedule, epochs, steps) for epoch in range(epochs + 2)]
    assert 0 < ratios[0] and ratios == sorted(ratios)
    assert ratios[epochs - 1:] == pytest.approx([0.89] * 3, abs=1e-12)


def test_ratio_for_bytes_by_hand():
    assert ratio_for_bytes(600, 1000, 100) == pytest.approx(0.5)
    assert ratio_for_bytes(62_467, 300_320, 29_300 + 132) == pytest.approx(1 - 33_035 / 300_320)
    assert ratio_for_bytes(1100, 1000, 100) == 0 and ratio_for_bytes(10 ** 9, 1000, 100) == 0
    assert ratio_for_bytes(101, 1000, 100) == pytest.approx(0.999)


@pytest.mark.parametrize("target", [99, 100])
def test_size_out_of_reach(target):
    with pytest.raises(ValueError, match="100 B are taken"):
        ratio_for_bytes(target, 1000, 100)


def test_ratio_for_bytes():
    weights = drawn()
    for room in range(1, 375):
        ratio = ratio_for_bytes(1234 + room, 375, 1234)
        together, each = (magnitude_masks(weights, all_kept(weights), ratio, scope) for scope in ("global", "layer"))
        assert 375 - pruned(together) == room
        assert room - len(weights) < 375 - pruned(each) <= room  # every layer rounds up
