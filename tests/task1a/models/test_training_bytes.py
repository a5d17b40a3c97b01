"""The memory of a training step, counted by hand and measured."""
import pytest
import torch
from torch import nn

from task1a.config import BCResNetASCConfig, FeatureConfig, TrainingConfig
from task1a.errors import InputError
from task1a.model_file import ModelSpec
from task1a.models.cost import estimate
from task1a.training import fit


def test_training_bytes_by_hand():
    """A convolution keeps its input and weight, a ReLU its output; every parameter has a gradient and a momentum."""
    model = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1, bias=False), nn.ReLU())
    values = 5 * 8 * 9 + 3 * 9 + 5 * 3 * 8 * 9 + 2 * 3 * 9
    assert estimate(model, (1, 8, 9), batch_size=5).training_bytes == 4 * values
    assert next(model.parameters()).device.type == "cpu" and model.training


def test_training_bytes_of_autograd(network):
    """The storages that the graph of a real forward pass holds on to."""
    torch.manual_seed(0)
    model, x = network(tau=0.4), torch.randn(3, 1, 32, 40)
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.setdefault(t.data_ptr(), t), lambda t: t):
        model.train()(x).sum()
    held = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert estimate(model, (1, 32, 40), 3).training_bytes == pytest.approx(held + 8 * parameters, rel=0.02)


def test_training_bytes_with_mixstyle(network):
    mixing, plain = network(mixstyle_probability=1.0), network()
    assert estimate(mixing, (1, 32, 40), 3) == estimate(plain, (1, 32, 40), 3)


def test_memory_of_a_training():
    wide, narrow = (ModelSpec(BCResNetASCConfig(tau=tau), FeatureConfig(), tuple("abcdefghij")) for tau in (100, 1))
    with pytest.raises(InputError, match="lower training.batch_size=100000"):
        fit.check_memory(wide, TrainingConfig(batch_size=100_000), "cpu")
    fit.check_memory(narrow, TrainingConfig(batch_size=2), "cpu")
