"""Computing the feature cache of a data set: new and changed clips only, on all cores, resumable after a kill.

A line is added to the index only after its row has reached the disk. So whenever a build is killed, every complete
line is valid, and the next build ends with the same files as an undisturbed one.
"""
import functools
import hashlib
import itertools
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

import numpy as np
import yaml
from filelock import FileLock, Timeout
from tqdm import tqdm

from task1a.config import FeatureConfig
from task1a.data.regular_file import open_regular
from task1a.errors import InputError
from task1a.features import cache
from task1a.features.audio import read_clip
from task1a.features.cache import Clip, FeatureCache
from task1a.files import write_text
from task1a.workers import mapper

_SAVE_CLIPS, _SAVE_SECONDS = 64, 5.0  # a killed build loses no more than this
_FEW_CLIPS = 128  # computed in the time that worker processes need to start
_CHUNK = 8  # clips sent to a worker at a time


def build(root: Path, filenames: Iterable[str], features: FeatureConfig, cache_dir: Path, workers: int | None = None,
          skip_damaged: bool = False) -> FeatureCache:
    """Bring the features of a data set up to date and open them.

    A clip is up to date if its file has the recorded size and modification time, or else the recorded content. The
    files are the same, byte for byte, for any number of workers and after any interruptions.

    Args:
        root: folder of the data set.
        filenames: names of its clips, relative to ``root``, with forward slashes.
        features: feature configuration.
        cache_dir: folder of all caches.
        workers: number of processes; default: one per core.
        skip_damaged: list unreadable clips in ``damaged`` instead of raising.

    Raises:
        InputError: clips cannot be read (after all others have been stored), a mel filter is empty, the disk is full,
            or ``cache_dir`` is not writable.
    """
    root, folder = Path(root), cache.cache_folder(root, features, cache_dir)
    names = sorted(set(filenames))
    damaged: dict[str, str] = {}
    with _writing(folder):
        write_text(folder / cache.DESCRIPTION, _describe(root, features))
        index = _Index(folder, features)
        outdated = _outdated(root, names, index, workers, damaged)
        index.store()  # without the clips whose rows are overwritten next
        if outdated:
            _compute(root, outdated, features, index, workers, damaged)
            index.store()

    if damaged and (not skip_damaged or len(damaged) == len(names)):
        remedy = "no clip is left" if skip_damaged else "replace them, or leave them out with --skip-damaged"
        named = "; ".join(f"{name}: {reason}" for name, reason in sorted(damaged.items())[:10])
        more = f"; and {len(damaged) - 10} more" if len(damaged) > 10 else ""
        raise InputError(f"{len(damaged):,} of {len(names):,} clips cannot be read, all others are stored; {remedy}: "
                         f"{named}{more}")
    clips = {name: index.clips[name] for name in names if name not in damaged}
    return FeatureCache(folder, features, clips, dict(sorted(damaged.items())))


def is_whole(root: Path, features: FeatureConfig, cache_dir: Path) -> bool:
    """Whether the index and the description of a data set's features are as a build leaves them."""
    folder = cache.cache_folder(root, features, cache_dir)
    description = folder / cache.DESCRIPTION
    return (description.is_file() and description.read_bytes() == _describe(Path(root), features).encode("utf-8")
            and cache.is_sorted(folder, features))


