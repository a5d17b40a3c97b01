import copy

import pytest
import torch
from torch import nn

from task1a.compression.fold import ScaleShift, fold_batch_norms, merge_batch_norms
from task1a.compression.packed import stored_state
from task1a.models.cost import parameter_count

# rounding of float64 and float32, over some 30 layers
DOUBLE, SINGLE = 1e-10, 1e-3
SHAPE = (1, 64, 50)


def names_of(model, kind):
    return {name for name, layer in model.named_modules() if isinstance(layer, kind)}


@pytest.mark.parametrize("change", [merge_batch_norms, lambda model: fold_batch_norms(model, SHAPE)],
                         ids=["merged", "folded"])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, DOUBLE), (torch.float32, SINGLE)])
@pytest.mark.parametrize("settings", [{}, {"residual_norm": "none"}, {"sub_bands": 2, "residual_norm": "input"}])
@torch.no_grad()
def test_changed_model_computes_the_same(network, as_trained, settings, dtype, tolerance, change):
    model, x = as_trained(network(**settings)).to(dtype), torch.randn(3, *SHAPE, dtype=dtype)
    expected = model(x)
    changed = change(model.train())
    assert changed is model and not changed.training and not names_of(changed, nn.BatchNorm2d)
    torch.testing.assert_close(changed(x), expected, atol=tolerance, rtol=tolerance)


def test_scale_and_shift_by_hand():
    """3 (x - 5) / sqrt(3.99 + 0.01) + 7 = 1.5 x - 0.5."""
    model = nn.Sequential(nn.BatchNorm2d(1, eps=0.01))
    for name, value in (("weight", 3.0), ("bias", 7.0), ("running_mean", 5.0), ("running_var", 3.99)):
        nn.init.constant_(getattr(model[0], name), value)
    layer = merge_batch_norms(model)[0]
    assert isinstance(layer, ScaleShift)
    assert (layer.weight.item(), layer.bias.item()) == (pytest.approx(1.5), pytest.approx(-0.5))
    assert layer(torch.full((1, 1, 1, 1), 2.0)).item() == pytest.approx(2.5)
    assert layer.half()(torch.ones(1, 1, 1, 1, dtype=torch.float64)).dtype == torch.float64  # the type of its input


@pytest.mark.parametrize("biased", [False, True])
@torch.no_grad()
def test_weight_and_bias_by_the_formula(as_trained, biased):
    """w' = w g / sqrt(v + eps), b' = (b - m) g / sqrt(v + eps) + s."""
    model = as_trained(nn.Sequential(nn.Conv2d(4, 6, 3, groups=2, bias=biased), nn.BatchNorm2d(6)))
    conv, norm = copy.deepcopy(model[0]), model[1]
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    bias = conv.bias if biased else torch.zeros(6)
    folded = fold_batch_norms(model, (4, 9, 9))
    torch.testing.assert_close(folded[0].weight, conv.weight * factor.view(-1, 1, 1, 1))
    torch.testing.assert_close(folded[0].bias, (bias - norm.running_mean) * factor + norm.bias)
    assert isinstance(folded[1], nn.Identity)


def test_norms_that_stay(as_trained):
    model = nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 1), nn.ReLU(), nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1),
                          nn.BatchNorm2d(4), nn.BatchNorm2d(4))
    assert names_of(fold_batch_norms(as_trained(model), (2, 5, 5)), ScaleShift) == {"0", "3", "6"}


def test_folded_norms_of_bcresnet_asc(network):
    model = network()
    expected = {"stem.1"}
    for stage, blocks in enumerate((2, 2, 2, 3)):
        expected |= {f"stages.{stage}.0.expand.1", *(f"stages.{stage}.{k}.time_norm" for k in range(blocks))}
    norms, identities = names_of(model, nn.BatchNorm2d), names_of(model, nn.Identity)
    fold_batch_norms(model, (1, 256, 334))
    assert names_of(model, nn.Identity) - identities == expected and len(expected) == 14
    stayed = names_of(model, ScaleShift)
    assert stayed == norms - expected and len(stayed) == 9
    assert all(name.endswith("frequency_norm.norm") for name in stayed)


# 255 tau channels are folded: 20 of the stem, 10 + 15 + 20 + 25 of the expansions and 2 x 10 + 2 x 15 + 2 x 20 + 3 x 25
# over time; their scale and shift become one bias, and no statistics are left
@pytest.mark.parametrize("tau, parameters", [(1, 8_055), (8, 314_970)])
def test_counts_by_hand(network, tau, parameters):
    merged = merge_batch_norms(network(tau=tau))
    assert parameter_count(merged) == sum(value.numel() for value in stored_state(merged).values()) == parameters
    model = fold_batch_norms(network(tau=tau), (1, 256, 334))
    assert parameter_count(model) == sum(value.numel() for value in stored_state(model).values())
    assert parameter_count(model) == parameters - 255 * tau
    biases = {name: layer.bias.numel() for name, layer in model.named_modules()
              if isinstance(layer, nn.Conv2d) and layer.bias is not None}
    assert len(biases) == 15 and sum(biases.values()) == 255 * tau + 10
