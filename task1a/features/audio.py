"""Reading of clips for the features: decoded (libsndfile), mixed to mono, resampled (soxr), all of one length.

All bit depths, sample rates and numbers of channels are accepted, in every container that
:mod:`task1a.data.recording` opens. Missing samples and samples that are not finite are errors.
"""
import math
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soxr

from task1a.config import FeatureConfig
from task1a.data.recording import open_recording
from task1a.errors import InputError

MARGIN_SECONDS = 2.0
"""Length that is decoded beyond the end of a clip. The resampler looks ahead by less than one second at any sample
rate, so decoding more would not change a clip."""

_BLOCK = 1 << 16  # frames decoded at once, which bounds the memory for recordings of many channels


def read_clip(source: Path | bytes | BinaryIO, features: FeatureConfig) -> np.ndarray:
    """Read one clip.

    Args:
        source: path of a recording, its content, or a file opened for reading bytes.
        features: configuration with the sample rate and the length.

    Returns:
        float32 ``[features.clip_samples]`` at ``features.sample_rate``: the mean of the channels; a longer recording
        is cut, a shorter one repeated. Integer formats are scaled to [-1, 1).

    Raises:
        InputError: the recording is refused by :func:`task1a.data.recording.open_recording`, is shorter than one
            sample, or has samples that are not finite. The message is the reason without the name of the clip.
        OSError: the file cannot be read.
    """
    with open_recording(source) as recording:
        rate = recording.samplerate
        expected = min(recording.frames, math.ceil((features.clip_seconds + MARGIN_SECONDS) * rate))
        blocks, frames = [], 0
        while frames < expected:
            block = recording.read(min(_BLOCK, expected - frames), dtype="float32", always_2d=True)
            if not len(block):
                raise InputError(f"truncated: {frames:,} of {recording.frames:,} samples")
            if not np.isfinite(block).all():
                raise InputError("holds samples that are not finite numbers")
            with np.errstate(over="ignore"):  # the features show which samples are too large
                blocks.append(block[:, 0] if recording.channels == 1 else block.mean(axis=1))
            frames += len(block)
    mono = np.concatenate(blocks)
    if rate != features.sample_rate:
        mono = soxr.resample(mono, rate, features.sample_rate, quality="HQ")
    if not len(mono):
        raise InputError("is shorter than one sample of the features")
    return np.resize(mono, features.clip_samples)  # cuts, or repeats circularly
