import math
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from scipy.special import log_softmax, rel_entr, softmax
from torch import nn

from task1a import model_file
from task1a.compression import packed
from task1a.config import CompressionConfig, FeatureConfig, ModelConfig, TrainingConfig
from task1a.errors import InputError
from task1a.model_file import ModelSpec
from task1a.training import distill, fit

SPEC = ModelSpec(ModelConfig(tau=0.4, residual_norm="none"),
                 FeatureConfig(n_mels=32, n_fft=1024, window=1024, hop=800, clip_seconds=1.0), ("bus", "park", "tram"))
RECIPE = TrainingConfig(epochs=3, batch_size=8, warmup_epochs=1, learning_rate=0.05, frequency_mask_bins=4,
                        time_mask_frames=3, roll_seconds=0.1)
ONE_SHOT = CompressionConfig(epochs=3, ratio=0.8)
SETTINGS = {"one_shot": ONE_SHOT, "iterative": replace(ONE_SHOT, schedule="iterative", pruning_epochs=2,
                                                       pruning_steps=2, fold_batch_norms=True),
            "gradual": replace(ONE_SHOT, schedule="gradual", pruning_epochs=3, scope="layer", weight_scales="channel")}
WEIGHTS = 1_188  # of the convolutions of SPEC
FILES = {"packed.safetensors", "packed.safetensors.xz", "history.csv", "checkpoint.pt"}
# float32 against float64
SINGLE = 1e-5
# half precision, of the biases, has 11 bits
HALF = 2 ** -10


def examples(clips, seed=0):
    """Clips whose class is the third of the spectrum that is loud."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 3, clips)
    stored = rng.normal(0, 1, (clips, 32, SPEC.features.frames)).astype(np.float32)
    for clip, target in zip(stored, targets, strict=True):
        clip[target * 11:target * 11 + 10] += 2
    return fit.Examples(lambda indices: stored[indices], targets)


def job(folder, recipe=RECIPE, identity="x", resume=True, validation=examples(8, 1), report=lambda text: None):
    return fit.Job(SPEC, recipe, 0, examples(16), validation, folder, identity, "cpu", resume, report)


@pytest.fixture(scope="module")
def vanilla(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vanilla")
    fit.train(job(folder))
    return folder / "model.safetensors"


def run(folder, vanilla, settings=ONE_SHOT, teachers=(), **changes):
    """Compress; the tensors of the file."""
    distill.compress(job(folder, **changes), settings, vanilla, teachers)
    return load_file(folder / "packed.safetensors")


def pruned(tensors):
    weights = [value for value in tensors.values() if value.dtype == torch.int8]
    assert sum(value.numel() for value in weights) == WEIGHTS
    return sum(int((value == 0).sum()) for value in weights)


class Killed(Exception):
    pass


def kill_after(epochs):
    def report(text):
        if text.startswith(f"epoch {epochs}/"):
            raise Killed
    return report


class Scaled(nn.Module):
    """Logits that are the values of the clip times a factor."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x[:, 0, :, 0]


def drawn(clips=5, classes=4):
    """Logits of a student and of a teacher, and targets, float32."""
    rng = np.random.default_rng(3)
    outputs, teacher = (rng.normal(0, 3, (clips, classes)).astype(np.float32) for _ in range(2))
    return outputs, teacher, rng.dirichlet(np.ones(classes), clips).astype(np.float32)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 7.5])
@pytest.mark.parametrize("weights", [(0.5, 0.5), (1.0, 0.0), (0.0, 1.0), (0.2, 3.0)])
def test_the_loss_is_the_formula(temperature, weights):
    outputs, teacher, targets = drawn()
    probabilities = softmax(teacher.astype(float) / temperature, axis=1)
    entropy = -(targets * log_softmax(outputs.astype(float), axis=1)).sum(axis=1).mean()
    divergence = rel_entr(probabilities, softmax(outputs.astype(float) / temperature, axis=1)).sum(axis=1).mean()
    loss = distill.distillation_loss(torch.tensor(outputs), torch.tensor(targets),
                                     torch.tensor(np.log(probabilities)).float(), temperature, weights)
    assert loss.item() == pytest.approx(weights[0] * entropy + weights[1] * temperature ** 2 * divergence, rel=SINGLE)


