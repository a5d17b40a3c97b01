"""Log-mel energies of all clips of a data set, computed once (:mod:`task1a.features.build`) and
read here.

Each data set and feature configuration has a folder of its own:

- ``log_mel.float16``: raw little-endian float16, ``[rows, n_mels, frames]``
- ``index.csv``: row of each clip, with the identity (size, times, inode) and the content (BLAKE2b)
  of its file, a CRC-32 checksum of the row, and notes about the sound; the last line is a checksum
  of the lines before
- ``features.yaml``: configuration, shape, and the versions of the libraries, for a human reader and
  the next build

Clips are found by name, so the order of a split file does not matter. The index is written
atomically; one that was changed by anything else is ignored, and reading a row with a wrong
checksum is an error.
"""
import functools
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from task1a.config import FeatureConfig, fingerprint
from task1a.data.recording import FileIdentity
from task1a.errors import InputError
from task1a.files import write_text

ARRAY, INDEX, DESCRIPTION = "log_mel.float16", "index.csv", "features.yaml"
HEADER = "filename\tsize\tmtime_ns\tctime_ns\tinode\tblake2b\trow\tcrc32\tnotes\n"
"""first line of the index"""

_END = "crc32 of the lines above\t"


class Clip(NamedTuple):
    """A clip in the index."""

    file: FileIdentity
    file_digest: str
    """BLAKE2b of the file"""
    row: int
    row_crc32: str
    """CRC-32 of the row, in hexadecimal"""
    notes: str
    """notes about the samples, keys of :data:`task1a.data.sound.NOTES` separated by commas"""


@dataclass(frozen=True)
class FeatureCache:
    """Log-mel energies of the clips of a data set, by file name. Needs no torch."""

    folder: Path
    features: FeatureConfig
    clips: Mapping[str, Clip]
    damaged: Mapping[str, str] = field(default_factory=dict)
    """excluded clips, and why"""

    @classmethod
    def open(cls, root: Path, features: FeatureConfig, cache_dir: Path) -> "FeatureCache":
        """Open the stored features of the data set at ``root``, even if its recordings have changed
        since.

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
        """All stored rows, float16 ``[rows, n_mels, frames]``, memory-mapped read-only; see
        :meth:`rows`."""
        path = self.folder / ARRAY
        rows = path.stat().st_size // row_bytes(self.features)
        return np.memmap(path, "<f2", mode="r", shape=(rows, self.features.n_mels, self.features.frames))

    def rows(self, filenames: Iterable[str]) -> np.ndarray:
        """Return the row numbers of clips in the array, int64 ``[clips]``.

        Raises:
            InputError: a clip is not in the cache.
        """
        try:
            return np.array([self.clips[name].row for name in filenames], np.int64)
        except KeyError as error:
            raise InputError(f"{self.folder}: holds no features of {error.args[0]}; compute them with --stage features"
                             ) from None

    def read(self, clips: Sequence[str] | np.ndarray) -> np.ndarray:
        """Read the log-mel energies of clips, given by name or by row: float32 ``[clips, n_mels,
        frames]``.

        Raises:
            InputError: a clip is not in the cache, or the checksum of its row is wrong.
        """
        # training draws clips by row, many times, and looks their rows up once
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
        return {clip.row: (name, clip.row_crc32) for name, clip in self.clips.items()}

    def digest(self, filenames: Iterable[str]) -> str:
        """Return a digest of the names of clips, the content of their files, and the configuration."""
        filenames = sorted(filenames)
        self.rows(filenames)  # refuses unknown clips
        contents = [(name, self.clips[name].file_digest) for name in filenames]
        return fingerprint({"features": asdict(self.features), "clips": contents})


def cache_folder(root: Path, features: FeatureConfig, cache_dir: Path) -> Path:
    """Return the folder of the features of a data set, named by its folder and digests of its path
    and the configuration."""
    root = Path(root).resolve()
    return Path(cache_dir) / f"{root.name}-{fingerprint(os.path.normcase(root))[:8]}-{fingerprint(features)}"


def crc32(content: bytes) -> str:
    """Return the CRC-32 checksum in hexadecimal."""
    return f"{zlib.crc32(content):08x}"


def write_index(folder: Path, clips: Mapping[str, Clip]) -> None:
    """Write an index, sorted by row, once the rows are on disk."""
    # the rows reach the disk before the index that lists them, also if the power fails in between
    if (folder / ARRAY).exists():
        with open(folder / ARRAY, "rb+") as array:
            os.fsync(array.fileno())
    lines = [HEADER]
    for name, (file, *rest) in sorted(clips.items(), key=lambda item: item[1].row):
        lines.append("\t".join([name, *map(str, file), *map(str, rest)]) + "\n")
    text = "".join(lines)
    write_text(folder / INDEX, f"{text}{_END}{crc32(text.encode())}\n")


def read_index(folder: Path, features: FeatureConfig) -> dict[str, Clip]:
    """Read an index, without rows beyond the end of the array; empty if there is none, or it was
    changed."""
    if not (folder / INDEX).is_file() or not (folder / ARRAY).is_file():
        return {}
    content, rows = (folder / INDEX).read_bytes(), (folder / ARRAY).stat().st_size // row_bytes(features)
    # A line that was changed, lost or written twice makes the whole index worthless: it may give a
    # clip the row of another one, which no checksum of a row would show.
    lines, _, checksum = content.rpartition(_END.encode())
    if not lines.startswith(HEADER.encode()) or checksum != f"{crc32(lines)}\n".encode():
        return {}
    clips = {}
    for line in lines.decode().split("\n")[1:-1]:
        name, size, mtime_ns, ctime_ns, inode, file_digest, row, row_crc32, notes = line.split("\t")
        if int(row) < rows:
            file = FileIdentity(int(size), int(mtime_ns), int(ctime_ns), int(inode))
            clips[name] = Clip(file, file_digest, int(row), row_crc32, notes)
    return clips


def row_bytes(features: FeatureConfig) -> int:
    """Return the number of bytes in a row of the array."""
    return 2 * features.n_mels * features.frames
