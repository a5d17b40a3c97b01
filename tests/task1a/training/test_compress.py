import math
import re
import shutil
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from scipy.special import log_softmax, rel_entr, softmax
from torch import nn

from task1a import model_file
from task1a.compression import packed
from task1a.config import BCResNetASCConfig, CompressionConfig, TrainingConfig
from task1a.errors import InputError
from task1a.training import compress as compressing
from task1a.training import fit

RECIPE = TrainingConfig(epochs=2, batch_size=8, warmup_epochs=0, learning_rate=0.05, frequency_mask_bins=4,
                        time_mask_frames=3, roll_seconds=0.1)
ONE_SHOT = CompressionConfig(epochs=2, ratio=0.8)
SETTINGS = {"one_shot": ONE_SHOT, "iterative": replace(ONE_SHOT, schedule="iterative", pruning_epochs=2,
                                                       pruning_steps=2),
            "gradual": replace(ONE_SHOT, schedule="gradual", pruning_epochs=2, scope="layer", weight_scales="channel")}
QUICK = replace(RECIPE, epochs=1)
# of the convolutions of the toy network: stem 8 x 25; expansions 8 x 4 + 4 x 6 + 6 x 8 + 8 x 10; of n channels each of
# (2, 2, 2, 3) blocks 3n + 3n + n^2; head 3 x 10
WEIGHTS = 200 + 184 + 2 * 40 + 2 * 72 + 2 * 112 + 3 * 160 + 30
FILES = {"packed.safetensors", "packed.safetensors.xz", "history.csv", "checkpoint.pt"}
# float32 against float64
SINGLE = 1e-5
# half precision, of the biases, has 11 bits
HALF = 2 ** -10


@pytest.fixture(scope="module")
def run(toy_spec, examples):
    """Compresses; the tensors of the file."""
    def compress(folder, vanilla, settings=ONE_SHOT, teachers=(), recipe=RECIPE, identity="x",
                 validation=None, report=lambda text: None):
        validated = examples(8, 1) if validation is None else validation
        job = fit.Job(toy_spec, recipe, 0, examples(16), validated, folder, identity, "cpu", report)
        compressing.compress(job, settings, vanilla, teachers)
        return load_file(folder / "packed.safetensors")
    return compress


@pytest.fixture(scope="module")
def vanilla(tmp_path_factory, toy_spec):
    """A model file with weights of one size in all layers, so that pruning leaves something of every one."""
    torch.manual_seed(0)
    model = toy_spec.build()
    for layer in packed.convolutions(model).values():
        nn.init.normal_(layer.weight, 0, 0.3)
    path = tmp_path_factory.mktemp("vanilla") / "model.safetensors"
    model_file.save(path, packed.stored_state(model), toy_spec)
    return path


@pytest.fixture(scope="module")
def undisturbed(vanilla, tmp_path_factory, run):
    """Folder and reports of an undisturbed run, by its schedule and whether it has a teacher.

    Beside the folder lies a copy of it as it was after the first epoch, ``after_1``.
    """
    @cache
    def folder_and_reports(schedule, taught=False):
        folder, said = tmp_path_factory.mktemp("run") / "whole", []

        def report(text):
            said.append(text)
            if text.startswith("epoch 1/"):
                shutil.copytree(folder, folder.with_name("after_1"))

        run(folder, vanilla, SETTINGS[schedule], [vanilla] * taught, report=report)
        return folder, said
    return folder_and_reports


def pruned(tensors):
    weights = [value for value in tensors.values() if value.dtype == torch.int8]
    assert sum(value.numel() for value in weights) == WEIGHTS
    return sum(int((value == 0).sum()) for value in weights)


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
    loss = compressing.distillation_loss(torch.tensor(outputs), torch.tensor(targets),
                                     torch.tensor(np.log(probabilities)).float(), temperature, weights)
    assert loss.item() == pytest.approx(weights[0] * entropy + weights[1] * temperature ** 2 * divergence, rel=SINGLE)


def test_the_loss_of_a_student_that_is_its_teacher_is_that_of_the_labels():
    outputs, _, targets = map(torch.tensor, drawn())
    loss = compressing.distillation_loss(outputs, targets, torch.log_softmax(outputs / 3, dim=1), 3.0, (0.5, 9.0))
    assert loss.item() == pytest.approx(0.5 * nn.functional.cross_entropy(outputs, targets).item(), rel=SINGLE)


