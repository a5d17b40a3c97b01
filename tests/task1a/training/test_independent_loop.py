"""Trainings against their recipe, written out step by step in float64 with torch's own optimizer.

Only the seeds of the generators and the order in which they are drawn from are taken over from the package: they are
what makes a training repeatable. The network is one without kinks, in which rounding does not grow from step to step.
"""
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import log_loss
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from task1a import model_file
from task1a.config import CompressionConfig, TrainingConfig
from task1a.models import networks
from task1a.training import fit
from task1a.training.compress import compress
from task1a.training.train import train as train_model

SEED, CLIPS, BATCH, EPOCHS, WARMUP, PEAK = 3, 30, 8, 3, 1, 0.06
BINS, FRAMES, CLASSES = 32, 21, 3
MASK_BINS, MASK_FRAMES = 6, 4
ROLL_FRAMES = 5  # 0.25 s of frames that are 800 samples of 16 kHz apart
# momentum 0.9, weight decay 1e-3, mixup alpha 0.3, and two masks an axis that hold the clip's mean are the defaults
RECIPE = TrainingConfig(epochs=EPOCHS, batch_size=BATCH, warmup_epochs=WARMUP, learning_rate=PEAK, roll_seconds=0.25,
                        frequency_mask_bins=MASK_BINS, time_mask_frames=MASK_FRAMES)
# float32 against float64, over some ten steps
SINGLE = 1e-5


class Smooth(nn.Module):
    """Convolution, batch norm, SiLU, dropout and a linear head."""

    def __init__(self, classes, dropout, **_):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, (8, 3), stride=8)
        self.norm = nn.BatchNorm2d(4)
        self.dropout = nn.Dropout2d(dropout)
        self.head = nn.Conv2d(4, classes, 1)

    def forward(self, x):
        return self.head(self.dropout(F.silu(self.norm(self.conv(x))))).mean(dim=(2, 3))


@pytest.fixture
def spec(toy_spec, monkeypatch):
    monkeypatch.setitem(networks.ARCHITECTURES, "bcresnet_asc", Smooth)
    return replace(toy_spec, model=replace(toy_spec.model, dropout=0.3))


def augmented(x, targets, rng):
    """Clips and their class probabilities, rolled, mixed and masked one by one."""
    count = len(x)
    shifts = rng.integers(-ROLL_FRAMES, ROLL_FRAMES + 1, count)
    own, partners = rng.beta(0.3, 0.3, count), rng.permutation(count)
    rows = two_masks(count, MASK_BINS, BINS, rng)
    columns = two_masks(count, MASK_FRAMES, FRAMES, rng)
    rolled = [np.roll(clip, shift, axis=1) for clip, shift in zip(x, shifts, strict=True)]
    clips, probabilities = [], []
    for k, partner in enumerate(partners):
        clip = own[k] * rolled[k] + (1 - own[k]) * rolled[partner]
        mean = clip.mean()
        for start, end in rows[k]:
            clip[start:end] = mean
        for start, end in columns[k]:
            clip[:, start:end] = mean
        clips.append(clip)
        probabilities.append(own[k] * targets[k] + (1 - own[k]) * targets[partner])
    return torch.tensor(np.stack(clips))[:, None], torch.tensor(np.stack(probabilities))


def two_masks(count, width, length, rng):
    """Start and end of two masks for every clip."""
    widths = rng.integers(0, width + 1, (count, 2, 1))
    starts = rng.integers(0, length - widths + 1)
    return np.concatenate([starts, starts + widths], axis=2)


def learn(model, examples, loss_of, after_step=lambda: None):
    """Train in place; yields the last rate and the mean loss after every epoch."""
    clips, targets = examples.read(np.arange(CLIPS)).astype(float), np.eye(CLASSES)[examples.targets]
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9, weight_decay=1e-3)
    steps = math.ceil(CLIPS / BATCH)
    for epoch in range(EPOCHS):
        torch.manual_seed(SEED + 1_000_003 * (epoch + 1))  # of the dropout
        order = np.random.default_rng((SEED, epoch)).permutation(CLIPS)
        rng = np.random.default_rng((SEED, epoch, 1))
        model.train()
        losses = []
        for step in range(steps):
            gone = epoch + step / steps
            rate = PEAK * gone / WARMUP
            if gone >= WARMUP:
                rate = PEAK * (1 + math.cos(math.pi * (gone - WARMUP) / (EPOCHS - WARMUP))) / 2
            optimizer.param_groups[0]["lr"] = rate
            chosen = order[step * BATCH:(step + 1) * BATCH]
            loss = loss_of(*augmented(clips[chosen], targets[chosen], rng))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            after_step()
            losses.append(loss.item())
        yield rate, np.mean(losses)


def cross_entropy(outputs, targets):
    return -(targets * outputs.log_softmax(dim=1)).sum(dim=1).mean()


def judged(model, examples):
    """Accuracy in percent and log loss."""
    model.eval()
    with torch.no_grad():
        x = torch.tensor(examples.read(np.arange(len(examples)))).double()[:, None]
        said = model(x).softmax(dim=1).numpy()
    right = said.argmax(axis=1) == examples.targets
    return 100 * right.mean(), log_loss(examples.targets, said, labels=range(CLASSES))