class _Index:
    """The index of a cache during a build: lines are appended as rows reach the disk, and sorted by row at the end."""

    def __init__(self, folder: Path, features: FeatureConfig) -> None:
        self.path, self.array = folder / cache.INDEX, folder / cache.ARRAY
        self.clips = cache.read_index(folder, features)
        self.unsaved: list[str] = []
        self.saved_at = time.monotonic()

    def add(self, name: str, clip: Clip) -> None:
        self.clips[name] = clip
        self.unsaved.append(cache.index_line(name, clip))
        if len(self.unsaved) >= _SAVE_CLIPS or time.monotonic() - self.saved_at > _SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Append the added lines, once their rows are on disk."""
        with open(self.array, "rb+") as array:
            os.fsync(array.fileno())
        with open(self.path, "ab") as journal:
            journal.write("".join(self.unsaved).encode("utf-8"))
            journal.flush()
            os.fsync(journal.fileno())
        self.unsaved, self.saved_at = [], time.monotonic()

    def text(self) -> str:
        """The whole index, sorted by row."""
        by_row = sorted(self.clips.items(), key=lambda item: item[1].row)
        return cache.HEADER + "".join(cache.index_line(name, clip) for name, clip in by_row)

    def store(self) -> None:
        self.unsaved = []
        write_text(self.path, self.text())


def _outdated(root: Path, names: Sequence[str], index: _Index, workers: int | None,
              damaged: dict[str, str]) -> list[str]:
    """Find the clips to compute: new ones, and those whose content has changed, which leave the index.

    Where only the size or the date of a file has changed, its line is renewed. Missing files go to ``damaged``.
    """
    new, touched, changed = [], [], []
    for name in names:
        clip = index.clips.get(name)
        try:
            stat = os.stat(os.path.join(root, name))
        except OSError as error:
            damaged[name] = str(error.strerror)
            continue
        if clip is None:
            new.append(name)
        elif (clip.size, clip.mtime_ns) != (stat.st_size, stat.st_mtime_ns):
            touched.append(name)

    identify = functools.partial(_identify, root)
    with (mapper(len(touched), _FEW_CLIPS, _CHUNK, workers) as mapped,
          _progress(mapped(identify, touched), touched, "compare") as results):
        for name, identity in zip(touched, results, strict=True):
            clip = index.clips[name]
            if isinstance(identity, str):
                damaged[name] = identity
            elif identity[-1] == clip.content:
                index.add(name, Clip(*identity, clip.row, clip.stored))
            else:
                changed.append(name)

    for name in changed:
        del index.clips[name]
    return sorted(new + changed)


def _compute(root: Path, names: Sequence[str], features: FeatureConfig, index: _Index, workers: int | None,
             damaged: dict[str, str]) -> None:
    """Compute clips, in order, into the rows that no other clip has; add those that fail to ``damaged``."""
    import torch

    from task1a.features.log_mel import LogMel

    LogMel(features)  # refuses an impossible configuration before any clip is read
    taken = {clip.row for clip in index.clips.values()}
    free = (row for row in itertools.count() if row not in taken)
    tasks = [(name, next(free)) for name in names]
    rows = 1 + max(taken | {tasks[-1][1]})
    _make_room(index.array, rows * cache.row_bytes(features), len(names))

    extract = functools.partial(_extract, root, features, index.array)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with (mapper(len(names), _FEW_CLIPS, _CHUNK, workers) as mapped,
              _progress(mapped(extract, tasks), names, "log-mel") as results):
            for name, clip in zip(names, results, strict=True):
                if isinstance(clip, str):
                    damaged[name] = clip
                else:
                    index.add(name, clip)
    finally:
        torch.set_num_threads(threads)
        index.save()


def _extract(root: Path, features: FeatureConfig, array: Path, task: tuple[str, int]) -> Clip | str:
    """Compute one clip and write its row, or say why it cannot be read."""
    import torch

    from task1a.features.log_mel import log_mel

    torch.set_num_threads(1)  # there is a process for every core
    name, row = task
    try:
        with open_regular(root / name) as file:
            identity = _identity(file)
            energies = log_mel(read_clip(file, features), features)
    except InputError as error:
        return str(error)
    except OSError as error:
        return str(error.strerror)
    if not np.isfinite(energies).all():
        return "holds samples too large to compute with"
    stored = energies.astype("<f2").tobytes()
    with open(array, "rb+") as handle:
        handle.seek(row * cache.row_bytes(features))
        handle.write(stored)
    return Clip(*identity, row, cache.crc32(stored))


def _identify(root: Path, name: str) -> tuple[int, int, str] | str:
    """Identity of a clip's file, or the reason why it cannot be read."""
    try:
        with open_regular(root / name) as file:
            return _identity(file)
    except OSError as error:
        return str(error.strerror)


def _identity(file: BinaryIO) -> tuple[int, int, str]:
    """Size, modification time and content digest of a file."""
    stat = os.fstat(file.fileno())
    digest = hashlib.blake2b(digest_size=16)
    while block := file.read(1 << 20):
        digest.update(block)
    return stat.st_size, stat.st_mtime_ns, digest.hexdigest()


def _make_room(array: Path, size: int, clips: int) -> None:
    """Extend the array to ``size`` bytes if the disk has room for them."""
    array.touch()
    stat = array.stat()
    # rows that were never written occupy no blocks
    occupied = stat.st_blocks * 512 if hasattr(stat, "st_blocks") else stat.st_size
    needed, free = max(0, size - occupied), shutil.disk_usage(array.parent).free
    print(f"features: {clips:,} clips to compute, {needed / 1e9:.2f} GB of {free / 1e9:.1f} GB free disk space needed",
          file=sys.stderr, flush=True)
    if needed > free:
        raise InputError(f"{array.parent}: {needed / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free; make "
                         "room there or choose another folder with data.cache_dir")
    if stat.st_size < size:
        os.truncate(array, size)


def _describe(root: Path, features: FeatureConfig) -> str:
    array = {"file": cache.ARRAY, "type": "float16, little-endian", "row": [features.n_mels, features.frames],
             "rows": f"see {cache.INDEX}"}
    return yaml.safe_dump({"root": str(root.resolve()), "features": asdict(features), "array": array}, sort_keys=False,
                          allow_unicode=True)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Lock a folder, remove what a killed build left there, and report errors of writing in one line."""
    lock = FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(f"features: waiting for another run that writes {folder}", file=sys.stderr, flush=True)
            lock.acquire()
        for part in folder.glob(".*.part"):
            part.unlink()
        yield
    except BrokenProcessPool:
        raise InputError("a worker process was killed, perhaps for lack of memory; run the same command again to "
                         "resume, with data.workers=1 for fewer processes") from None
    except IsADirectoryError as error:
        raise InputError(f"{error.filename}: is a folder where a file belongs; remove it") from None
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror or error}); make room or choose another folder "
                         "with data.cache_dir, and run the same command again to resume") from None
    finally:
        lock.release()


def _progress(results: Iterable, names: Sequence[str], what: str) -> tqdm:
    """A progress bar over the results of clips; where it goes to a file it is renewed less often."""
    seconds = 0.1 if sys.stderr.isatty() else 10.0
    return tqdm(results, what, len(names), unit=" clips", dynamic_ncols=True, mininterval=seconds, disable=not names)
