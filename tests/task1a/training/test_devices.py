"""Simulated recording devices against their equations, and against microphones simulated on the samples."""
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import signal, stats

from task1a.config import FeatureConfig, TrainingConfig
from task1a.features.log_mel import LogMel
from task1a.training.augment import Augmentation
from task1a.training.devices import CONTROL_POINTS, DeviceDraws, apply_devices, draw_devices

DB = math.log(10) / 10
SILENT = -1000.0
# p-values of true hypotheses are below this for one seed in ten thousand
UNLIKELY = 1e-4
RECIPE = TrainingConfig(device_probability=0.5, device_response_db=6, device_compression=0.8, device_noise_db=30)


def device(clips=1, bins=2, used=True, response=0.0, threshold=0.0, compression=0.0, noise=SILENT):
    """The same device for every clip."""
    def full(value, *shape):
        return torch.as_tensor(value, dtype=torch.float64).expand(shape).clone()

    return DeviceDraws(torch.full((clips,), used), full(response, clips, bins), full(threshold, clips),
                       full(compression, clips), full(noise, clips, bins))


@pytest.fixture
def clip():
    return torch.randn(1, 1, 2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_a_device_that_does_nothing_and_a_clip_that_no_device_hears(clip):
    torch.testing.assert_close(apply_devices(clip, device()), clip)
    assert torch.equal(apply_devices(clip, device(used=False, response=3.0, compression=0.5, noise=0.0)), clip)


def test_a_frequency_response_is_a_constant_in_every_bin(clip):
    heard = apply_devices(clip, device(response=[1.0, -2.0]))
    torch.testing.assert_close(heard - clip, torch.tensor([1.0, -2.0], dtype=torch.float64)[:, None].expand(1, 1, 2, 5))


def test_a_compressor_by_hand():
    """Frames of levels 0, -1, -3 and -6 behind the response; a threshold of -4 takes half of 4, 3, 1 and 0 away."""
    levels = torch.tensor([0.0, -1.0, -3.0, -6.0], dtype=torch.float64)
    shares = torch.tensor([[0.25, 0.5, 0.9, 0.1], [0.75, 0.5, 0.1, 0.9]], dtype=torch.float64)
    response = torch.tensor([2.0, -1.0], dtype=torch.float64)
    x = (levels + shares.log() - response[:, None])[None, None]
    heard = apply_devices(x, device(response=response, threshold=4.0, compression=0.5))
    taken = torch.tensor([2.0, 1.5, 0.5, 0.0], dtype=torch.float64)
    torch.testing.assert_close((heard - x)[0, 0], response[:, None] - taken)


def test_noise_adds_energy_relative_to_the_mean_of_the_loudest_bin():
    x = torch.tensor([[0.0, 4.0], [-5.0, -7.0]], dtype=torch.float64)[None, None]
    heard = apply_devices(x, device(noise=[-1.0, -8.0]))  # the loudest bin has a mean of 2
    torch.testing.assert_close(heard.exp(), x.exp() + torch.tensor([1.0, -6.0]).double().exp()[:, None])


def test_it_is_what_filters_and_noise_do_to_samples():
    """White noise through a first-order shelf, with other noise added, within what windows of 130 ms vary."""
    features, rng = FeatureConfig(clip_seconds=20.0, n_mels=32), np.random.default_rng(0)
    log_mel = LogMel(features)
    clean, noise = rng.normal(0, 1, (2, features.clip_samples))
    numerator, denominator = [1.0, -0.9], [1.0, -0.2]
    recorded = signal.lfilter(numerator, denominator, clean) + 0.1 * noise

    mel = np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 34)[1:-1]
    _, gain = signal.freqz(numerator, denominator, 700 * (10 ** (mel / 2595) - 1), fs=features.sample_rate)
    response = np.log(np.abs(gain) ** 2)
    energies = [torch.from_numpy(log_mel(samples.astype(np.float32))).double() for samples in (clean, 0.1 * noise)]
    loudest = (energies[0].mean(dim=1) + torch.from_numpy(response)).max()
    heard = apply_devices(energies[0][None, None], device(
        bins=32, response=torch.from_numpy(response), noise=energies[1].exp().mean(dim=1).log() - loudest))
    expected = log_mel(recorded.astype(np.float32))
    # mean over time: the lowest filter is wider than the shelf is flat
    np.testing.assert_allclose(heard[0, 0].mean(dim=1)[1:], expected.mean(axis=1)[1:], atol=0.25)
    assert np.abs(energies[0].mean(dim=1).numpy() - expected.mean(axis=1)).max() > 2


def test_devices_are_drawn_from_the_distributions_of_the_recipe():
    clips, bins = 4000, 1 + 2 * (CONTROL_POINTS - 1)  # every second bin is a control point
    drawn = draw_devices(clips, bins, RECIPE, np.random.default_rng(0))
    assert stats.binomtest(int(drawn.used.sum()), clips, 0.5).pvalue > UNLIKELY
    assert stats.kstest(drawn.threshold, stats.uniform(0, 40 * DB).cdf).pvalue > UNLIKELY
    assert stats.kstest(drawn.compression, stats.uniform(0, 0.8).cdf).pvalue > UNLIKELY
    points = drawn.response[:, ::2].flatten()
    assert stats.kstest(points, stats.norm(0, 6 * DB).cdf).pvalue > UNLIKELY
    between = (drawn.response[:, :-1:2] + drawn.response[:, 2::2]) / 2
    torch.testing.assert_close(drawn.response[:, 1::2], between)
    # the colour of the noise averages out over the control points of many clips
    assert drawn.noise.mean().item() == pytest.approx(-50 * DB, abs=0.1)
    plain = draw_devices(clips, bins, replace(RECIPE, device_response_db=0.0), np.random.default_rng(0))
    assert stats.kstest(plain.noise[:, 0], stats.uniform(-70 * DB, 40 * DB).cdf).pvalue > UNLIKELY
    assert not plain.response.any() and torch.equal(plain.noise, plain.noise[:, :1].expand(-1, bins))


def test_devices_hear_the_clips_before_they_are_mixed():
    """Two clips of one value each; noise of a device would not add to a mixture as to a clip."""
    recipe = TrainingConfig(epochs=5, mixup_alpha=0.5, frequency_masks=0, time_masks=0, device_probability=1.0)
    x = torch.randn(6, 1, 8, 9, generator=torch.Generator().manual_seed(0))
    augmentation = Augmentation(recipe, 8, 9, 0)
    draws = augmentation.draw(np.arange(6), np.random.default_rng(1))
    y, _ = augmentation(x, torch.eye(6), draws)
    heard, own = apply_devices(x, draws.devices), draws.weights.float()[:, None, None, None]
    torch.testing.assert_close(y, own * heard + (1 - own) * heard[draws.partners])
    assert not torch.allclose(heard, x)


def test_a_recipe_without_devices_draws_none():
    assert Augmentation(TrainingConfig(), 8, 9, 3).draw(np.arange(4), np.random.default_rng(0)).devices is None