def history_of(folder):
    columns = ["learning_rate", "train_loss", "validation_accuracy", "validation_log_loss"]
    return pd.read_csv(folder / "history.csv")[columns].to_numpy()


def test_the_training_is_that_of_the_recipe(tmp_path, spec, examples):
    spec = replace(spec, model=replace(spec.model, front_end="freqnorm"))
    train, validation = examples(CLIPS), examples(12, 1)
    train_model(fit.Job(spec, RECIPE, SEED, train, validation, tmp_path, "x", "cpu", log=lambda text: None))

    torch.manual_seed(SEED)  # of the weights
    model = spec.build().double()
    clips = train.read(np.arange(CLIPS)).astype(float)
    model.front_end.running_mean = torch.tensor(clips.mean(axis=(0, 2)))
    model.front_end.running_var = torch.tensor(clips.var(axis=(0, 2)))
    history = [[*figures, *judged(model, validation)] for figures in
               learn(model, train, lambda x, targets: cross_entropy(model(x), targets))]
    stored, state = load_file(tmp_path / "model.safetensors"), model.state_dict()
    expected = {name: state[name].float() for name in stored}
    torch.testing.assert_close(stored, expected, rtol=SINGLE, atol=SINGLE)
    np.testing.assert_allclose(history_of(tmp_path), history, rtol=SINGLE, atol=SINGLE)


def test_averaged_weights_are_the_moving_average_of_the_steps(tmp_path, spec, examples):
    """A time constant of 1.5 epochs; the running statistics of the norms are averaged as well."""
    train, validation = examples(CLIPS), examples(12, 1)
    recipe = replace(RECIPE, averaging_epochs=1.5)
    train_model(fit.Job(spec, recipe, SEED, train, validation, tmp_path, "x", "cpu", log=lambda text: None))

    torch.manual_seed(SEED)
    model, averages = spec.build().double(), {}
    decay = math.exp(-1 / (1.5 * math.ceil(CLIPS / BATCH)))

    def average():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                averages[name] = decay * averages.get(name, value) + (1 - decay) * value

    list(learn(model, train, lambda x, targets: cross_entropy(model(x), targets), average))
    stored = load_file(tmp_path / "model.safetensors")
    expected = {name: averages[name].float() for name in stored}
    torch.testing.assert_close(stored, expected, rtol=SINGLE, atol=SINGLE)
    model.load_state_dict(averages, strict=False)
    assert history_of(tmp_path)[-1, 2:] == pytest.approx(judged(model, validation), rel=SINGLE)


def rounded(weight, kept):
    """The weights that are stored, as a function whose gradient is that of the kept weights."""
    scale = (weight * kept).abs().max().detach() / 127
    steps = (weight / scale).round().detach()
    steps = torch.where(steps == 0, weight.sign(), steps) * kept
    return kept * weight + (scale * steps - kept * weight).detach()


def test_the_compression_is_that_of_the_recipe(tmp_path, spec, examples):
    """One-shot pruning of half of the weights, 8 bits, and two teachers at a temperature of 3."""
    train, validation = examples(CLIPS), examples(12, 1)
    paths = [tmp_path / f"{number}.safetensors" for number in range(3)]
    for seed, path in enumerate(paths):
        torch.manual_seed(seed)
        model_file.save(path, {name: value for name, value in spec.build().state_dict().items()
                               if "num_batches" not in name}, spec)
    settings = CompressionConfig(ratio=0.5, temperature=3.0, cross_entropy_weight=0.3, distillation_weight=0.7)
    job = fit.Job(spec, RECIPE, SEED, train, validation, tmp_path, "x", "cpu", log=lambda text: None)
    compress(job, settings, paths[0], paths[1:])

    model, *teachers = (model_file.load(path)[0].double().eval() for path in paths)
    weights = {name: value for name, value in model.named_parameters() if value.dim() == 4}
    magnitudes = torch.cat([value.detach().abs().flatten() for value in weights.values()])
    least = magnitudes.sort().values[math.ceil(len(magnitudes) / 2)]
    kept = {name: value.detach().abs() >= least for name, value in weights.items()}

    def loss_of(x, targets):
        outputs = functional_call(model, {name: rounded(weights[name], kept[name]) for name in weights}, x)
        with torch.no_grad():
            said = sum((teacher(x) / 3).softmax(dim=1) for teacher in teachers) / len(teachers)
        divergence = (said * (said.log() - (outputs / 3).log_softmax(dim=1))).sum(dim=1).mean()
        return 0.3 * cross_entropy(outputs, targets) + 0.7 * 3 ** 2 * divergence

    history = list(learn(model, train, loss_of))
    trained = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["model"]
    for name, value in model.state_dict().items():
        if name in weights:
            parts = name.replace("weight", "parametrizations.weight")
            torch.testing.assert_close(trained[f"{parts}.original"], value.float(), rtol=SINGLE, atol=SINGLE)
            assert torch.equal(trained[f"{parts}.0.kept"], kept[name])
        else:
            torch.testing.assert_close(trained[name], value.to(trained[name].dtype), rtol=SINGLE, atol=SINGLE)
    np.testing.assert_allclose(history_of(tmp_path)[:, :2], history, rtol=SINGLE)
