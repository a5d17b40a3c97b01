import json
import pickle

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from task1a import model_file
from task1a.config import FeatureConfig, ModelConfig
from task1a.errors import InputError
from task1a.model_file import ModelSpec

SPEC = ModelSpec(ModelConfig(tau=0.2), FeatureConfig(n_mels=32), ("bus", "metro", "tram"))


@pytest.fixture
def stored(tmp_path):
    path = tmp_path / "model.safetensors"
    model_file.save(path, SPEC.build(), SPEC)
    return path


def change(path, tensors=None, **said):
    with safe_open(path, framework="pt") as file:
        spec = json.loads(file.metadata()[model_file.FORMAT])
    content = {name: value for name, value in (load_file(path) | (tensors or {})).items() if value is not None}
    save_file(content, path, metadata={model_file.FORMAT: json.dumps(spec | said)})


def test_a_model_comes_back_with_all_it_needs(tmp_path):
    torch.manual_seed(0)
    model = SPEC.build()
    model(torch.randn(4, 1, 32, 40))  # moves the running statistics
    model_file.save(tmp_path / "m.safetensors", model, SPEC)
    again, spec = model_file.load(tmp_path / "m.safetensors")
    assert spec == SPEC and not again.training
    x = torch.randn(3, 1, 32, 50)
    assert torch.equal(again(x), model.eval()(x))


def test_step_counters_of_batch_norms_are_no_part_of_a_model(stored):
    assert {name for name in SPEC.build().state_dict() if "num_batches" not in name} == set(load_file(stored))


@pytest.mark.parametrize("damage, message", [
    (lambda path: path.unlink(), "no such model file"),
    (lambda path: path.write_bytes(path.read_bytes()[:-9]), "not a readable safetensors file"),
    (lambda path: path.write_bytes(pickle.dumps({"stem.0.weight": 1})), "not a readable safetensors file"),
    (lambda path: save_file(load_file(path), path, metadata={"format": "pt"}), "not a model file of this project"),
    (lambda path: change(path, model={"tau": "wide"}), "damaged metadata"),
    (lambda path: change(path, labels=None), "damaged metadata"),
    (lambda path: change(path, {"head.bias": None}), "tensor head.bias is missing"),
    (lambda path: change(path, {"extra": torch.zeros(1)}), "tensor extra is not part of the architecture"),
    (lambda path: change(path, {"head.bias": torch.zeros(4)}), r"head.bias is float32 \[4\], the architecture needs "
                                                               r"float32 \[3\]"),
    (lambda path: change(path, {"head.bias": torch.zeros(3).half()}), "head.bias is float16"),
    (lambda path: change(path, model={"tau": 0.4}), "the architecture needs"),
])
def test_what_does_not_fit_is_named(stored, damage, message):
    damage(stored)
    with pytest.raises(InputError, match=message) as error:
        model_file.load(stored)
    assert str(stored) in str(error.value) and "\n" not in str(error.value)
