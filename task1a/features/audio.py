"""Clips as the features want them: decoded (libsndfile), mono, resampled (soxr), all of one length.

Any bit depth, sample rate and number of channels is taken, in any container that :mod:`task1a.data.recording` opens.
What would give wrong features in silence is an error: no samples, samples that are not finite, a file that has been cut
off.
"""
import math
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soxr
from soundfile import SoundFile

from task1a.config import FeatureConfig
from task1a.data.recording import open_recording
from task1a.errors import InputError

MARGIN_SECONDS = 2.0
"""How much of a recording is decoded beyond the length of a clip. The resampler looks ahead by less than one second at
any sample rate, so a clip has the same bytes as when the whole recording is decoded."""

_BLOCK = 1 << 16  # frames decoded at once, which bounds the memory that many channels take


def read_clip(source: Path | bytes | BinaryIO, features: FeatureConfig) -> np.ndarray:
    """Read one clip.

    Args:
        source: path of a recording, its content, or a file opened to read bytes.
        features: says the sample rate and the length.

    Returns:
        ``[features.clip_samples]`` float32 at ``features.sample_rate``: the mean of the channels, a longer recording
        cut at its end, a shorter one repeated from its beginning. Integer formats lie in [-1, 1).

    Raises:
        InputError: the recording cannot be taken (:func:`task1a.data.recording.open_recording`), is shorter than one
            sample, or holds samples that are not finite. The message is the reason alone, for the caller to put the
            name of the clip in front of.
        OSError: the file cannot be read at all.
    """
    with open_recording(source) as recording:
        rate = recording.samplerate
        mono = _decode(recording, math.ceil((features.clip_seconds + MARGIN_SECONDS) * rate))
    if rate != features.sample_rate:
        mono = soxr.resample(mono, rate, features.sample_rate, quality="HQ")
    if not len(mono):
        raise InputError("is shorter than one sample of the features")
    return np.resize(mono, features.clip_samples)  # cuts, or repeats circularly


def _decode(recording: SoundFile, most: int) -> np.ndarray:
    """The mean of the channels over at most ``most`` frames: float32 ``[frames]``."""
    expected = min(recording.frames, most)
    blocks, frames = [], 0
    while frames < expected:
        block = recording.read(min(_BLOCK, expected - frames), dtype="float32", always_2d=True)
        if not len(block):
            raise InputError(f"truncated: {frames:,} of {recording.frames:,} samples")
        if not np.isfinite(block).all():
            raise InputError("holds samples that are not finite numbers")
        with np.errstate(over="ignore"):  # too large samples are found out by the features that they give
            blocks.append(block[:, 0] if recording.channels == 1 else block.mean(axis=1))
        frames += len(block)
    return np.concatenate(blocks)