def test_the_loss_of_a_student_that_is_its_teacher_is_that_of_the_labels():
    outputs, _, targets = map(torch.tensor, drawn())
    loss = distill.distillation_loss(outputs, targets, torch.log_softmax(outputs / 3, dim=1), 3.0, (0.5, 9.0))
    assert loss.item() == pytest.approx(0.5 * nn.functional.cross_entropy(outputs, targets).item(), rel=SINGLE)


def test_the_gradient_is_t_times_the_difference_of_the_softened_probabilities():
    """d/dz T^2 KL(p || softmax(z / T)) = T (softmax(z / T) - p), and about (z - v) / classes at a high T."""
    outputs, teacher, targets = drawn()
    clips, classes = outputs.shape
    for temperature in (1.0, 4.0, 1_000.0):
        z = torch.tensor(outputs, dtype=torch.float64, requires_grad=True)
        said = torch.log_softmax(torch.tensor(teacher, dtype=torch.float64) / temperature, dim=1)
        distill.distillation_loss(z, torch.tensor(targets), said, temperature, (0.0, 1.0)).backward()
        difference = softmax(outputs.astype(float) / temperature, 1) - softmax(teacher.astype(float) / temperature, 1)
        np.testing.assert_allclose(z.grad.numpy(), temperature * difference / clips, rtol=1e-9, atol=1e-12)
    centred = [values - values.mean(axis=1, keepdims=True) for values in (outputs.astype(float), teacher.astype(float))]
    np.testing.assert_allclose(z.grad.numpy(), (centred[0] - centred[1]) / classes / clips, atol=0.01)


def test_several_teachers_say_the_mean_of_their_softened_probabilities():
    clips = np.random.default_rng(0).normal(0, 1, (6, 1, 4, 1)).astype(np.float32)
    logits = clips[:, 0, :, 0].astype(float)
    for factors in ((2.0,), (1.0, -3.0, 0.5)):
        teacher = distill.Teacher([Scaled(factor) for factor in factors], 2.5)
        mean = np.mean([softmax(factor * logits / 2.5, axis=1) for factor in factors], axis=0)
        np.testing.assert_allclose(teacher(torch.tensor(clips)).exp().numpy(), mean, rtol=SINGLE)
    assert not teacher(torch.tensor(clips, requires_grad=True)).requires_grad


def test_the_teacher_hears_the_augmented_clips_of_the_student(tmp_path, vanilla, monkeypatch):
    heard, learnt, original = [], [], []
    prepared, ask, augment = distill.prepared, distill.Teacher.__call__, fit.augment

    def watched_model(*arguments):
        model, spec = prepared(*arguments)
        model.register_forward_pre_hook(lambda layer, x: learnt.append(x[0].clone()) if layer.training else None)
        return model, spec

    def watched_teacher(self, x):
        assert not any(layer.training for model in self.models for layer in model.modules())
        heard.append(x.clone())
        return ask(self, x)

    def watched_augment(x, *arguments):
        original.append(x.clone())
        return augment(x, *arguments)

    monkeypatch.setattr(distill, "prepared", watched_model)
    monkeypatch.setattr(distill.Teacher, "__call__", watched_teacher)
    monkeypatch.setattr(fit, "augment", watched_augment)
    run(tmp_path, vanilla, teachers=[vanilla, vanilla])
    assert len(heard) == len(learnt) == 3 * 2
    assert all(torch.equal(x, y) for x, y in zip(heard, learnt, strict=True))
    assert not any(torch.equal(x, y) for x, y in zip(heard, original, strict=True))


