"""The choice of precision and memory format: what is measured, what is chosen, and that a training keeps to it."""
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from task1a.config import CompressionConfig, TrainingConfig
from task1a.errors import InputError
from task1a.training import compress as compressing
from task1a.training import fit, precision
from task1a.training import train as training

RECIPE = TrainingConfig(epochs=2, batch_size=8, warmup_epochs=0, learning_rate=0.01, frequency_mask_bins=4,
                        time_mask_frames=3, roll_seconds=0.1, precision="auto")
CPU = torch.device("cpu")
FAST = "bf16-mixed channels_last"
EXPLICIT = replace(RECIPE, precision="bf16-mixed", channels_last=True)
SECONDS = {"32-true contiguous": 4.0, "32-true channels_last": 3.0, "bf16-mixed contiguous": 2.5, FAST: 2.0}


@pytest.fixture
def job(toy_spec, examples, tmp_path):
    def make(name, recipe=RECIPE, identity="x", report=lambda text: None):
        return fit.Job(toy_spec, recipe, 0, examples(24), examples(8, 1), tmp_path / name, identity, "cpu", report)
    return make


@pytest.fixture
def trained(job):
    """Trains; the model file."""
    def train(*arguments, **settings):
        made = job(*arguments, **settings)
        training.train(made)
        return (made.folder / "model.safetensors").read_bytes()
    return train


@pytest.fixture
def measured(monkeypatch):
    """Gives the measurement its result; the list of the numbers of clips that it is asked for."""
    def give(seconds):
        asked = []

        def measure(spec, clips, device):
            asked.append(clips)
            return seconds

        monkeypatch.setattr(precision, "measure", measure)
        return asked
    return give


class Probe(nn.Module):
    """A convolution that records how it is called."""

    def __init__(self, calls):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)
        self.calls = calls

    def forward(self, x):
        layout = self.conv.weight.is_contiguous(memory_format=torch.channels_last)
        y = self.conv(x)
        call = {"shape": tuple(x.shape), "channels_last": layout, "dtype": y.dtype, "training": self.training}
        self.conv.weight.register_hook(lambda gradient: call.update(backward=True))
        self.calls.append(call)
        return y.mean(dim=(2, 3))


@pytest.fixture
def probe():
    """The specification of a network of a :class:`Probe`, and its calls."""
    calls = []
    return SimpleNamespace(build=lambda: Probe(calls), input_shape=(2, 8, 9), labels=("a", "b", "c")), calls


@pytest.mark.parametrize("seconds, choice", [
    ({"32-true contiguous": 1.0, "32-true channels_last": 0.91, FAST: 0.95}, "32-true contiguous"),
    ({"32-true contiguous": 1.0, "32-true channels_last": 0.89, FAST: 0.88}, FAST),
    ({"32-true contiguous": 1.0, "32-true channels_last": 3.0, FAST: 7.0}, "32-true contiguous"),
    ({"bf16-mixed contiguous": 2.0, FAST: 3.0}, "bf16-mixed contiguous"),  # float32 does not fit into the memory
    ({}, "32-true contiguous"),
])
def test_float32_is_left_only_for_something_faster(seconds, choice):
    assert precision.fastest(seconds) == choice


def test_forward_and_backward_passes_of_every_candidate_are_measured(probe):
    spec, calls = probe
    seconds = precision.measure(spec, 5, CPU)
    assert list(seconds) == list(precision.CANDIDATES) and all(value > 0 for value in seconds.values())
    assert all(call["shape"] == (5, 2, 8, 9) and call["training"] and call["backward"] for call in calls)
    kinds = [(call["dtype"], call["channels_last"]) for call in calls]
    each = [(torch.float32, False), (torch.float32, True), (torch.bfloat16, False), (torch.bfloat16, True)]
    assert kinds == each + 3 * each  # the first step of each, then in turn


def test_the_median_counts_and_a_hopeless_candidate_is_dropped(monkeypatch):
    steps = {"32-true contiguous": [9, 1, 5, 2], "32-true channels_last": [4, 3, 3, 1],
             "bf16-mixed contiguous": [13, "not called"], FAST: [2, 9, 1, 1]}
    names = iter(steps)

    def scripted(*arguments, **settings):
        times = iter(steps[next(names)])
        return lambda: next(times)

    monkeypatch.setattr(precision, "_step", scripted)
    assert precision.measure(None, 8, CPU) == {"32-true contiguous": 2, "32-true channels_last": 3,
                                               "bf16-mixed contiguous": 13, FAST: 1}


def test_a_slow_first_step_of_less_than_some_seconds_is_forgiven(monkeypatch):
    """It may have spent its time on loading the kernels of a GPU."""
    times = iter([0.1, 0.1, 2.0, 2.0, *4 * [1, 1, 0.01, 0.01]])
    monkeypatch.setattr(precision, "_step", lambda *arguments, **settings: lambda: next(times))
    assert precision.measure(None, 8, CPU)[FAST] == 0.01


