"""Log-mel energies of all clips of a data set, computed once (:mod:`task1a.features.build`) and read here.

One folder for a data set and a feature configuration:

- ``log_mel.float16``: little-endian float16, ``[rows, n_mels, frames]``, nothing else in it,
- ``index.csv``: which clip lies in which row, with the size, modification time and content (BLAKE2b) of its file and
  CRC-32 checksums of the row and of the line,
- ``features.yaml``: the configuration and the shape, for whoever finds the folder.

Clips are found by their name, and their rows hold what their content gave, so no order of a split file matters. A line
that was changed does not count, and a row that was changed is refused when it is read.
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
    """One line of the index."""

    size: int
    mtime_ns: int
    content: str
    row: int
    stored: str
    """CRC-32 of the row, in hexadecimal"""


@dataclass(frozen=True)
class FeatureCache:
    """Log-mel energies by file name, for reading. Needs no torch."""

    folder: Path
    features: FeatureConfig
    clips: Mapping[str, Clip]
    damaged: Mapping[str, str] = field(default_factory=dict)
    """clips that were left out, with the reason"""

    @classmethod
    def open(cls, root: Path, features: FeatureConfig, cache_dir: Path) -> "FeatureCache":
        """What is stored of the data set at ``root``, whether or not its recordings are still as they were.

        Raises:
            InputError: nothing is stored for this data set and configuration.
        """
        folder = cache_folder(root, features, cache_dir)
        clips = read_index(folder, features)
        if not clips:
            raise InputError(f"{folder}: no features of {root} are stored there; compute them with --stage features")
        return cls(folder, features, clips)

    def __len__(self) -> int:
        """Number of clips."""
        return len(self.clips)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of clips, mel bins, frames."""
        return len(self), self.features.n_mels, self.features.frames

    @functools.cached_property
    def array(self) -> np.ndarray:
        """The whole stored array, float16 ``[rows, n_mels, frames]``, mapped read-only; its rows are :meth:`rows`."""
        path = self.folder / ARRAY
        rows = path.stat().st_size // row_bytes(self.features)
        return np.memmap(path, "<f2", mode="r", shape=(rows, *self.shape[1:]))

    def rows(self, filenames: Iterable[str]) -> np.ndarray:
        """Rows of clips in the array, int64, in the order given.

        Raises:
            InputError: a clip is not in the cache.
        """
        try:
            return np.array([self.clips[name].row for name in filenames], np.int64)
        except KeyError as error:
            raise InputError(f"{self.folder}: holds no features of {error.args[0]}; compute them with --stage features"
                             ) from None

    def read(self, clips: Sequence[str] | np.ndarray) -> np.ndarray:
        """Log-mel energies of clips, given by name or by row: float32 ``[clips, n_mels, frames]``."""
        rows = clips if isinstance(clips, np.ndarray) and clips.dtype.kind in "iu" else self.rows(clips)
        energies = self.array[rows]
        for row, content in zip(rows.tolist(), energies, strict=True):
            name, stored = self._unread.pop(row, (None, None))
            if name is not None and crc32(content.tobytes()) != stored:
                raise InputError(f"{self.folder / ARRAY}: the features of {name} are not what was stored; remove the "
                                 "file, and compute them with --stage features")
        return energies.astype(np.float32)

    @functools.cached_property
    def _unread(self) -> dict[int, tuple[str, str]]:
        """Clip and checksum of the rows that have not been read yet; a row is looked at once."""
        return {clip.row: (name, clip.stored) for name, clip in self.clips.items()}

    def digest(self, filenames: Iterable[str]) -> str:
        """Identity of the features of these clips: of their names, the content of their files, the configuration."""
        self.rows(filenames := sorted(filenames))
        return fingerprint({"features": asdict(self.features),
                            "clips": [[name, self.clips[name].content] for name in filenames]})


def cache_folder(root: Path, features: FeatureConfig, cache_dir: Path) -> Path:
    """Folder of the features of the data set at ``root``: its name, a digest of its path, one of the configuration."""
    root = Path(root).resolve()
    return Path(cache_dir) / f"{root.name}-{fingerprint(os.path.normcase(root))[:8]}-{fingerprint(features)}"


def index_line(name: str, clip: Clip) -> str:
    """The line of a clip in ``index.csv``."""
    line = "\t".join([name, *map(str, clip)])
    return f"{line}\t{crc32(line.encode('utf-8'))}\n"


def crc32(content: bytes) -> str:
    """CRC-32 checksum in hexadecimal."""
    return f"{zlib.crc32(content):08x}"


def read_index(folder: Path, features: FeatureConfig) -> dict[str, Clip]:
    """The valid lines of an index, the last one of each clip; without those beyond the end of the array."""
    if not (folder / INDEX).is_file() or not (folder / ARRAY).is_file():
        return {}
    rows = (folder / ARRAY).stat().st_size // row_bytes(features)
    whole_lines = (folder / INDEX).read_bytes().decode("utf-8", errors="replace").split("\n")[:-1]
    clips = {}
    for whole_line in whole_lines:
        line, _, checksum = whole_line.rpartition("\t")
        match = _LINE.fullmatch(line)
        if match and checksum == crc32(line.encode("utf-8")) and int(match[5]) < rows:
            name, size, mtime_ns, content, row, stored = match.groups()
            clips[name] = Clip(int(size), int(mtime_ns), content, int(row), stored)
    return clips


def row_bytes(features: FeatureConfig) -> int:
    """Size of the features of one clip."""
    return 2 * features.n_mels * features.frames
