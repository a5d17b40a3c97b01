"""Clips as the features want them: decoded (libsndfile), mono, resampled (soxr), all of one length.

Any format, bit depth, sampling rate and number of channels that libsndfile reads is taken. What would give wrong
features in silence is an error: no samples, samples that are not finite, a file that has been cut off.
"""
import io
from pathlib import Path

import numpy as np
import soundfile
import soxr

from task1a.config import FeatureConfig
from task1a.data.wav import truncation
from task1a.errors import InputError


def read_clip(source: Path | bytes, features: FeatureConfig) -> np.ndarray:
    """Read one clip.

    Args:
        source: an audio file, or its bytes.
        features: says the sampling rate and the length.

    Returns:
        ``[features.clip_samples]`` float32 at ``features.sample_rate``: the mean of the channels, a longer recording
        cut at its end, a shorter one repeated from its beginning. Integer formats lie in [-1, 1).

    Raises:
        InputError: the file is empty, cut off, not audio or holds samples that are not finite. The message is the
            reason alone, for the caller to put the name of the clip in front of.
        OSError: the file cannot be read at all.
    """
    content = source if isinstance(source, bytes) else Path(source).read_bytes()
    samples, rate = _decode(content)
    mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)
    if rate != features.sample_rate:
        mono = soxr.resample(mono, rate, features.sample_rate, quality="HQ")
    if not len(mono):
        raise InputError("holds no audio")
    return np.resize(mono, features.clip_samples)  # cuts, or repeats circularly


def _decode(content: bytes) -> tuple[np.ndarray, int]:
    if not content:
        raise InputError("empty file")
    cut_off = truncation(io.BytesIO(content), len(content))
    if cut_off:
        raise InputError(cut_off)
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            declared, rate = file.frames, file.samplerate
            samples = file.read(dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, TypeError, ValueError) as error:
        reason = str(getattr(error, "error_string", error)).strip().rstrip(".")
        raise InputError(f"not readable as audio ({reason})") from None
    if len(samples) < declared:
        raise InputError(f"truncated: {len(samples):,} of {declared:,} samples")
    if not np.isfinite(samples).all():
        raise InputError("holds samples that are not finite numbers")
    return samples, rate
