from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from task1a import embed
from task1a.errors import InputError


def test_statistics_are_those_of_numpy():
    x = torch.randn(3, 4, 5, 6, dtype=torch.float64)
    for name, axes, length in (("frequency-wise", (1, 3), 5), ("channel-wise", (2, 3), 4)):
        found = embed.compute_statistics(x, embed.AXES[name]).numpy()
        expected = np.concatenate([x.numpy().mean(axis=axes), x.numpy().std(axis=axes)], axis=1)
        assert found.shape == (3, 2 * length)
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_layer_statistics():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU()).eval()
    clips = np.random.default_rng(0).normal(size=(7, 3, 4)).astype(np.float32)
    found = embed.layer_statistics(model, model[0], lambda indices: clips[indices], 7, batch_size=3)
    with torch.no_grad():
        expected = embed.compute_statistics(model[0](torch.from_numpy(clips)[:, None]), (1, 3))
    np.testing.assert_allclose(found["frequency-wise"], expected, atol=1e-6)
    assert found["channel-wise"].shape == (7, 4) and not model[0]._forward_hooks


def clips(locations=10, devices=("a", "b", "c")):
    return SimpleNamespace(device=list(devices) * locations,
                           location=np.repeat([f"place-{k}" for k in range(locations)], len(devices)))


def test_probe_of_devices_and_noise():
    rng, some = np.random.default_rng(0), clips(40)
    noise = rng.normal(size=(len(some.device), 6))
    dependent = noise + 5 * np.eye(6)[[some.device.index(device) for device in some.device]]
    assert embed.probe(dependent, some.device, some.location)["accuracy"] > 95
    by_chance = embed.probe(noise, some.device, some.location)
    assert by_chance["chance"] == pytest.approx(100 / 3)
    assert abs(by_chance["accuracy"] - by_chance["chance"]) < 15


def test_probe_on_unseen_locations():
    """Features that identify each clip reveal nothing about clips from other locations."""
    some = clips(20)
    names = np.eye(len(some.device))
    assert embed.probe(names, some.device, some.location)["accuracy"] < 50


@pytest.mark.parametrize("some", [clips(4), clips(10, ["a"])])
def test_too_few_locations_or_devices(some):
    with pytest.raises(InputError, match="too few to tell devices apart"):
        embed.probe(np.zeros((len(some.device), 2)), some.device, some.location)


def test_the_pictures_are_the_same_every_time(tmp_path):
    some = clips()
    points = {name: np.random.default_rng(1).normal(size=(30, 2)) for name in embed.AXES}
    for name in ("first", "second"):
        embed.draw(points, some.device, "demo", [tmp_path / f"{name}.png", tmp_path / f"{name}.svg"])
    assert (tmp_path / "first.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "first.svg").read_bytes() == (tmp_path / "second.svg").read_bytes()
    assert len(list(tmp_path.iterdir())) == 4


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(InputError, match="config.yaml: no such file; make it with: python task1a.py"):
        embed.main([str(tmp_path)])