def test_the_gradient_is_t_times_the_difference_of_the_softened_probabilities():
    """d/dz T^2 KL(p || softmax(z / T)) = T (softmax(z / T) - p), and about (z - v) / classes at a high T."""
    outputs, teacher, targets = drawn()
    clips, classes = outputs.shape
    for temperature in (1.0, 4.0, 1_000.0):
        z = torch.tensor(outputs, dtype=torch.float64, requires_grad=True)
        said = torch.log_softmax(torch.tensor(teacher, dtype=torch.float64) / temperature, dim=1)
        compressing.distillation_loss(z, torch.tensor(targets), said, temperature, (0.0, 1.0)).backward()
        difference = softmax(outputs.astype(float) / temperature, 1) - softmax(teacher.astype(float) / temperature, 1)
        np.testing.assert_allclose(z.grad.numpy(), temperature * difference / clips, rtol=1e-9, atol=1e-12)
    centred = [values - values.mean(axis=1, keepdims=True) for values in (outputs.astype(float), teacher.astype(float))]
    np.testing.assert_allclose(z.grad.numpy(), (centred[0] - centred[1]) / classes / clips, atol=0.01)


def test_several_teachers_say_the_mean_of_their_softened_probabilities():
    clips = np.random.default_rng(0).normal(0, 1, (6, 1, 4, 1)).astype(np.float32)
    logits = clips[:, 0, :, 0].astype(float)
    for factors in ((2.0,), (1.0, -3.0, 0.5)):
        teacher = compressing.Teacher([Scaled(factor) for factor in factors], 2.5)
        mean = np.mean([softmax(factor * logits / 2.5, axis=1) for factor in factors], axis=0)
        np.testing.assert_allclose(teacher(torch.tensor(clips)).exp().numpy(), mean, rtol=SINGLE)
    assert not teacher(torch.tensor(clips, requires_grad=True)).requires_grad


def test_the_teacher_hears_the_augmented_clips_of_the_student(tmp_path, vanilla, monkeypatch, run):
    heard, learnt, original = [], [], []
    prepared, ask, augment = compressing.load_prepared, compressing.Teacher.__call__, fit.Augmentation.__call__

    def watched_model(*arguments):
        model, spec = prepared(*arguments)
        model.register_forward_pre_hook(lambda layer, x: learnt.append(x[0].clone()) if layer.training else None)
        return model, spec

    def watched_teacher(self, x):
        assert not any(layer.training for model in self.models for layer in model.modules())
        heard.append(x.clone())
        return ask(self, x)

    def watched_augment(self, x, *arguments):
        original.append(x.clone())
        return augment(self, x, *arguments)

    monkeypatch.setattr(compressing, "load_prepared", watched_model)
    monkeypatch.setattr(compressing.Teacher, "__call__", watched_teacher)
    monkeypatch.setattr(fit.Augmentation, "__call__", watched_augment)
    run(tmp_path, vanilla, teachers=[vanilla, vanilla])
    assert len(heard) == len(learnt) == 2 * 2
    assert all(torch.equal(x, y) for x, y in zip(heard, learnt, strict=True))
    assert not any(torch.equal(x, y) for x, y in zip(heard, original, strict=True))


