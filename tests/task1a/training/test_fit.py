import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
import torch
from safetensors.torch import load_file
from scipy.special import softmax
from torch import nn

from task1a.config import TrainingConfig
from task1a.data import splits
from task1a.errors import InputError
from task1a.machine import device_of
from task1a.predict.clips import logits
from task1a.training import fit
from task1a.training import train as training
from task1a.training.calibrate import best_temperature, calibrate
from task1a.training.examples import Examples

RECIPE = TrainingConfig(epochs=4, batch_size=8, warmup_epochs=1, learning_rate=0.05, frequency_mask_bins=4,
                        time_mask_frames=3, roll_seconds=0.1)


@pytest.fixture(scope="module")
def job(toy_spec, examples):
    def make(folder, recipe=RECIPE, identity="x", seed=0, train=None, validation=None, report=lambda text: None):
        return fit.Job(toy_spec, recipe, seed, train or examples(30),
                       examples(12, 1) if validation is None else validation, folder, identity, "cpu", report)
    return make


@pytest.fixture(scope="module")
def run(job):
    """Trains; the tensors of the file."""
    def train(folder, *arguments, **settings):
        training.train(job(folder, *arguments, **settings))
        return load_file(folder / "model.safetensors")
    return train


class Linear(nn.Module):
    """The mean of a linear head over time, with logits that spread well."""

    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(32, 3, 1)
        nn.init.normal_(self.head.weight, 0, 2)

    def forward(self, x):
        return self.head(x.transpose(1, 2)).mean(dim=(2, 3))


def test_learning_rate_by_hand():
    recipe = TrainingConfig(epochs=10, warmup_epochs=2, learning_rate=0.06)
    rates = [fit.learning_rate(step, 5, recipe) for step in range(50)]
    assert rates[0] == 0 and rates[5] == pytest.approx(0.03) and rates[10] == pytest.approx(0.06)
    assert rates[30] == pytest.approx(0.03)  # half way down the cosine
    assert rates[49] == pytest.approx(0.06 * 0.5 * (1 + math.cos(math.pi * 39 / 40)))
    assert max(rates) == pytest.approx(0.06)


def test_batches_divide_among_processes_and_cover_the_clips():
    order = np.arange(21)
    assert [len(batch) for batch in fit.batches_of(order, 8, 1)] == [8, 8, 5]
    assert [len(batch) for batch in fit.batches_of(order, 8, 2)] == [8, 8, 4]
    assert [len(batch) for batch in fit.batches_of(order, 10, 1)] == [10, 10]  # one clip is no batch
    with pytest.raises(InputError, match="too few training clips for a step on 1 process: 1"):
        fit.batches_of(order[:1], 8, 1)


def test_validation_shares_no_location_and_covers_the_scenes():
    rng = np.random.default_rng(0)
    clips = pd.DataFrame([(scene, f"{scene}-{place}") for scene in ("bus", "park", "tram") for place in range(20)
                          for _ in range(rng.integers(3, 9))], columns=["scene_label", "identifier"])
    held_out = splits.split_validation(clips, 0.1, seed=0)
    assert not set(clips.identifier[held_out]) & set(clips.identifier[~held_out])
    assert held_out.mean() == pytest.approx(0.1, abs=0.02)
    assert set(clips.scene_label[held_out]) == {"bus", "park", "tram"}
    assert (held_out == splits.split_validation(clips, 0.1, seed=0)).all()
    assert (held_out != splits.split_validation(clips, 0.1, seed=1)).any()
    assert not splits.split_validation(clips, 0, seed=0).any()


@pytest.mark.parametrize("places, scenes", [(list("xy") * 3, ["bus"] * 6),
                                            (list("abcdefghijkl"), ["bus", "park", "tram"] * 4)])
def test_too_little_to_hold_out(places, scenes):
    clips = pd.DataFrame({"scene_label": scenes, "identifier": places})
    with pytest.raises(InputError, match="cannot be divided into 10 parts"):
        splits.split_validation(clips, 0.1, 0)


