"""Reading of clips for the features: decoded (libsndfile), mixed to mono, resampled (soxr), all of
one length.

All bit depths, sample rates and numbers of channels are accepted, in every container that
:mod:`task1a.data.recording` opens. Missing samples and samples that are not finite are errors.
"""
import math
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soxr

from task1a.config import FeatureConfig
from task1a.data.recording import Recording, open_recording
from task1a.data.sound import SoundCheck, header_notes
from task1a.errors import InputError

MARGIN_SECONDS = 2.0
"""Length that is decoded beyond the end of a clip. The resampler looks ahead by less than one
second at any sample rate, so decoding more would not change a clip."""

_BLOCK = 1 << 16  # frames decoded at once, which bounds the memory for recordings of many channels


def read_clip(source: Path | bytes | BinaryIO, features: FeatureConfig,
              sound: SoundCheck | None = None) -> np.ndarray:
    """Read one clip.

    Args:
        source: path of a recording, its content, or a file opened for reading bytes.
        features: configuration with the sample rate and the length.
        sound: receives notes about the recording.

    Returns:
        float32 ``[features.clip_samples]`` at ``features.sample_rate``: the mean of the channels; a
        longer recording is cut, a shorter one repeated. Integer formats are scaled to [-1, 1).

    Raises:
        InputError: the recording is refused by :func:`task1a.data.recording.open_recording`, is
            shorter than one sample, or has samples that are not finite. The message is the reason
            without the name of the clip.
        OSError: the file cannot be read.
    """
    with open_recording(source) as recording:
        rate = recording.samplerate
        expected = min(recording.frames, math.ceil((features.clip_seconds + MARGIN_SECONDS) * rate))
        mono = np.concatenate(list(_mono_blocks(recording, expected, features, sound)))
    # mixed before it is resampled, which is linear, so that one channel is resampled instead of all
    if rate != features.sample_rate:
        mono = soxr.resample(mono, rate, features.sample_rate, quality="HQ")
    if not len(mono):
        raise InputError("is shorter than one sample of the features")
    return np.resize(mono, features.clip_samples)  # cuts, or repeats circularly


def read_windows(source: Path | bytes, features: FeatureConfig, window: float | None = None,
                 overlap: float = 0.0, sound: SoundCheck | None = None) -> Iterator[tuple[float, float, np.ndarray]]:
    """Read a recording of any length as windows of the length of a clip, with constant memory.

    A recording that is shorter than one and a half windows is a single window, read by
    :func:`read_clip`. Of a longer one, a last part that is shorter than half a window is omitted,
    and a longer last part is repeated.

    Args:
        source: path of a recording, or its content.
        features: configuration with the sample rate and the length.
        window: length of a window in seconds; a window shorter than a clip is repeated. Default:
            that of a clip.
        overlap: fraction of a window that overlaps with the next one, in [0, 1).
        sound: receives notes about the recording.

    Yields:
        Start and end of a window in seconds, and its samples as from :func:`read_clip`.

    Raises:
        InputError, OSError: as :func:`read_clip`.
    """
    window = window or features.clip_seconds
    with open_recording(source) as recording:
        rate, seconds = recording.samplerate, recording.frames / recording.samplerate
        if seconds < 1.5 * window and window == features.clip_seconds:
            yield 0.0, min(seconds, window), read_clip(source, features, sound)
            return
        # A stream resamples block by block as if the recording were in one piece. Its blocks do not end
        # where windows do, so what belongs to the next window waits.
        resampler = soxr.ResampleStream(rate, features.sample_rate, 1, dtype="float32", quality="HQ")
        size = round(window * features.sample_rate)
        step = max(1, round(size * (1 - overlap)))
        start, waiting, frames = 0, np.empty(0, np.float32), 0
        for mono in _mono_blocks(recording, recording.frames, features, sound):
            frames += len(mono)
            if rate != features.sample_rate:
                mono = resampler.resample_chunk(np.ascontiguousarray(mono), last=frames == recording.frames)
            waiting = np.concatenate([waiting, mono])
            while len(waiting) >= size:
                begin = start / features.sample_rate
                yield begin, begin + window, np.resize(waiting[:size], features.clip_samples)
                waiting, start = waiting[step:], start + step
    if start == 0 and not len(waiting):
        raise InputError("is shorter than one sample of the features")
    # of the rest, size - step samples were in the last window already
    if start == 0 or len(waiting) - (size - step) >= size / 2:
        begin = start / features.sample_rate
        yield begin, begin + len(waiting) / features.sample_rate, np.resize(waiting, features.clip_samples)


def _mono_blocks(recording: Recording, frames: int, features: FeatureConfig,
                 sound: SoundCheck | None) -> Iterator[np.ndarray]:
    """Yield the first ``frames`` frames of a recording in blocks, as the mean of the channels."""
    if sound:
        sound.header = header_notes(recording.notes, recording.samplerate, 0.0, features.sample_rate, math.inf)
    read = 0
    while read < frames:
        block = recording.read(min(_BLOCK, frames - read), dtype="float32", always_2d=True)
        if not len(block):
            raise InputError(f"truncated: {read:,} of {recording.frames:,} samples")
        if not np.isfinite(block).all():
            raise InputError("holds samples that are not finite numbers")
        with np.errstate(over="ignore"):  # the features show which samples are too large
            mono = block[:, 0] if recording.channels == 1 else block.mean(axis=1)
            if sound:
                sound.add(block, mono)
        read += len(block)
        yield mono