@pytest.mark.parametrize("taught", [False, True], ids=["labels alone", "with a teacher"])
@pytest.mark.parametrize("schedule", ["one_shot", "iterative", "gradual"])
def test_a_killed_run_goes_on_to_the_same_files(tmp_path, vanilla, undisturbed, schedule, taught, run):
    whole, said = undisturbed(schedule, taught)
    folder = shutil.copytree(whole.with_name("after_1"), tmp_path / "killed")
    assert {path.name for path in folder.iterdir()} == {"history.csv", "checkpoint.pt"}
    resumed = []
    run(folder, vanilla, SETTINGS[schedule], [vanilla] * taught, report=resumed.append)
    assert resumed[0] == "resuming after epoch 1 of 2" and len(resumed) == len(said) == 3
    for name in ("packed.safetensors", "packed.safetensors.xz"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    assert {path.name for path in folder.iterdir()} == {path.name for path in whole.iterdir()} == FILES


def test_a_run_repeats_bit_for_bit_and_a_teacher_makes_a_difference(tmp_path, vanilla, undisturbed, run):
    def content(folder):
        return (folder / "packed.safetensors").read_bytes()

    run(tmp_path, vanilla)
    assert content(tmp_path) == content(undisturbed("one_shot")[0]) != content(undisturbed("one_shot", True)[0])


def test_a_checkpoint_of_something_else_is_not_used(tmp_path, vanilla, undisturbed, run, kill_after):
    folder = shutil.copytree(undisturbed("one_shot")[0].with_name("after_1"), tmp_path / "killed")
    kill_after(1, run, folder, vanilla, identity="y")


@pytest.mark.parametrize("schedule", ["one_shot", "iterative", "gradual"])
def test_what_is_reported_at_the_end_is_true_of_the_file(undisturbed, schedule, toy_spec):
    folder, said = undisturbed(schedule)
    model, spec = model_file.load(folder / "packed.safetensors")
    settings = SETTINGS[schedule]
    assert spec == replace(toy_spec, packing=packed.Packing(settings.weight_scales))
    layers = [layer.weight for layer in packed.convolutions(model).values()]
    zeros = [int((weight == 0).sum()) for weight in layers]
    if settings.scope == "layer":
        assert zeros == [math.ceil(0.8 * weight.numel() - 1e-6) for weight in layers]
    else:
        assert sum(zeros) == 1_074  # 0.8 x 1,342 is 1,073.6
    assert said[-1].startswith(f"{sum(zeros):,} of 1,342 convolution weights are pruned ({sum(zeros) / 13.42:.1f} %)")
    size, small = ((folder / name).stat().st_size for name in ("packed.safetensors", "packed.safetensors.xz"))
    assert said[-1].endswith(f"; {size:,} B on disk, {small:,} B as packed.safetensors.xz")


@pytest.mark.parametrize("settings", [
    {"ratio": 0.0}, {"ratio": 0.99},
    {"ratio": 0.9, "schedule": "iterative", "pruning_epochs": 2, "pruning_steps": 5},
    {"ratio": 0.9, "schedule": "gradual"}])
def test_the_pruned_part_of_the_file_is_the_ratio(tmp_path, vanilla, settings, run):
    said = []
    recipe = RECIPE if "pruning_epochs" in settings else QUICK
    tensors = run(tmp_path, vanilla, replace(ONE_SHOT, **settings), report=said.append, recipe=recipe)
    assert pruned(tensors) == math.ceil(settings["ratio"] * WEIGHTS - 1e-6)
    empty = [name.removesuffix(".weight") for name, value in tensors.items()
             if value.dtype == torch.int8 and not value.any()]
    named = re.search(r"%\), including all of (.*);", said[-1])
    assert sorted(named[1].split(", ") if named else []) == sorted(empty)


@pytest.mark.parametrize("settings", [{"target_bytes": 2_037, "schedule": "gradual"},
                                      {"target_bytes": 2_857, "weight_scales": "channel", "scope": "layer"},
                                      {"target_bytes": 2_345}])
def test_the_wanted_size_is_reached(tmp_path, vanilla, settings, run):
    tensors = run(tmp_path, vanilla, CompressionConfig(epochs=1, **settings), recipe=QUICK)
    layers = sum(value.dtype == torch.int8 for value in tensors.values())
    others = sum(value.numel() * value.element_size() for value in tensors.values() if value.dtype != torch.int8)
    room = settings["target_bytes"] - others
    kept = WEIGHTS - pruned(tensors)
    assert kept == room if settings.get("scope") != "layer" else room - layers < kept <= room
    assert sum(int(value.count_nonzero()) * value.element_size() for value in tensors.values()) <= (
        settings["target_bytes"])


def test_a_size_that_is_out_of_reach_is_told(tmp_path, vanilla, undisturbed, run):
    others = sum(value.numel() * value.element_size() for value in
                 load_file(undisturbed("one_shot")[0] / "packed.safetensors").values() if value.dtype != torch.int8)
    with pytest.raises(InputError, match=f"compression.target_bytes={others}: out of reach: {others:,} B") as error:
        run(tmp_path / "a", vanilla, replace(ONE_SHOT, target_bytes=others))
    assert "\n" not in str(error.value) and not (tmp_path / "a").exists()
    one_left = run(tmp_path / "b", vanilla, replace(ONE_SHOT, target_bytes=others + 1), recipe=QUICK)
    assert pruned(one_left) == WEIGHTS - 1


@pytest.mark.parametrize("name, change", [
    ("labels", lambda labels: labels[::-1]), ("labels", lambda labels: labels[:2]),
    ("features", lambda features: replace(features, log_floor=1e-6))])
def test_a_teacher_of_another_task_is_refused(tmp_path, vanilla, name, change, run, toy_spec):
    spec = replace(toy_spec, **{name: change(getattr(toy_spec, name))})
    path = tmp_path / "teacher.safetensors"
    model_file.save(path, packed.stored_state(spec.build()), spec)
    with pytest.raises(InputError, match=f"teacher.safetensors: the teacher was trained on different {name};"):
        run(tmp_path, vanilla, teachers=[vanilla, path])


def test_a_teacher_may_be_of_another_width_or_packed_itself(tmp_path, vanilla, undisturbed, run, toy_spec):
    spec = replace(toy_spec, model=BCResNetASCConfig(tau=0.8))
    wide = tmp_path / "wide.safetensors"
    model_file.save(wide, packed.stored_state(spec.build()), spec)
    run(tmp_path, vanilla, teachers=[wide, undisturbed("gradual")[0] / "packed.safetensors"], recipe=QUICK)
    assert (tmp_path / "packed.safetensors").is_file()


@pytest.mark.parametrize("schedule", ["one_shot", "iterative", "gradual"])
def test_the_last_validation_is_that_of_the_file(undisturbed, schedule, examples):
    folder, _ = undisturbed(schedule, True)
    model, _ = model_file.load(folder / "packed.safetensors")
    figures = fit.validate(model, examples(8, 1), RECIPE.batch_size, torch.device("cpu"))
    noted = torch.load(folder / "checkpoint.pt", weights_only=True)["history"]
    assert tuple(noted[-1][3:5]) == figures
    history = pd.read_csv(folder / "history.csv")
    assert list(history) == list(fit.HISTORY) and list(history.epoch) == [1, 2]
    last = history.iloc[-1]
    assert (last.validation_accuracy, last.validation_log_loss) == tuple(float(f"{value:.6g}") for value in figures)


def test_without_validation_nothing_is_validated(tmp_path, vanilla, run, examples):
    run(tmp_path, vanilla, recipe=replace(QUICK, calibrate=True), validation=examples(0))
    assert pd.read_csv(tmp_path / "history.csv")[["validation_accuracy", "validation_log_loss"]].isna().all(axis=None)


@pytest.mark.parametrize("schedule", ["one_shot", "gradual"])
def test_calibration_changes_the_scale_of_the_head_and_nothing_else(tmp_path, vanilla, undisturbed, schedule, run,
                                                                     examples):
    folder, _ = undisturbed(schedule)
    plain = load_file(folder / "packed.safetensors")
    calibrated = run(tmp_path, vanilla, SETTINGS[schedule], recipe=replace(RECIPE, calibrate=True))
    changed = {name for name in plain if not torch.equal(plain[name], calibrated[name])}
    assert changed == {"head.weight_scale", "head.bias"}
    scales = plain["head.weight_scale"], calibrated["head.weight_scale"]
    temperature = (scales[0].max() / scales[1].max()).item()
    assert temperature != pytest.approx(1, abs=0.01)
    torch.testing.assert_close(scales[0], scales[1] * temperature, rtol=SINGLE, atol=0)
    biases = plain["head.bias"].float(), calibrated["head.bias"].float()
    torch.testing.assert_close(biases[0], biases[1] * temperature, rtol=HALF, atol=0)
    losses = [fit.validate(model_file.load(path / "packed.safetensors")[0], examples(8, 1), 8, torch.device("cpu"))[1]
              for path in (folder, tmp_path)]
    assert losses[1] < losses[0]


def test_averaged_weights_are_pruned_like_the_last_ones(tmp_path, vanilla, undisturbed, run):
    plain = load_file(undisturbed("gradual")[0] / "packed.safetensors")
    averaged = run(tmp_path, vanilla, SETTINGS["gradual"], recipe=replace(RECIPE, averaging_epochs=1))
    weights = [name for name, value in plain.items() if value.dtype == torch.int8]
    assert all(torch.equal(plain[name] != 0, averaged[name] != 0) for name in weights)
    assert any(not torch.equal(plain[name], averaged[name]) for name in weights)


def test_statistics_are_reestimated_over_the_training_clips(tmp_path, vanilla, run, monkeypatch):
    """They are the same whatever the validation clips are, and others than without."""
    recipe = replace(RECIPE, reestimate_norms=True)
    seen = []
    reestimate = compressing.reestimate
    monkeypatch.setattr(compressing, "reestimate", lambda model, clips, *rest: seen.append(len(clips)) or reestimate(
        model, clips, *rest))
    run(tmp_path, vanilla, recipe=recipe)
    assert seen == [16]  # there are 8 for validation
