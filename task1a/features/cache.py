"""Log-mel energies of all clips of a data set, computed once (:mod:`task1a.features.build`) and read here.

Each data set and feature configuration has a folder of its own:

- ``log_mel.float16``: raw little-endian float16, ``[rows, n_mels, frames]``
- ``index.csv``: row of each clip, with the size, modification time and content (BLAKE2b) of its file, and CRC-32
  checksums of the row and of the line
- ``features.yaml``: configuration and shape, for a human reader

Clips are found by name, so the order of a split file does not matter. A line with a wrong checksum is ignored, and
reading a row with a wrong checksum is an error.
"""
import functools
import os
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from task1a.config import FeatureConfig, fingerprint
from task1a.errors import InputError

ARRAY, INDEX, DESCRIPTION = "log_mel.float16", "index.csv", "features.yaml"
HEADER = "filename\tsize\tmtime_ns\tblake2b\trow\tcrc32\tline_crc32\n"
"""first line of the index"""

_LINE = re.compile(r"([^\t\0]+)\t(\d{1,19})\t(-?\d{1,19})\t([0-9a-f]{32})\t(\d{1,19})\t([0-9a-f]{8})", re.ASCII)


class Clip(NamedTuple):
    """A clip in the index."""

    size: int
    mtime_ns: int
    content: str
    row: int
    stored: str
    """CRC-32 of the row, in hexadecimal"""


@dataclass(frozen=True)
class FeatureCache:
    """Log-mel energies of the clips of a data set, by file name. Needs no torch."""

    folder: Path
    features: FeatureConfig
    clips: Mapping[str, Clip]
    damaged: Mapping[str, str] = field(default_factory=dict)
    """clips that were left out, and why"""

    @classmethod
    def open(cls, root: Path, features: FeatureConfig, cache_dir: Path) -> "FeatureCache":
        """Open the stored features of the data set at ``root``, even if its recordings have changed since.

        Raises:
            InputError: nothing is stored for this data set and configuration.
        """
        folder = cache_folder(root, features, cache_dir)
        clips = read_index(folder, features)
        if not clips:
            raise InputError(f"{folder}: holds no features of {root}; compute them with --stage features")
        return cls(folder, features, clips)

    def __len__(self) -> int:
        return len(self.clips)

    @functools.cached_property
    def array(self) -> np.ndarray:
        """All stored rows, float16 ``[rows, n_mels, frames]``, memory-mapped read-only; see :meth:`rows`."""
        path = self.folder / ARRAY
        rows = path.stat().st_size // row_bytes(self.features)
        return np.memmap(path, "<f2", mode="r", shape=(rows, self.features.n_mels, self.features.frames))

    def rows(self, filenames: Iterable[str]) -> np.ndarray:
        """Row numbers of clips in the array, int64 ``[clips]``.

        Raises:
            InputError: a clip is not in the cache.
        """
        try:
            return np.array([self.clips[name].row for name in filenames], np.int64)
        except KeyError as error:
            raise InputError(f"{self.folder}: holds no features of {error.args[0]}; compute them with --stage features"
                             ) from None

    def read(self, clips: Sequence[str] | np.ndarray) -> np.ndarray:
        """Log-mel energies of clips, given by name or by row: float32 ``[clips, n_mels, frames]``.

        Raises:
            InputError: a clip is not in the cache, or the checksum of its row is wrong.
        """
        rows = clips if isinstance(clips, np.ndarray) and clips.dtype.kind in "iu" else self.rows(clips)
        energies = self.array[rows]
        for row, content in zip(rows.tolist(), energies, strict=True):
            name, stored = self._unchecked.pop(row, (None, None))
            if name is not None and crc32(content.tobytes()) != stored:
                raise InputError(f"{self.folder / ARRAY}: the features of {name} are damaged; remove the file and "
                                 "compute them again with --stage features")
        return energies.astype(np.float32)

    @functools.cached_property
    def _unchecked(self) -> dict[int, tuple[str, str]]:
        """Name and checksum of the rows that have not been read yet; each row is checked once."""
        return {clip.row: (name, clip.stored) for name, clip in self.clips.items()}

    def digest(self, filenames: Iterable[str]) -> str:
        """A digest of the names of clips, the content of their files, and the configuration."""
        filenames = sorted(filenames)
        self.rows(filenames)  # refuses unknown clips
        contents = [(name, self.clips[name].content) for name in filenames]
        return fingerprint({"features": asdict(self.features), "clips": contents})


def cache_folder(root: Path, features: FeatureConfig, cache_dir: Path) -> Path:
    """Folder of the features of a data set, named by its folder and digests of its path and the configuration."""
    root = Path(root).resolve()
    return Path(cache_dir) / f"{root.name}-{fingerprint(os.path.normcase(root))[:8]}-{fingerprint(features)}"


def index_line(name: str, clip: Clip) -> str:
    """Format a line of ``index.csv``."""
    line = "\t".join([name, *map(str, clip)])
    return f"{line}\t{crc32(line.encode('utf-8'))}\n"


def crc32(content: bytes) -> str:
    """CRC-32 checksum in hexadecimal."""
    return f"{zlib.crc32(content):08x}"


def read_index(folder: Path, features: FeatureConfig) -> dict[str, Clip]:
    """Read the valid lines of an index: the last one of each clip, without rows beyond the end of the array."""
    if not (folder / INDEX).is_file() or not (folder / ARRAY).is_file():
        return {}
    rows = (folder / ARRAY).stat().st_size // row_bytes(features)
    clips = {}
    for line in _lines(folder)[:-1]:
        match = _parse(line)
        if match and int(match[5]) < rows:
            name, size, mtime_ns, content, row, stored = match.groups()
            clips[name] = Clip(int(size), int(mtime_ns), content, int(row), stored)
    return clips


def is_sorted(folder: Path, features: FeatureConfig) -> bool:
    """Whether the lines of an index are all valid and sorted by row, as at the end of a build.

    Takes a fraction of the time and memory of :func:`read_index`.
    """
    if not (folder / INDEX).is_file() or not (folder / ARRAY).is_file():
        return False
    lines = _lines(folder)
    if lines[0] + "\n" != HEADER or lines[-1]:
        return False
    last = -1
    for line in lines[1:-1]:
        match = _parse(line)
        if not match or int(match[5]) <= last:
            return False
        last = int(match[5])
    return last < (folder / ARRAY).stat().st_size // row_bytes(features)


def _lines(folder: Path) -> list[str]:
    """All lines of an index. The last one is empty unless the index was torn."""
    return (folder / INDEX).read_bytes().decode("utf-8", errors="replace").split("\n")


def _parse(line: str) -> re.Match | None:
    """The fields of a line of an index before its checksum, or None if the line was changed or torn."""
    fields, _, checksum = line.rpartition("\t")
    return _LINE.fullmatch(fields) if checksum == crc32(fields.encode("utf-8")) else None


def row_bytes(features: FeatureConfig) -> int:
    """Number of bytes in a row of the array."""
    return 2 * features.n_mels * features.frames
