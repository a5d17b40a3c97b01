import librosa
import numpy as np
import pytest
import torch

from task1a.config import FeatureConfig
from task1a.errors import InputError
from task1a.features.compat import torchaudio
from task1a.features.log_mel import LogMel, log_mel, mel_filters

PAPER = FeatureConfig(clip_seconds=2.0)
CONFIGURATIONS = {
    "paper": PAPER,
    "odd window, band-limited": FeatureConfig(sample_rate=8000, n_mels=40, window=401, hop=100, n_fft=512, f_min=50.0,
                                              f_max=3500.0, clip_seconds=1.0),
    "fewer frames than a block": FeatureConfig(n_mels=20, window=4096, hop=4000, n_fft=4096, clip_seconds=1.0),
}
# float32 sums of a few thousand terms, of different order in every library
RELATIVE_POWER = 1e-4


@pytest.fixture(params=CONFIGURATIONS.values(), ids=CONFIGURATIONS.keys())
def features(request):
    return request.param


@pytest.fixture
def noise(features):
    return np.random.default_rng(7).normal(0, 0.1, features.clip_samples).astype(np.float32)


def test_agrees_with_torchaudio(features, noise):
    mel = torchaudio.transforms.MelSpectrogram(
        features.sample_rate, features.n_fft, features.window, features.hop, features.f_min,
        features.f_max, n_mels=features.n_mels)(torch.from_numpy(noise)).numpy()
    ours = log_mel(noise, features)
    assert ours.dtype == np.float32 and ours.shape == (features.n_mels, features.frames)
    np.testing.assert_allclose(np.exp(ours), mel + features.log_floor, rtol=RELATIVE_POWER)


def test_agrees_with_librosa(features, noise):
    mel = librosa.feature.melspectrogram(
        y=noise, sr=features.sample_rate, n_fft=features.n_fft, win_length=features.window, hop_length=features.hop,
        fmin=features.f_min, fmax=features.f_max, n_mels=features.n_mels, htk=True, norm=None, center=True,
        pad_mode="reflect")
    np.testing.assert_allclose(np.exp(log_mel(noise, features)), mel + features.log_floor, rtol=RELATIVE_POWER)


@pytest.mark.parametrize("frequency", [100.0, 440.0, 1000.0, 6500.0])
def test_pure_tone_lands_in_its_mel_bin(frequency):
    tone = np.sin(2 * np.pi * frequency * np.arange(PAPER.clip_samples) / PAPER.sample_rate).astype(np.float32)
    mel, top = (2595 * np.log10(1 + f / 700) for f in (frequency, PAPER.sample_rate / 2))
    expected = mel / top * (PAPER.n_mels + 1) - 1  # centres lie at 1 .. n_mels of n_mels + 1 equal steps
    assert abs(log_mel(tone, PAPER)[:, 30].argmax() - expected) <= 1


def test_tone_has_the_power_of_its_amplitude():
    # |X|^2 at a bin centre is (amplitude * sum of the window / 2)^2, and the sum of a Hann window is half its length;
    # at 1 kHz the peak of the nearest filter may miss the bin by half of the filter's width
    features = FeatureConfig(n_mels=8, window=512, hop=512, n_fft=512, clip_seconds=1.0)
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000).astype(np.float32)
    filters = mel_filters(features)
    hann_leakage = {31: 0.25, 32: 1.0, 33: 0.25}  # amplitudes 1/2, 1, 1/2
    power = sum(filters[:, k] * leak for k, leak in hann_leakage.items()) * (0.5 * 256 / 2) ** 2
    np.testing.assert_allclose(np.exp(log_mel(tone, features)[:, 10])[power > 1], power[power > 1], rtol=1e-3)


def test_silence_is_the_floor():
    silence = np.zeros(PAPER.clip_samples, np.float32)
    np.testing.assert_allclose(log_mel(silence, PAPER), np.log(1e-8), rtol=1e-6)


def test_class_and_function_are_one(features, noise):
    np.testing.assert_array_equal(LogMel(features)(noise), log_mel(noise, features))


def test_empty_filters_are_refused():
    with pytest.raises(ValueError, match="50,001 frames; at most 50,000"):
        FeatureConfig(hop=16, clip_seconds=50.0)
    assert FeatureConfig(hop=16, clip_seconds=49.999).frames == 50_000
    with pytest.raises(InputError, match=r"mel filters are empty: features.n_fft=1024 .* features.n_mels=256"):
        LogMel(FeatureConfig(window=1024, n_fft=1024))
    assert (mel_filters(PAPER).max(axis=1) > 0).all()
