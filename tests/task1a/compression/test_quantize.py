import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from task1a.compression import packed
from task1a.compression.packed import Packing
from task1a.compression.quantize import LEVELS, PrunedQuantized, dequantize, quantize, weight_scale

SHAPE = (6, 5, 3, 3)
# float32 has 24 bits; a quotient near a half step may be rounded either way
ROUNDING = 1e-5


def drawn(seed=0, pruned=0.5):
    """Weights of channels of different spread, and what of them is kept."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(SHAPE, generator=generator) * torch.logspace(-2, 1, SHAPE[0]).view(-1, 1, 1, 1)
    return weight, torch.rand(SHAPE, generator=generator) >= pruned


def away_from_zero(seed=0):
    """Weights none of which rounds to 0, of a spread below 1 : 20 in every channel."""
    generator = torch.Generator().manual_seed(seed)
    sizes = (0.05 + 0.95 * torch.rand(SHAPE, generator=generator)) * torch.logspace(-3, 2, SHAPE[0]).view(-1, 1, 1, 1)
    return sizes.copysign(torch.randn(SHAPE, generator=generator))


def prepared_conv(per="tensor", pruned=0.5):
    torch.manual_seed(3)
    conv = nn.Conv2d(5, 6, 3)
    packed.prepare(conv, Packing(per))
    conv.parametrizations.weight[0].kept.copy_(torch.rand(SHAPE) >= pruned)
    return conv


def test_steps_by_hand():
    weight = torch.tensor([[0.5, -1.27, 0.004, 0.0, -0.0, 1.0], [0.254, -0.003, -0.254, 0.0006, 3.0, -0.128]])
    kept = torch.tensor([[True] * 5 + [False], [True] * 4 + [False, True]])
    scale = weight_scale(weight, kept, "tensor")
    assert scale.shape == () and scale.dtype == torch.float32 and scale.item() == pytest.approx(0.01)
    assert quantize(weight, kept, scale).tolist() == [[50, -127, 1, 1, -1, 0], [25, -1, -25, 1, 0, -13]]
    scale = weight_scale(weight, kept, "channel")
    assert scale.shape == (2, 1) and scale.flatten().tolist() == pytest.approx([0.01, 0.002])
    assert quantize(weight, kept, scale).tolist() == [[50, -127, 1, 1, -1, 0], [127, -2, -127, 1, 0, -64]]


def test_the_rounding_is_that_of_torch():
    weight, everything = away_from_zero(), torch.ones(SHAPE, dtype=torch.bool)
    scale = weight_scale(weight, everything, "channel")
    theirs = torch.fake_quantize_per_channel_affine(weight, scale.flatten(), torch.zeros(6), 0, -LEVELS, LEVELS)
    assert torch.equal(dequantize(quantize(weight, everything, scale), scale), theirs)

    weight = weight / weight.abs().amax((1, 2, 3), keepdim=True)
    scale = weight_scale(weight, everything, "tensor")
    theirs = torch.fake_quantize_per_tensor_affine(weight, scale.item(), 0, -LEVELS, LEVELS)
    assert torch.equal(dequantize(quantize(weight, everything, scale), scale), theirs)


@pytest.mark.parametrize("per", ["tensor", "channel"])
@pytest.mark.parametrize("seed", range(5))
def test_rounding_of_codes(per, seed):
    weight, kept = drawn(seed)
    weight[:, 0] /= 1000  # these round to 0
    scale = weight_scale(weight, kept, per)
    steps = quantize(weight, kept, scale)
    assert steps.dtype == torch.int8 and steps.min() >= -127 and steps.max() <= 127
    assert torch.equal(steps != 0, kept)
    largest = steps.abs() if per == "channel" else steps.abs().flatten()[None]
    assert (largest.flatten(1).amax(1) == 127).all()  # the range is used
    assert torch.equal(quantize(-weight, kept, scale), -steps)  # the zero point is 0
    error = (dequantize(steps, scale) - weight).abs() / scale
    held_away = (weight / scale).abs() <= 0.5
    assert error[kept & ~held_away].max() <= 0.5 + ROUNDING
    assert error[kept & held_away].max() <= 1 and (steps[kept & held_away].abs() == 1).all()


@pytest.mark.parametrize("per", ["tensor", "channel"])
def test_layer_pruned_completely(per):
    weight, kept = drawn()
    kept[2] = False
    channel = weight_scale(weight, kept, "channel")
    assert channel[2].item() == 0 and (channel[[0, 1, 3, 4, 5]] > 0).all()
    assert not dequantize(quantize(weight, kept, channel), channel)[2].any()
    kept[:] = False
    scale = weight_scale(weight, kept, per)
    assert not scale.any()
    layer = PrunedQuantized(weight, per)
    layer.kept[:] = False
    behind = weight.clone().requires_grad_()
    seen = layer(behind)
    seen.sum().backward()
    assert torch.equal(seen, torch.zeros(SHAPE)) and torch.equal(behind.grad, torch.zeros(SHAPE))


@pytest.mark.parametrize("per", ["tensor", "channel"])
def test_kept_weights_of_zero(per):
    weight, kept = torch.zeros(SHAPE), torch.ones(SHAPE, dtype=torch.bool)
    scale = weight_scale(weight, kept, per)
    steps = quantize(weight, kept, scale)
    assert (steps == 1).all() and torch.equal(dequantize(steps, scale), weight)


def test_straight_through_gradient():
    weight, kept = drawn()
    for per in ("tensor", "channel"):
        layer = PrunedQuantized(weight, per)
        layer.kept.copy_(kept)
        behind, upstream = weight.clone().requires_grad_(), torch.randn(SHAPE)
        layer(behind).backward(upstream)
        assert torch.equal(behind.grad, torch.where(kept, upstream, 0.0))


@pytest.mark.parametrize("per", ["tensor", "channel"])
def test_layer_computes_with_stored_weights(per):
    conv, packing = prepared_conv(per).train(), Packing(per)
    model = nn.Sequential(conv)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        stored = packed.unpack(packed.pack(model, packing))["0.weight"]
        assert torch.equal(conv.weight, stored)
        x = torch.randn(2, 5, 8, 8)
        assert torch.equal(conv(x), nn.functional.conv2d(x, stored, conv.bias))
        optimizer.zero_grad()
        conv(x).square().sum().div(100).backward()
        optimizer.step()


@pytest.mark.parametrize("per", ["tensor", "channel"])
def test_pruned_zeros_stay(per):
    conv = prepared_conv(per, pruned=0)
    parts = conv.parametrizations.weight
    optimizer = torch.optim.SGD(conv.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)

    def steps(number):
        for _ in range(number):
            optimizer.zero_grad()
            (conv(torch.randn(4, 5, 8, 8)) - 1).square().mean().backward()
            optimizer.step()

    steps(3)  # the momentum of the weights that are pruned next is not 0
    kept = torch.rand(SHAPE) < 0.3
    parts[0].kept.copy_(kept)
    before = parts.original.detach().clone()
    steps(5)
    assert not torch.equal(parts.original, before) and not torch.equal(parts.original * ~kept, before * ~kept)
    assert torch.equal(conv.weight != 0, kept)
    tensors = packed.pack(nn.Sequential(conv), Packing(per))
    assert torch.equal(tensors["0.weight"] != 0, kept)


def test_parametrization_in_the_state():
    conv = prepared_conv()
    assert parametrize.is_parametrized(conv, "weight")
    other = nn.Conv2d(5, 6, 3)
    packed.prepare(other, Packing("tensor"))
    other.load_state_dict(conv.state_dict())
    assert torch.equal(other.weight, conv.weight)
    assert torch.equal(other.parametrizations.weight[0].kept, conv.parametrizations.weight[0].kept)
