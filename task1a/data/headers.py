"""The headers of the recordings of a data set: format, length, and why a recording cannot be used.

Imports no pandas, because every worker process imports this module anew.
"""
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from task1a.data import plain_wav
from task1a.data.recording import open_recording
from task1a.data.regular_file import read_head
from task1a.errors import InputError
from task1a.workers import mapper

_FEW = 20_000  # read in the time that worker processes need to start
_CHUNK = 500
_ENCODINGS = {"PCM_U8": "8 bit", "PCM_S8": "8 bit", "PCM_16": "16 bit", "PCM_24": "24 bit", "PCM_32": "32 bit",
              "FLOAT": "32 bit float", "DOUBLE": "64 bit float"}


class Header(NamedTuple):
    """Format and length in seconds of an audio file, or the reason why it cannot be used."""

    audio_format: str = ""
    seconds: float = 0.0
    fault: str = ""
    missing: bool = False
    identity: tuple[int, int] | None = None
    """device and inode of the file, which all its names share; None on file systems without inodes"""


def read_headers(root: Path, filenames: Sequence[str]) -> dict[str, Header]:
    """Read the headers of all recordings of a set, by file name."""
    paths = [os.path.join(root, name) for name in filenames]
    with mapper(len(paths), _FEW, _CHUNK) as mapped:
        return dict(zip(filenames, mapped(read_header, paths), strict=True))


def read_header(path: str | Path) -> Header:
    """Read the format and length of a recording, or find out why it cannot be used."""
    try:
        head, status = read_head(path, plain_wav.HEAD_BYTES)
        if plain := plain_wav.read(head, status.st_size):
            encoding = f"{plain.bits} bit"
            rate, channels, frames = plain.sample_rate, plain.channels, plain.frames
        else:
            with open_recording(Path(path)) as recording:
                encoding = _ENCODINGS.get(recording.subtype, recording.subtype_info)
                rate, channels, frames = recording.samplerate, recording.channels, recording.frames
    except FileNotFoundError:
        return Header(fault="no such file", missing=True)
    except InputError as error:
        return Header(fault=str(error))
    except OSError as error:
        return Header(fault=f"unreadable: {error.strerror}")
    identity = (status.st_dev, status.st_ino) if status.st_ino else None
    return Header(_format_name(rate, encoding, channels), frames / rate, identity=identity)


@functools.cache
def _format_name(rate: int, encoding: str, channels: int) -> str:
    """Name an audio format, once for all clips that have it."""
    layout = {1: "mono", 2: "stereo"}.get(channels, f"{channels} channels")
    return f"{rate / 1000:g} kHz, {encoding}, {layout}"