@pytest.mark.parametrize("taught", [False, True], ids=["labels alone", "with a teacher"])
@pytest.mark.parametrize("schedule, epochs", [("one_shot", 1), ("iterative", 1), ("gradual", 2)])
def test_a_run_repeats_and_goes_on_after_a_kill_to_the_same_file(tmp_path, vanilla, schedule, epochs, taught):
    settings, teachers = SETTINGS[schedule], [vanilla] * taught
    said = []
    tensors = run(tmp_path / "whole", vanilla, settings, teachers, report=said.append)
    folder = tmp_path / "killed"
    with pytest.raises(Killed):
        run(folder, vanilla, settings, teachers, report=kill_after(epochs))
    assert {path.name for path in folder.iterdir()} == {"history.csv", "checkpoint.pt"}
    resumed = []
    run(folder, vanilla, settings, teachers, report=resumed.append)
    assert resumed[0] == f"going on after epoch {epochs} of 3" and len(resumed) == len(said) + 1 - epochs
    for name in ("packed.safetensors", "packed.safetensors.xz"):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert {path.name for path in folder.iterdir()} == {path.name for path in (tmp_path / "whole").iterdir()} == FILES
    # 0.8 of the weights, or of those of every layer, rounded up
    layers = [value for value in tensors.values() if value.dtype == torch.int8]
    expected = sum(math.ceil(0.8 * v.numel() - 1e-9) for v in layers) if schedule == "gradual" else 951
    assert pruned(tensors) == expected
    assert said[-1].startswith(f"{expected:,} of 1,188 convolution weights are pruned ({expected / 11.88:.1f} %)")
    size, small = ((folder / name).stat().st_size for name in ("packed.safetensors", "packed.safetensors.xz"))
    assert f"{size:,} B on disk, {small:,} B as packed.safetensors.xz" in said[-1]
    assert model_file.load(folder / "packed.safetensors")[1].packing == packed.Packing(
        settings.weight_scales, settings.fold_batch_norms)


def test_the_same_run_is_the_same_and_a_teacher_or_another_seed_makes_a_difference(tmp_path, vanilla):
    first = run(tmp_path / "a", vanilla)
    assert (tmp_path / "a" / "history.csv").is_file()
    for name, changes in (("again", {}), ("taught", {"teachers": [vanilla]})):
        other = run(tmp_path / name, vanilla, **changes)
        assert all(torch.equal(first[key], other[key]) for key in first) == (name == "again")
    distill.compress(replace(job(tmp_path / "seed"), seed=1), ONE_SHOT, vanilla, [])
    assert (tmp_path / "seed" / "packed.safetensors").read_bytes() != (
        tmp_path / "a" / "packed.safetensors").read_bytes()


@pytest.mark.parametrize("changes", [{"identity": "y"}, {"resume": False}])
def test_a_checkpoint_of_something_else_is_not_used(tmp_path, vanilla, changes):
    with pytest.raises(Killed):
        run(tmp_path, vanilla, report=kill_after(2))
    said = []
    run(tmp_path, vanilla, report=said.append, **changes)
    assert said[0].startswith("epoch 1/3")


@pytest.mark.parametrize("settings", [
    {"ratio": 0.0}, {"ratio": 0.37}, {"ratio": 0.99},
    {"ratio": 0.9, "schedule": "iterative", "pruning_epochs": 3, "pruning_steps": 5},
    {"ratio": 0.9, "schedule": "gradual"}])
def test_the_pruned_part_of_the_file_is_the_ratio(tmp_path, vanilla, settings):
    said = []
    tensors = run(tmp_path, vanilla, replace(ONE_SHOT, **settings), report=said.append)
    assert pruned(tensors) == math.ceil(settings["ratio"] * WEIGHTS - 1e-6)
    empty = [name.removesuffix(".weight") for name, value in tensors.items()
             if value.dtype == torch.int8 and not value.any()]
    named = re.search(r"%\), in (.*) all of them;", said[-1])
    assert sorted(named[1].split(", ") if named else []) == sorted(empty)


@pytest.mark.parametrize("settings", [{"target_bytes": 4_500}, {"target_bytes": 4_500, "schedule": "gradual"},
                                      {"target_bytes": 5_000, "weight_scales": "channel", "scope": "layer"},
                                      {"target_bytes": 4_001, "fold_batch_norms": True}])
def test_the_wanted_size_is_reached(tmp_path, vanilla, settings):
    tensors = run(tmp_path, vanilla, CompressionConfig(epochs=3, **settings))
    layers = sum(value.dtype == torch.int8 for value in tensors.values())
    others = sum(value.numel() * value.element_size() for value in tensors.values() if value.dtype != torch.int8)
    room = settings["target_bytes"] - others
    kept = WEIGHTS - pruned(tensors)
    assert kept == room if settings.get("scope") != "layer" else room - layers < kept <= room
    assert sum(int(value.count_nonzero()) * value.element_size() for value in tensors.values()) <= (
        settings["target_bytes"])