def test_what_the_device_cannot_compute_is_left_out(probe, monkeypatch):
    spec, _ = probe
    forward = Probe.forward

    def fails(self, x):
        if torch.is_autocast_enabled("cpu"):
            raise torch.OutOfMemoryError
        return forward(self, x)

    monkeypatch.setattr(Probe, "forward", fails)
    assert list(precision.measure(spec, 5, CPU)) == ["32-true contiguous", "32-true channels_last"]


def test_the_choice_is_trained_with_recorded_and_reported(job, trained, measured):
    asked, said = measured(SECONDS), []
    assert trained("auto", report=said.append) == trained("explicit", EXPLICIT) != trained(
        "plain", replace(RECIPE, precision="32-true"))
    record = json.loads((job("auto").folder / "precision.json").read_text())
    assert record == {"identity": "x", "choice": FAST, "seconds": SECONDS, "clips": 8}
    assert said[0] == ("precision: bf16-mixed channels_last (a step of 8 clips: 32-true contiguous 4.000 s, 32-true "
                       "channels_last 3.000 s, bf16-mixed contiguous 2.500 s, bf16-mixed channels_last 2.000 s)")
    assert asked == [8] and not (job("explicit").folder / "precision.json").exists()


@pytest.mark.parametrize("batch_size, clips", [(4, 4), (64, 8)])
def test_a_few_clips_are_enough_on_a_cpu(job, measured, batch_size, clips):
    asked = measured(SECONDS)
    precision.resolved(job("auto", replace(RECIPE, batch_size=batch_size)))
    assert asked == [clips]


def test_a_resumed_training_keeps_to_the_choice(trained, measured, kill_after):
    measured(SECONDS)
    whole = trained("whole")
    kill_after(1, trained, "killed")
    asked, said = measured({"32-true contiguous": 1.0}), []
    assert trained("killed", report=said.append) == whole
    assert not asked and said[:2] == ["precision: bf16-mixed channels_last, as before", "resuming after epoch 1 of 2"]


def test_another_training_is_measured_again(job, measured):
    measured(SECONDS)
    precision.resolved(job("auto"))
    measured({"32-true contiguous": 1.0})
    assert precision.resolved(job("auto", identity="y")).recipe == replace(RECIPE, precision="32-true")


def test_the_measurement_does_not_disturb_the_training(trained, monkeypatch):
    """It draws weights and clips, and the training must draw what it would have drawn without it."""
    monkeypatch.setattr(precision, "fastest", lambda seconds: "32-true contiguous")
    assert trained("auto") == trained("plain", replace(RECIPE, precision="32-true"))


def test_a_compression_is_measured_as_well(job, trained, measured, tmp_path):
    measured(SECONDS)
    trained("vanilla", EXPLICIT)
    vanilla = tmp_path / "vanilla" / "model.safetensors"
    packed = []
    for name, recipe in (("auto", RECIPE), ("explicit", EXPLICIT)):
        compressing.compress(job(name, recipe), CompressionConfig(epochs=2, ratio=0.5), vanilla, [vanilla])
        packed.append((tmp_path / name / "packed.safetensors").read_bytes())
    assert packed[0] == packed[1]
    assert json.loads((tmp_path / "auto" / "precision.json").read_text())["choice"] == FAST


def test_the_layout_of_a_training_is_not_imposed_on_its_teacher(job, toy_spec):
    """A network in the other layout computes in that of its clips, and a teacher stays contiguous."""
    made = job("taught", replace(EXPLICIT, precision="32-true"))
    model, layouts = toy_spec.build(), []
    model.stem[0].register_forward_hook(lambda layer, clips, y: layouts.append(
        y.is_contiguous(memory_format=torch.channels_last)))

    def loss(x, outputs, targets):
        assert x.stride() == torch.empty(x.shape).stride()
        return training.cross_entropy(x, outputs, targets)

    fit.fit(made, fit.launch("cpu", "32-true"), model, loss)
    assert all(layouts[:3])  # the steps of the first epoch


@pytest.mark.parametrize("rank", [0, 1])
def test_all_processes_use_the_choice_of_the_first(job, measured, monkeypatch, rank):
    asked, sent = measured(SECONDS), []

    def broadcast(choice):
        sent.append(choice)
        return FAST

    group = SimpleNamespace(global_rank=rank, world_size=2, device=CPU, broadcast=broadcast)
    monkeypatch.setattr(precision, "launch", lambda device, kind: group)
    made = job("auto")
    assert precision.resolved(made).recipe == EXPLICIT
    assert (len(asked), sent) == ((1, [FAST]) if rank == 0 else (0, [None]))
    assert made.folder.exists() == (rank == 0)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"identity": "x", "choice": "64-true"}',
                                     '{"identity": "x", "choice": []}'])
def test_a_damaged_record_is_named(job, content):
    made = job("auto")
    made.folder.mkdir()
    (made.folder / "precision.json").write_text(content)
    with pytest.raises(InputError, match="precision.json: not a record of the chosen precision; remove it"):
        precision.resolved(made)


def test_a_memory_format_beside_auto_is_refused():
    with pytest.raises(ValueError, match="training.channels_last=true contradicts training.precision=auto"):
        TrainingConfig(precision="auto", channels_last=True)