def test_training_repeats_bit_for_bit(tmp_path, run):
    first, again, other = (run(tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_training_learns(tmp_path, run):
    run(tmp_path, TrainingConfig(epochs=30, batch_size=8, warmup_epochs=1, frequency_masks=0, time_masks=0,
                                 mixup_alpha=0))
    history = pd.read_csv(tmp_path / "history.csv")
    assert list(history) == list(fit.HISTORY) and list(history.epoch) == list(range(1, 31))
    assert history.validation_accuracy.iloc[-1] > 80 and history.train_loss.iloc[-1] < history.train_loss.iloc[0]


@pytest.mark.parametrize("epochs, averaging", [(1, 0), (3, 0), (3, 1.5)])
def test_a_killed_run_goes_on_to_the_same_file(tmp_path, epochs, averaging, run, kill_after):
    recipe = replace(RECIPE, averaging_epochs=averaging)
    run(tmp_path / "whole", recipe)
    kill_after(epochs, run, tmp_path / "killed", recipe)
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    said = []
    run(tmp_path / "killed", recipe, report=said.append)
    assert said[0] == f"resuming after epoch {epochs} of 4"
    assert len(said) == 1 + 4 - epochs
    whole, resumed = (tmp_path / name / "model.safetensors" for name in ("whole", "killed"))
    assert whole.read_bytes() == resumed.read_bytes()


def test_a_checkpoint_of_something_else_is_not_used(tmp_path, run, kill_after):
    kill_after(2, run, tmp_path)
    said = []
    run(tmp_path, identity="y", report=said.append)
    assert said[0].startswith("epoch 1/4")


def test_a_damaged_checkpoint_is_named(tmp_path, run):
    (tmp_path / "checkpoint.pt").write_bytes(b"PK\3\4 half a file")
    with pytest.raises(InputError, match="checkpoint.pt: not a usable checkpoint .*; remove it to train from"):
        run(tmp_path)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path, run, toy_spec):
    broken = Examples(lambda indices: np.full((len(indices), 32, toy_spec.features.frames), np.nan, np.float32),
                          np.zeros(8, np.int64))
    with pytest.raises(InputError, match="epoch 1: the training loss is nan; lower the learning rate"):
        run(tmp_path, train=broken)


def test_without_validation_the_history_is_empty_there(tmp_path, run, examples):
    run(tmp_path, validation=examples(0))
    assert pd.read_csv(tmp_path / "history.csv")[["validation_accuracy", "validation_log_loss"]].isna().all(axis=None)


def test_calibration_finds_the_temperature_that_was_put_in(tmp_path, job, examples):
    """Targets drawn from the softmax of the logits divided by 3: the best temperature is 3."""
    torch.manual_seed(0)
    model = Linear()
    clips = examples(4000)
    before = logits(model, clips.read, len(clips), 500, torch.device("cpu"))
    drawn = torch.multinomial(torch.softmax(before / 3, 1), 1).flatten().numpy()
    judged = replace(clips, targets=drawn)
    fitting = job(tmp_path, TrainingConfig(batch_size=500, calibrate=True), validation=judged)
    found = calibrate(model, fitting, fit.launch("cpu", "32-true"))
    assert found == pytest.approx(3, rel=0.1)
    after = logits(model, clips.read, len(clips), 500, torch.device("cpu"))
    torch.testing.assert_close(after, before / found, atol=1e-4, rtol=1e-4)


def test_the_temperature_of_a_pilot_needs_no_validation(tmp_path, job, run, examples):
    record = {"temperature": 2.5, "clips": 12, "locations": 3, "devices": ["a", "b"]}
    plain = run(tmp_path / "plain", validation=examples(0))
    training.train(replace(job(tmp_path / "scaled", validation=examples(0)), calibration=record))
    scaled = load_file(tmp_path / "scaled" / "model.safetensors")
    assert json.loads((tmp_path / "scaled" / "calibration.json").read_text()) == record
    for name, value in plain.items():
        factor = 2.5 if name.startswith("head.") else 1.0
        torch.testing.assert_close(scaled[name] * factor, value, rtol=1e-6, atol=0, msg=name)


def test_the_temperature_weighs_devices_alike_and_counts_locations():
    """Two devices whose best temperatures are 1 and 4; one has nine times as many clips."""
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 3, (20_000, 3))
    scale = np.where(np.arange(20_000) < 18_000, 1.0, 4.0)[:, None]
    drawn = (scores / scale + rng.gumbel(size=scores.shape)).argmax(axis=1)
    devices, many = np.where(np.arange(20_000) < 18_000, "a", "b"), np.arange(20_000).astype(str)

    def loss(log_t, chosen):
        return sklearn.metrics.log_loss(drawn[chosen], softmax(scores[chosen] / np.exp(log_t), axis=1))

    grid = np.arange(-0.5, 2, 0.01)
    balanced = [(loss(log_t, devices == "a") + loss(log_t, devices == "b")) / 2 for log_t in grid]
    assert np.log(best_temperature(scores, drawn, devices, many)) == pytest.approx(grid[np.argmin(balanced)], abs=0.01)
    few = [3 * value + log_t ** 2 / (2 * 0.5 ** 2) for value, log_t in zip(balanced, grid, strict=True)]
    assert grid[np.argmin(few)] < grid[np.argmin(balanced)] - 0.1  # the prior tells
    assert np.log(best_temperature(scores, drawn, devices, np.resize(["x", "y", "z"], 20_000))) == pytest.approx(
        grid[np.argmin(few)], abs=0.01)


def test_cuda_is_refused_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch, "cuda", SimpleNamespace(is_available=lambda: False))
    assert device_of("auto") == "cpu"
    with pytest.raises(InputError, match="--device cuda: no CUDA device"):
        device_of("cuda")


@pytest.mark.parametrize("settings", [{"channels_last": True}, {"precision": "bf16-mixed"},
                                      {"channels_last": True, "precision": "bf16-mixed"}])
def test_other_layouts_and_precisions_train_the_same_float32_model_file(tmp_path, settings, run):
    # slow steps, for fast ones multiply what rounding has made of the first gradients
    slow = replace(RECIPE, learning_rate=1e-3)
    plain, other = run(tmp_path / "plain", slow), run(tmp_path / "other", replace(slow, **settings))
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in other.values())
    loss = [pd.read_csv(tmp_path / name / "history.csv").train_loss[0] for name in ("plain", "other")]
    assert loss[0] == pytest.approx(loss[1], rel=0.02)  # the same clips and draws; later epochs drift apart
    assert list(plain) == list(other)


@pytest.mark.parametrize(("seconds", "epochs", "left"), [
    (0.5, 31, "15 s"), (0.5, 240, "120 s"), (0.5, 242, "2 min"), (119.0, 2, "119 s"), (60.0, 101, "100 min"),
    (4.0, 1, "0 s")])
def test_time_left(seconds, epochs, left):
    line = fit._progress([[1, 0.1, 2.0, math.nan, math.nan, seconds]], epochs)
    assert line.endswith(f"  {seconds:.1f} s, {left} left")