def test_a_size_that_is_out_of_reach_is_told(tmp_path, vanilla):
    others = sum(value.numel() * value.element_size() for value in run(tmp_path / "a", vanilla).values()
                 if value.dtype != torch.int8)
    with pytest.raises(InputError, match=f"compression.target_bytes={others}: out of reach, for {others:,} B are "
                                         "taken by what is not pruned") as error:
        run(tmp_path / "b", vanilla, replace(ONE_SHOT, target_bytes=others))
    assert "\n" not in str(error.value) and not (tmp_path / "b").exists()
    assert pruned(run(tmp_path / "c", vanilla, replace(ONE_SHOT, target_bytes=others + 1))) == WEIGHTS - 1


@pytest.mark.parametrize("change, name", [({"labels": ("bus", "tram", "park")}, "labels"),
                                          ({"labels": ("bus", "park")}, "labels"),
                                          ({"features": replace(SPEC.features, log_floor=1e-6)}, "features")])
def test_a_teacher_of_another_task_is_refused(tmp_path, vanilla, change, name):
    spec = replace(SPEC, **change)
    path = tmp_path / "teacher.safetensors"
    model_file.save(path, packed.stored_state(spec.build()), spec)
    with pytest.raises(InputError, match=f"teacher.safetensors: a teacher of other {name} than the model has"):
        run(tmp_path, vanilla, teachers=[vanilla, path])


def test_a_teacher_may_be_of_another_width_or_packed_itself(tmp_path, vanilla):
    spec = replace(SPEC, model=ModelConfig(tau=0.8))
    wide = tmp_path / "wide.safetensors"
    model_file.save(wide, packed.stored_state(spec.build()), spec)
    run(tmp_path / "first", vanilla, teachers=[wide])
    run(tmp_path / "second", vanilla, teachers=[wide, tmp_path / "first" / "packed.safetensors"])


@pytest.mark.parametrize("schedule", ["one_shot", "iterative", "gradual"])
def test_the_last_validation_is_that_of_the_file(tmp_path, vanilla, schedule):
    run(tmp_path, vanilla, SETTINGS[schedule], [vanilla])
    model, _ = model_file.load(tmp_path / "packed.safetensors")
    figures = fit.validate(model, examples(8, 1), RECIPE.batch_size, torch.device("cpu"))
    noted = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["history"]
    assert tuple(noted[-1][3:5]) == figures
    history = pd.read_csv(tmp_path / "history.csv")
    assert list(history) == list(fit.HISTORY) and list(history.epoch) == [1, 2, 3]
    last = history.iloc[-1]
    assert (last.validation_accuracy, last.validation_log_loss) == tuple(float(f"{value:.6g}") for value in figures)


def test_without_validation_nothing_is_validated(tmp_path, vanilla):
    run(tmp_path, vanilla, recipe=replace(RECIPE, calibrate=True), validation=examples(0))
    assert pd.read_csv(tmp_path / "history.csv")[["validation_accuracy", "validation_log_loss"]].isna().all(axis=None)


@pytest.mark.parametrize("schedule", ["one_shot", "gradual"])
def test_calibration_changes_the_scale_of_the_head_and_nothing_else(tmp_path, vanilla, schedule):
    plain = run(tmp_path / "plain", vanilla, SETTINGS[schedule])
    calibrated = run(tmp_path / "calibrated", vanilla, SETTINGS[schedule], recipe=replace(RECIPE, calibrate=True))
    changed = {name for name in plain if not torch.equal(plain[name], calibrated[name])}
    assert changed == {"head.weight_scale", "head.bias"}
    scales = plain["head.weight_scale"], calibrated["head.weight_scale"]
    temperature = (scales[0].max() / scales[1].max()).item()
    assert temperature != pytest.approx(1, abs=0.01)
    torch.testing.assert_close(scales[0], scales[1] * temperature, rtol=SINGLE, atol=0)
    torch.testing.assert_close(plain["head.bias"].float(), calibrated["head.bias"].float() * temperature, rtol=HALF,
                               atol=0)
    losses = [fit.validate(model_file.load(tmp_path / name / "packed.safetensors")[0], examples(8, 1), 8,
                           torch.device("cpu"))[1] for name in ("plain", "calibrated")]
    assert losses[1] < losses[0]
