"""Device translation: level curves that are known, pairs that are found, and what is drawn."""
import numpy as np
import pytest
import torch
from scipy import stats

from task1a.training import translation
from task1a.training.examples import Examples
from task1a.training.translation import (
    KNOTS,
    STRONGEST,
    Translation,
    draw_translation,
    fit_curves,
    fit_translation,
    translate,
)

BINS, FRAMES = 3, 50
# p-values of true hypotheses are below this for one seed in ten thousand
UNLIKELY = 1e-4


@pytest.fixture
def x():
    return np.random.default_rng(0).uniform(-10, 2, (BINS, 4000))


def applied(curve, x, strength=1.0):
    """Level curves of one device, applied to [F, frames]."""
    values = [torch.from_numpy(np.asarray(value)[None]) for value in curve]
    chosen = Translation(*values, torch.zeros(1, dtype=torch.int64), torch.tensor([strength], dtype=torch.float64))
    return translate(torch.from_numpy(x)[None, None], chosen)[0, 0].numpy()


def test_a_frequency_response_is_learned_exactly(x):
    response = np.array([[1.0], [-3.0], [0.5]])
    np.testing.assert_allclose(applied(fit_curves(x, x + response), x), x + response, atol=1e-9)


def test_a_compressor_with_its_knee_at_the_median_is_learned(x):
    """Half of what lies above the median is taken away, in the presence of noise that is not the curve's."""
    knee = np.median(x, axis=1, keepdims=True)
    y = x - 0.5 * np.maximum(0, x - knee)
    heard = y + np.random.default_rng(1).normal(0, 0.5, y.shape)
    np.testing.assert_allclose(applied(fit_curves(x, heard), x), y, atol=0.15)


def test_the_noise_of_a_device_is_learned(x):
    """ln(exp(x) + exp(-5)) is a curve, which straight lines between the quantiles follow."""
    y = np.logaddexp(x, -5)
    learned = applied(fit_curves(x, y), x)
    assert np.abs(learned - y).mean() < 0.15 and np.abs(x - y).mean() > 1


def test_a_bin_that_is_silent_keeps_its_level():
    x = np.full((1, 100), -18.4)
    np.testing.assert_allclose(applied(fit_curves(x, x + 2), x), x + 2, atol=1e-6)


def test_the_strength_scales_the_change(x):
    curve = fit_curves(x, x + 2.0)
    np.testing.assert_allclose(applied(curve, x, 0.25), x + 0.5, atol=1e-9)
    np.testing.assert_array_equal(applied(curve, x, 0.0), x)


@pytest.fixture
def recorded():
    """Eight clips of device a; device b records two of them 1 louder, device c another one 2 softer, and one alone."""
    rng = np.random.default_rng(0)
    names = [f"audio/park-lisbon-{number}-1-a.wav" for number in range(8)]
    energies = list(rng.uniform(-10, 2, (8, BINS, FRAMES)))
    for source, device, change in ((2, "b", 1.0), (5, "b", 1.0), (7, "c", -2.0)):
        names.append(f"audio/park-lisbon-{source}-1-{device}.wav")
        energies.append(energies[source] + change)
    names.append("audio/park-lisbon-99-1-c.wav")
    energies.append(np.full((BINS, FRAMES), 50.0))
    energies = np.stack(energies).astype(np.float32)
    devices = np.array([name[-5] for name in names])
    return Examples(lambda indices: energies[indices], np.zeros(len(names), np.int64), devices,
                    filenames=np.array(names))


def test_devices_are_learned_from_parallel_recordings_alone(recorded):
    learnt = fit_translation(recorded)
    assert learnt.knots.shape == learnt.slopes.shape == (2, BINS, KNOTS - 1)
    x = torch.from_numpy(recorded.read(np.array([0, 2]))).unsqueeze(1)
    heard = translate(x, Translation(learnt.knots, learnt.offsets, learnt.slopes, torch.tensor([0, 1]), torch.ones(2)))
    expected = x + torch.tensor([1.0, -2.0])[:, None, None, None]
    torch.testing.assert_close(heard, expected, atol=1e-4, rtol=0)


def test_without_parallel_recordings_clips_are_left_as_they_are(recorded):
    alone = Examples(recorded.read, recorded.targets[:8], recorded.devices[:8], filenames=recorded.filenames[:8])
    x = torch.from_numpy(recorded.read(np.arange(8))).unsqueeze(1)
    drawn = draw_translation(fit_translation(alone), np.ones(8, bool), 1.0, np.random.default_rng(0))
    assert torch.equal(translate(x, drawn), x)


def test_clips_of_the_reference_are_translated_to_every_device_with_the_probability(recorded):
    clips, references = 4000, np.arange(4000) % 2 == 0
    drawn = draw_translation(fit_translation(recorded), references, 0.4, np.random.default_rng(0))
    used = drawn.strengths.numpy() > 0
    assert not used[~references].any()
    assert stats.binomtest(int(used.sum()), clips // 2, 0.4).pvalue > UNLIKELY
    assert stats.kstest(drawn.strengths[used], stats.uniform(0, STRONGEST).cdf).pvalue > UNLIKELY
    assert stats.chisquare(np.bincount(drawn.devices[used])).pvalue > UNLIKELY


def test_long_sets_are_learned_from_a_part_of_their_pairs(recorded, monkeypatch):
    monkeypatch.setattr(translation, "MOST_PAIRS", 1)
    rows = []

    def read(indices):
        rows.append(len(indices))
        return recorded.read(indices)
    fit_translation(Examples(read, recorded.targets, recorded.devices, filenames=recorded.filenames))
    assert max(rows) == 1
