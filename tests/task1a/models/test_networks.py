"""What every network behind every front end can do: be counted, folded, packed, stored, calibrated."""
import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from task1a import model_file
from task1a.compression import packed
from task1a.compression.fold import ScaleShift, fold_batch_norms
from task1a.compression.packed import Packing
from task1a.config import BCResNetASCConfig, BCResNetConfig, CPResNetConfig, FeatureConfig, TrainingConfig
from task1a.model_file import ModelSpec
from task1a.models import networks
from task1a.predict.clips import logits
from task1a.training import compress, fit
from task1a.training.calibrate import calibrate
from task1a.training.examples import Examples

NETWORKS = {
    "bcresnet_asc": BCResNetASCConfig(tau=0.4),
    "bcresnet": BCResNetConfig(tau=0.5),
    "cp_resnet": CPResNetConfig(width=4),
}
FEATURES = FeatureConfig(n_mels=64, hop=2000, clip_seconds=2.5)
CASES = [(name, front_end) for name in NETWORKS for front_end in ("log_mel", "freqnorm", "pcen")]


def spec_of(name, front_end="log_mel"):
    return ModelSpec(replace(NETWORKS[name], front_end=front_end), FEATURES, ("bus", "park", "tram"))


@pytest.fixture
def trained(as_trained):
    def build(spec):
        model = as_trained(spec.build())
        networks.fit_front_end(model, [clips(5)])
        return model
    return build


def clips(count):
    return torch.randn(count, *spec_of("bcresnet").input_shape, generator=torch.Generator().manual_seed(2)) * 2 - 6


@pytest.mark.parametrize("name, front_end", CASES)
@torch.no_grad()
def test_folded_computes_the_same(trained, name, front_end):
    spec = spec_of(name, front_end)
    model, x = trained(spec).double(), clips(3).double()
    expected = model(x)
    norms = sum(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())
    folded = fold_batch_norms(model, spec.input_shape)
    torch.testing.assert_close(folded(x), expected, atol=1e-9, rtol=1e-9)
    left = [key for key, layer in folded.named_modules() if isinstance(layer, ScaleShift)]
    assert len(left) < norms and all(key.endswith("frequency_norm.norm") for key in left)


@pytest.mark.parametrize("name, front_end", CASES)
def test_front_end_counts(name, front_end):
    spec, plain = spec_of(name, front_end), spec_of(name)
    ours, theirs = spec.cost(), plain.cost()
    assert (ours.parameters, ours.multiply_accumulates) == (theirs.parameters, theirs.multiply_accumulates)


@pytest.mark.parametrize("name, front_end", CASES)
@torch.no_grad()
def test_compressed_and_read_back(tmp_path, trained, name, front_end):
    path, packing = tmp_path / "m.safetensors", Packing("tensor")
    model_file.save(path, packed.stored_state(trained(spec_of(name, front_end))), spec_of(name, front_end))
    model, spec = compress.load_prepared(path, packing)
    compress.prune_to(model, 0.5, "global")
    model_file.save(path, packed.pack(model, packing), spec)
    again, said = model_file.load(path)
    assert said == spec and said.model.front_end == front_end
    x = clips(2)
    torch.testing.assert_close(again(x), model.eval()(x), atol=0.05, rtol=0.02)  # half precision beside the weights


@pytest.mark.parametrize("state", ["vanilla", "prepared"])
@pytest.mark.parametrize("name", NETWORKS)
def test_calibration_divides_the_logits(tmp_path, trained, name, state):
    spec = spec_of(name, "freqnorm")
    model = trained(spec)
    if state == "prepared":
        packed.prepare(model, Packing("tensor"))
    judged = Examples(lambda indices: clips(12)[indices, 0].numpy(), np.arange(12) % 3, np.array(["a"] * 12),
                          np.arange(12).astype(str))
    job = fit.Job(spec, TrainingConfig(calibrate=True), 0, judged, judged, tmp_path, "x", log=lambda text: None)
    before = logits(model, judged.read, 12, 12, torch.device("cpu"))
    names = {key for key, value in model.named_parameters()}
    shared = copy.deepcopy(model.state_dict())
    temperature = calibrate(model, job, fit.launch("cpu", "32-true"))
    assert temperature != pytest.approx(1, abs=0.05)
    after = logits(model, judged.read, 12, 12, torch.device("cpu"))
    torch.testing.assert_close(after, before / temperature, atol=1e-4, rtol=1e-4)
    changed = [key for key, value in model.state_dict().items() if not torch.equal(value, shared[key])]
    assert 1 <= len(changed) <= 2 and set(changed) <= names


def test_unknown_architectures_and_front_ends():
    with pytest.raises(KeyError):
        networks.build(10, "resnet")
    with pytest.raises(KeyError):
        networks.with_front_end(nn.Identity(), "mfcc", 4, 1.0, 1e-8)
