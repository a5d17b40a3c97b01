import io

import numpy as np
import pytest
import soundfile
import soxr

from task1a.config import FeatureConfig
from task1a.data.sound import SoundCheck
from task1a.errors import InputError
from task1a.features.audio import read_clip

FEATURES = FeatureConfig(sample_rate=8000, n_mels=10, window=200, hop=80, n_fft=256, clip_seconds=0.5)


def tone(rate: int, seconds: float = 0.5, frequency: float = 500.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(round(rate * seconds)) / rate)


@pytest.mark.parametrize(("suffix", "subtype", "tolerance"), [
    ("wav", "PCM_U8", 2 ** -7), ("wav", "PCM_16", 2 ** -15), ("wav", "PCM_24", 2 ** -23), ("wav", "PCM_32", 1e-7),
    ("wav", "FLOAT", 1e-7), ("wav", "DOUBLE", 1e-7), ("flac", "PCM_24", 2 ** -23), ("aiff", "PCM_16", 2 ** -15),
    ("ogg", "VORBIS", 0.05)])
def test_formats(tmp_path, suffix, subtype, tolerance):
    path = tmp_path / f"clip.{suffix}"
    soundfile.write(path, tone(8000), 8000, subtype=subtype)
    clip = read_clip(path, FEATURES)
    assert clip.dtype == np.float32 and clip.shape == (4000,)
    np.testing.assert_allclose(clip, tone(8000), atol=tolerance)


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 44100, 48000])
def test_sampling_rates(tmp_path, rate):
    path = tmp_path / "clip.wav"
    soundfile.write(path, tone(rate), rate, subtype="FLOAT")
    inner = slice(400, -400)  # without the ends, where a resampler has no signal on one side
    np.testing.assert_allclose(read_clip(path, FEATURES)[inner], tone(8000)[inner], atol=1e-3)


def test_resampling_removes_what_would_alias(tmp_path):
    path = tmp_path / "clip.wav"
    soundfile.write(path, tone(44100, frequency=6000.0), 44100, subtype="FLOAT")
    assert np.abs(read_clip(path, FEATURES)[400:-400]).max() < 1e-3


def test_length(tmp_path):
    ramp = np.arange(6000) / 6000
    soundfile.write(tmp_path / "long.wav", ramp, 8000, subtype="FLOAT")
    soundfile.write(tmp_path / "short.wav", ramp[:1500], 8000, subtype="FLOAT")
    np.testing.assert_allclose(read_clip(tmp_path / "long.wav", FEATURES), ramp[:4000], atol=1e-6)
    short = read_clip(tmp_path / "short.wav", FEATURES)
    np.testing.assert_allclose(short, np.concatenate([ramp[:1500], ramp[:1500], ramp[:1000]]), atol=1e-6)


def test_bytes_are_read_like_a_file(tmp_path):
    soundfile.write(tmp_path / "clip.wav", tone(44100), 44100, subtype="PCM_24")
    content = (tmp_path / "clip.wav").read_bytes()
    np.testing.assert_array_equal(read_clip(content, FEATURES), read_clip(tmp_path / "clip.wav", FEATURES))


@pytest.mark.parametrize("rate", [1000, 4000, 8000, 22050, 44100, 48000, 1_000_000])
@pytest.mark.parametrize("target", [4000, 16000, 44100])
def test_the_end_of_a_long_recording_is_not_decoded_and_changes_nothing(rate, target):
    features = FeatureConfig(sample_rate=target, n_mels=4, n_fft=1024, window=512, hop=256, clip_seconds=0.25)
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 5 * rate).astype(np.float32)
    whole = samples if rate == target else soxr.resample(samples, rate, target, quality="HQ")
    samples[round(2.5 * rate):] = np.nan  # would be refused
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="FLOAT")
    np.testing.assert_array_equal(read_clip(file.getvalue(), features), whole[:features.clip_samples])


@pytest.mark.parametrize("channels", [2, 3, 9, 64])
def test_channels_are_averaged_as_a_whole_recording_would_be(channels):
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (150_000, channels)).astype(np.float32)
    file = io.BytesIO()
    soundfile.write(file, samples, 8000, format="WAV", subtype="FLOAT")
    features = FeatureConfig(sample_rate=8000, n_mels=10, window=200, hop=80, n_fft=256, clip_seconds=18.75)
    np.testing.assert_array_equal(read_clip(file.getvalue(), features), samples.mean(axis=1))


@pytest.mark.parametrize(("frame", "value", "notes"), [
    (0, 0.5, []), (0, -0.5, []), (140_000, 0.5, []), (140_000, -0.5, []), (0, 0.0, ["silent"])])
def test_notes_about_all_blocks(frame, value, notes):
    samples = np.zeros((150_000, 2))
    samples[frame] = value
    file, sound = io.BytesIO(), SoundCheck()
    soundfile.write(file, samples, 8000, format="WAV", subtype="FLOAT")
    features = FeatureConfig(sample_rate=8000, n_mels=10, window=200, hop=80, n_fft=256, clip_seconds=18.75)
    read_clip(file.getvalue(), features, sound)
    assert sound.notes() == notes


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite(tmp_path, value):
    samples = tone(8000)
    samples[1234] = value
    soundfile.write(tmp_path / "clip.wav", samples, 8000, subtype="FLOAT")
    with pytest.raises(InputError, match="not finite"):
        read_clip(tmp_path / "clip.wav", FEATURES)
