"""What a training draws: the order of the clips, time rolls, mixup weights, masks and dropout."""
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from scipy import stats
from torch import nn

from task1a.config import FeatureConfig, TrainingConfig
from task1a.training import fit
from task1a.training.augment import Augmentation
from task1a.training.examples import Examples
from task1a.training.train import cross_entropy

CLIPS, BATCH, EPOCHS = 256, 32, 4
# 20 frames a second: 1.5 s are 30 frames
FEATURES, FRAMES, SHIFT = FeatureConfig(sample_rate=16000, n_mels=2, hop=800, clip_seconds=10.0), 201, 30
PLAIN = TrainingConfig(epochs=EPOCHS, batch_size=BATCH, warmup_epochs=0, mixup_alpha=0, frequency_masks=0, time_masks=0)
# p-values of true hypotheses are below this for one seed in ten thousand
UNLIKELY = 1e-4


@pytest.fixture
def heard(tmp_path, toy_spec):
    """Trains on clips that tell their number and their shift, to which the loss listens.

    Returns:
        The numbers of the clips that the network heard and their shifts in frames, each [epochs, clips].
    """
    group = fit.launch("cpu", "32-true")

    def train(seed=0):
        stored = np.empty((CLIPS, 2, FRAMES), np.float32)
        stored[:, 0], stored[:, 1] = np.arange(CLIPS)[:, None], np.arange(FRAMES)
        numbers, shifts = [], []

        def listen(x, outputs, targets):
            numbers.extend(x[:, 0, 0, 0].int().tolist())
            first = (x[:, 0, 1] == 0).int().argmax(dim=1)  # where the first frame went
            shifts.extend(((first + FRAMES // 2) % FRAMES - FRAMES // 2).tolist())
            return 0 * outputs.sum()

        clips, nothing = (Examples(lambda indices: stored[indices], np.zeros(n, np.int64)) for n in (CLIPS, 0))
        job = fit.Job(replace(toy_spec, features=FEATURES), PLAIN, seed, clips, nothing, tmp_path, "x", "cpu",
                      log=lambda text: None)
        model = nn.Sequential(nn.Flatten(), nn.Linear(2 * FRAMES, 3))
        (tmp_path / "checkpoint.pt").unlink(missing_ok=True)  # of another call
        fit.fit(job, group, model, listen)
        return np.reshape(numbers, (EPOCHS, -1)), np.reshape(shifts, (EPOCHS, -1))
    return train


def unrelated(one, other):
    return stats.spearmanr(one, other).pvalue > UNLIKELY


def test_every_epoch_goes_through_all_clips_in_an_order_of_its_own(heard):
    orders = [*heard()[0], *heard(seed=1)[0]]
    assert all(sorted(order) == list(range(CLIPS)) for order in orders)
    assert all(unrelated(one, other) for one, other in combinations([np.arange(CLIPS), *orders], 2))


def test_every_clip_is_rolled_by_its_own_shift_within_the_seconds_of_the_recipe(heard):
    _, shifts = heard()
    assert shifts.min() == -SHIFT and shifts.max() == SHIFT
    assert stats.chisquare(np.bincount(shifts.flatten() + SHIFT)).pvalue > UNLIKELY
    assert unrelated(shifts[:, :-1].flatten(), shifts[:, 1:].flatten())
    assert all(unrelated(one, other) for one, other in combinations(shifts, 2))


def test_processes_share_the_batches_and_draw_for_themselves(heard, monkeypatch):
    batches = heard()[0].reshape(EPOCHS, -1, BATCH)
    monkeypatch.setattr(Fabric, "world_size", 2)
    shares, shifts = [], []
    for rank in range(2):
        monkeypatch.setattr(Fabric, "global_rank", rank)
        numbers, of_rank = heard()
        shares.append(numbers.reshape(EPOCHS, -1, BATCH // 2))
        shifts.append(of_rank.flatten())
    np.testing.assert_array_equal(np.sort(np.concatenate(shares, axis=2)), np.sort(batches))
    assert unrelated(*shifts)


@pytest.mark.parametrize("alpha", [0.3, 1.0, 4.0])
def test_every_clip_is_mixed_by_its_own_weight_of_the_beta_distribution(alpha):
    """Unit vectors show the weights of the clip itself, on the diagonal, and of its partner."""
    recipe, rng = TrainingConfig(mixup_alpha=alpha, frequency_masks=0, time_masks=0), np.random.default_rng(0)
    vectors = torch.eye(64, dtype=torch.float64)
    weights = []
    for _ in range(40):
        augmentation = Augmentation(recipe, 1, 64, 0)
        x, targets = augmentation(vectors[:, None, None], vectors, augmentation.draw(np.arange(64), rng))
        torch.testing.assert_close(x[:, 0, 0], targets)
        own = targets.diag()
        partners = targets - own.diag()
        mixed = partners.any(dim=1)
        torch.testing.assert_close(partners.sum(dim=1)[mixed], 1 - own[mixed])
        assert partners.count_nonzero(dim=1).max() == partners.count_nonzero(dim=0).max() == 1
        weights += own[mixed].tolist()
    assert len(weights) > 0.95 * 40 * 64
    assert stats.kstest(weights, stats.beta(alpha, alpha).cdf).pvalue > UNLIKELY


def test_masks_of_every_width_begin_at_every_place_with_the_same_probability():
    recipe = TrainingConfig(mixup_alpha=0, frequency_masks=1, frequency_mask_bins=5, time_masks=1, time_mask_frames=8)
    bins, frames = 24, 30
    x = torch.arange(1.0 * bins * frames).view(1, 1, bins, frames).expand(6000, -1, -1, -1)
    augmentation = Augmentation(recipe, bins, frames, 0)
    y, _ = augmentation(x, torch.zeros(6000, 1), augmentation.draw(np.arange(6000), np.random.default_rng(0)))
    masked = (x != y)[:, 0]
    for covered, width, length in ((masked.all(dim=2), 5, bins), (masked.all(dim=1), 8, frames)):
        widths, starts = covered.sum(dim=1), covered.int().argmax(dim=1)
        assert stats.chisquare(np.bincount(widths, minlength=width + 1)).pvalue > UNLIKELY
        for some in range(1, width + 1):
            counts = np.bincount(starts[widths == some], minlength=length - some + 1)
            assert len(counts) == length - some + 1 and stats.chisquare(counts).pvalue > UNLIKELY


def test_channels_are_dropped_in_training_at_the_rate_of_the_configuration_and_never_in_validation(
        tmp_path, toy_spec, examples):
    rate, of_training, of_validation = 0.3, [], []
    spec = replace(toy_spec, model=replace(toy_spec.model, dropout=rate))
    model = spec.build()

    def watch(layer, inputs, output):
        (of_training if torch.is_grad_enabled() else of_validation).append((inputs[0].detach(), output.detach()))

    for name, layer in model.named_modules():
        if name.endswith("dropout"):
            layer.register_forward_hook(watch)
    job = fit.Job(spec, TrainingConfig(epochs=5, batch_size=16), 0, examples(64), examples(16, 1), tmp_path, "x", "cpu",
                  log=lambda text: None)
    fit.fit(job, fit.launch("cpu", "32-true"), model, cross_entropy)
    dropped = []
    for x, y in of_training:
        gone = ~y.any(dim=3)
        torch.testing.assert_close(y, torch.where(gone[..., None], 0, x / (1 - rate)))
        dropped += (gone & x.any(dim=3)).flatten().tolist()
    assert len(of_training) == 9 * 4 * 5  # blocks, steps and epochs
    assert stats.binomtest(sum(dropped), len(dropped), rate).pvalue > UNLIKELY
    assert len(of_validation) == 9 * 5 and all(torch.equal(x, y) for x, y in of_validation)


@pytest.mark.parametrize("rows, columns", [(3, 0), (0, 3), (3, 1), (1, 3)])
def test_number_of_masks_along_each_axis(rows, columns):
    """Of many clips with masks of up to one bin or frame, some have as many masked ones as there are masks."""
    recipe = replace(PLAIN, frequency_masks=rows, time_masks=columns, frequency_mask_bins=1, time_mask_frames=1)
    draws = Augmentation(recipe, 64, 64, 0).draw(np.arange(500), np.random.default_rng(0))
    assert (int(draws.rows.sum(1).max()), int(draws.columns.sum(1).max())) == (rows, columns)
