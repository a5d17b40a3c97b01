"""Opening of recordings, which refuses whatever would be read as a different recording without an error.

The check of a data set and the features open recordings here, so they agree on what is damaged.
"""
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import soundfile
from soundfile import SoundFile

from task1a.data import containers
from task1a.data.regular_file import open_regular
from task1a.errors import InputError

MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 1_000, 1_000_000
"""In Hz. Audio converters have 4 kHz to 768 kHz; a header with another rate is damaged, and would turn the samples into
hours of audio, or into none."""

_UNKNOWN_FRAMES = (1 << 63) - 1  # libsndfile's count for a recording that does not declare its length


@contextmanager
def open_recording(source: Path | bytes | BinaryIO) -> Iterator[SoundFile]:
    """Open a recording to read its samples. Errors of reading within the block are raised like those of opening.

    Args:
        source: path, content, or file opened for reading bytes.

    Raises:
        InputError: the recording is empty or truncated, has an impossible header, or is in a container that cannot be
            checked for completeness (:mod:`task1a.data.containers`). The message is the reason without the name of
            the clip.
        OSError: the file cannot be opened or is not a regular file.
    """
    if isinstance(source, Path):
        with open_regular(source) as file, open_recording(file) as recording:
            yield recording
        return
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    if fault := containers.fault(file):
        raise InputError(fault)
    file.seek(0)
    try:
        with SoundFile(_handle(file), closefd=False) as recording:
            _check_header(recording)
            if recording.format == "FLAC":
                _check_last_sample(recording)
            yield recording
    except (soundfile.SoundFileError, TypeError, ValueError) as error:
        reason = str(getattr(error, "error_string", error)).strip().rstrip(".")
        raise InputError(f"not readable as audio ({reason})") from None


def _handle(file: BinaryIO) -> BinaryIO | int:
    """The descriptor of a file, which libsndfile reads much faster than through Python; else the file itself.

    On Windows, libsndfile may have other descriptors than Python.
    """
    if os.name == "nt":
        return file
    try:
        descriptor = file.fileno()
    except io.UnsupportedOperation:
        return file
    os.lseek(descriptor, 0, os.SEEK_SET)  # a buffered file may be elsewhere than it says
    return descriptor


def _check_header(recording: SoundFile) -> None:
    if not recording.frames:
        raise InputError("holds no audio")
    if recording.frames == _UNKNOWN_FRAMES:
        raise InputError("does not declare its length; convert it to WAV")
    if not MIN_SAMPLE_RATE <= recording.samplerate <= MAX_SAMPLE_RATE:
        raise InputError(f"declares a sample rate of {recording.samplerate:,} Hz; {MIN_SAMPLE_RATE:,} to "
                         f"{MAX_SAMPLE_RATE:,} Hz are possible")
    if recording.subtype.startswith("ALAC"):  # libsndfile silently reads less if the packet table is truncated
        raise InputError("Apple Lossless audio, which cannot be checked for completeness; convert it to WAV")


def _check_last_sample(recording: SoundFile) -> None:
    try:
        recording.seek(recording.frames - 1)
        last = recording.read(1)
    except soundfile.SoundFileError:
        last = ()
    if not len(last):
        raise InputError(f"truncated: the last of its {recording.frames:,} samples is missing")
    recording.seek(0)
