"""The form for inference against the network itself, in float64, for every kind of network and front end."""
import pytest
import torch

from task1a.compression.fold import fold_batch_norms
from task1a.models import networks
from task1a.models.cpu import inference_form as form
from task1a.models.cpu.inference_form import InferenceForm, inference_form

KINDS = {
    "ResNorm": {}, "ResNorm at the input": {"residual_norm": "input"}, "no norm": {"residual_norm": "none"},
    "no shortcut": {"residual_norm_shortcut": 0.0}, "learned shortcut": {"residual_norm_learned": True},
    "relaxed norm": {"residual_norm_form": "relaxed", "residual_norm_shortcut": 0.3},
    "two sub-bands": {"sub_bands": 2}, "wide": {"tau": 2}}


def prepared(model, shape):
    return inference_form(fold_batch_norms(model, shape), shape).double()


@pytest.fixture
def trained(network, as_trained):
    def build(front_end="log_mel", **settings):
        model = networks.with_front_end(network(**settings), front_end, 64, 33.3, 1e-8)
        as_trained(model)
        return model.double().eval()
    return build


@pytest.mark.parametrize("frames", [40, 39, 37])
@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_it_gives_the_logits_of_the_network(trained, settings, frames):
    torch.manual_seed(0)
    model, x = trained(**settings), torch.randn(3, 1, 64, frames, dtype=torch.float64) * 3 - 6
    expected = model(x).detach()
    faster = prepared(model, (1, 64, frames))
    assert isinstance(faster, InferenceForm)
    torch.testing.assert_close(faster(x).clone(), expected, rtol=1e-9, atol=1e-9 * expected.abs().max().item())


@pytest.mark.parametrize("front_end", ["freqnorm", "pcen"])
def test_front_ends_stay_before_it(trained, front_end):
    torch.manual_seed(0)
    model, x = trained(front_end), torch.randn(2, 1, 64, 40, dtype=torch.float64) - 6
    expected = model(x).detach()
    faster = prepared(model, (1, 64, 40))
    assert isinstance(faster.network, InferenceForm) and not faster.training
    torch.testing.assert_close(faster(x).clone(), expected, rtol=1e-9, atol=1e-9 * expected.abs().max().item())


@pytest.mark.parametrize("form_of_norm", ["residual", "relaxed"])
def test_pieces_of_any_size_give_the_same(trained, monkeypatch, form_of_norm):
    torch.manual_seed(0)
    model, x = trained(residual_norm_form=form_of_norm), torch.randn(3, 1, 64, 40, dtype=torch.float64)
    faster = prepared(model, (1, 64, 40))
    whole = faster(x).clone()
    for product, rows in ((1, 1 << 30), (1 << 30, 1), (5000, 9000)):
        monkeypatch.setattr(form, "_PRODUCT_BYTES", product)
        monkeypatch.setattr(form, "_ROWS_BYTES", rows)
        torch.testing.assert_close(faster(x), whole)


@pytest.mark.parametrize("settings", [{"name": "cp_resnet"}, {"name": "bcresnet", "tau": 1}])
def test_other_networks_are_left_as_they_are(network, settings):
    model = network(**settings)
    assert inference_form(model, (1, 64, 40)) is model
