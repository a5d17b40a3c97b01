"""Computing the feature cache of a data set: new and changed clips only, on all cores, and safe against being killed.

A line joins the index only once its row has reached the disk: whenever a build is killed, every line that is there is
true, a half-written line does not count, and the next build goes on to the very files that an undisturbed one writes.
"""
import functools
import hashlib
import itertools
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
import yaml
from filelock import FileLock, Timeout
from tqdm import tqdm

from task1a.config import FeatureConfig
from task1a.data.regular_file import open_regular
from task1a.errors import InputError
from task1a.features.audio import read_clip
from task1a.features.cache import (
    ARRAY,
    DESCRIPTION,
    HEADER,
    INDEX,
    Clip,
    FeatureCache,
    cache_folder,
    crc32,
    index_line,
    read_index,
    row_bytes,
)
from task1a.files import write_text
from task1a.machine import cores

_SAVE_CLIPS, _SAVE_SECONDS = 64, 5.0  # whichever comes first is what a killed build loses
_FEW_CLIPS = 128  # take as long as the start of a worker process
_AHEAD = 8  # tasks a worker

Result = TypeVar("Result")


def build(root: Path, filenames: Iterable[str], features: FeatureConfig, cache_dir: Path, workers: int | None = None,
          skip_damaged: bool = False) -> FeatureCache:
    """Bring the features of a data set up to date and open them.

    A clip whose file has the size and modification time of the index is taken as it is; where they differ the content
    decides. Files and their bytes are the same whatever the number of workers, and however often it was interrupted.

    Args:
        root: folder of the data set.
        filenames: of its clips, relative to ``root``, with forward slashes.
        features: configuration.
        cache_dir: folder of all caches.
        workers: processes; one a core when not given.
        skip_damaged: leave clips that cannot be read out, and list them in ``damaged``, instead of raising.

    Raises:
        InputError: clips cannot be read (after all others have been stored); the configuration has an empty mel
            filter; the disk is full or ``cache_dir`` not writable.
    """
    folder = cache_folder(root, features, cache_dir)
    names = sorted(set(filenames))
    with _writing(folder), _locked(folder):
        index = _Index(folder, features)
        new, suspect, damaged = _compare(Path(root), names, index)
        changed = _rehash(Path(root), suspect, index, workers, damaged)
        index.forget(changed)
        if new or changed:
            _compute(Path(root), sorted(new + changed), features, index, workers, damaged)
        index.store()
        _keep_text(folder / DESCRIPTION, _describe(Path(root), features))
    if damaged and (not skip_damaged or len(damaged) == len(names)):
        raise InputError(_list_damaged(damaged, len(names), skip_damaged))
    clips = {name: index.clips[name] for name in names if name not in damaged}
    return FeatureCache(folder, features, clips, dict(sorted(damaged.items())))


def is_whole(root: Path, features: FeatureConfig, cache_dir: Path) -> bool:
    """Whether the index and the description of a data set's features are as a build leaves them."""
    folder = cache_folder(root, features, cache_dir)
    index = _Index(folder, features)
    return _holds(index.path, index.text()) and _holds(folder / DESCRIPTION, _describe(Path(root), features))


class _Index:
    """``index.csv`` while it is written: lines are appended as rows reach the disk, in the end it is put in order."""

    def __init__(self, folder: Path, features: FeatureConfig) -> None:
        self.path, self.array = folder / INDEX, folder / ARRAY
        self.row_bytes = row_bytes(features)
        self.clips = read_index(folder, features)
        self.unsaved: list[str] = []
        self.saved_at = time.monotonic()

    def forget(self, names: Iterable[str]) -> None:
        """Take clips out, on disk too, before their rows are written anew."""
        for name in names:
            del self.clips[name]
        self.store()

    def add(self, name: str, clip: Clip) -> None:
        self.clips[name] = clip
        self.unsaved.append(index_line(name, clip))
        if len(self.unsaved) >= _SAVE_CLIPS or time.monotonic() - self.saved_at > _SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Append what was added, once the rows that it speaks of are on disk."""
        with open(self.array, "rb+") as array:
            os.fsync(array.fileno())
        with open(self.path, "ab") as journal:
            journal.write("".join(self.unsaved).encode("utf-8"))
            journal.flush()
            os.fsync(journal.fileno())
        self.unsaved, self.saved_at = [], time.monotonic()

    def text(self) -> str:
        """The whole index, in the order of the rows."""
        in_order = sorted(self.clips.items(), key=lambda item: item[1].row)
        return HEADER + "".join(index_line(name, clip) for name, clip in in_order)

    def store(self) -> None:
        """Write the index anew, in the order of the rows, unless that is what is there."""
        self.unsaved = []
        _keep_text(self.path, self.text())


def _keep_text(path: Path, text: str) -> None:
    """Write a text unless that is what is there."""
    if not _holds(path, text):
        write_text(path, text)


def _holds(path: Path, text: str) -> bool:
    return path.is_file() and path.read_bytes() == text.encode("utf-8")


def _compare(root: Path, names: Iterable[str], index: _Index) -> tuple[list[str], list[str], dict[str, str]]:
    """Clips that are new, clips whose file has another size or time than the index says, clips without a file."""
    new, suspect, damaged = [], [], {}
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
            suspect.append(name)
    return new, suspect, damaged


def _rehash(root: Path, names: Sequence[str], index: _Index, workers: int | None, damaged: dict[str, str]) -> list[str]:
    """Clips whose content differs from the index; where it does not, only their line is renewed."""
    changed = []
    with _mapper(workers, len(names)) as mapped:
        found = zip(names, mapped(functools.partial(_identify, root), names), strict=True)
        for name, identity in _progress(found, len(names), "files with a new date"):
            clip = index.clips[name]
            if isinstance(identity, str):
                damaged[name] = identity
            elif identity[-1] == clip.content:
                index.add(name, Clip(*identity, clip.row, clip.stored))
            else:
                changed.append(name)
    return changed


def _compute(root: Path, names: Sequence[str], features: FeatureConfig, index: _Index, workers: int | None,
             damaged: dict[str, str]) -> None:
    """Compute clips into the rows that no other clip has, in order; ``damaged`` takes up those that fail."""
    from task1a.features.log_mel import LogMel  # imports torch, which reading does without

    LogMel(features)  # an impossible configuration ends here, before any clip is read
    taken = {clip.row for clip in index.clips.values()}
    free = (row for row in itertools.count() if row not in taken)
    tasks = [(name, next(free)) for name in names]
    _make_room(index, 1 + max(taken | {tasks[-1][1]}), len(names))
    _keep_text(index.array.with_name(DESCRIPTION), _describe(root, features))
    extract = functools.partial(_extract, root, features, index.array)
    try:
        with _one_thread(), _mapper(workers, len(names)) as mapped:
            for name, clip in _progress(zip(names, mapped(extract, tasks), strict=True), len(names), "log-mel"):
                if isinstance(clip, str):
                    damaged[name] = clip
                else:
                    index.add(name, clip)
    finally:
        index.save()


def _extract(root: Path, features: FeatureConfig, array: Path, task: tuple[str, int]) -> Clip | str:
    """Compute one clip and write its row; the reason instead, where it cannot be read."""
    from task1a.features.log_mel import log_mel

    name, row = task
    try:
        with open_regular(root / name) as file:
            stat, content = os.fstat(file.fileno()), _content(file)
            energies = log_mel(read_clip(file, features), features)
    except InputError as error:
        return str(error)
    except OSError as error:
        return str(error.strerror)
    if not np.isfinite(energies).all():
        return "holds samples too large to compute with"
    stored = energies.astype("<f2").tobytes()
    with open(array, "rb+") as handle:
        handle.seek(row * row_bytes(features))
        handle.write(stored)
    return Clip(stat.st_size, stat.st_mtime_ns, content, row, crc32(stored))


def _identify(root: Path, name: str) -> tuple[int, int, str] | str:
    """Size, modification time and content of a clip's file; the reason instead, where it cannot be read."""
    try:
        with open_regular(root / name) as file:
            stat = os.fstat(file.fileno())
            return stat.st_size, stat.st_mtime_ns, _content(file)
    except OSError as error:
        return str(error.strerror)


def _content(file: BinaryIO) -> str:
    digest = hashlib.blake2b(digest_size=16)
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _make_room(index: _Index, rows: int, clips: int) -> None:
    """Grow the array to so many rows, if they fit on the disk."""
    index.array.touch()
    stat = index.array.stat()
    there = stat.st_blocks * 512 if hasattr(stat, "st_blocks") else stat.st_size  # rows not yet written take no room
    needed, free = max(0, rows * index.row_bytes - there), shutil.disk_usage(index.array.parent).free
    print(f"features: {clips:,} clips to compute, {needed / 1e9:.2f} GB of {free / 1e9:.1f} GB free disk space needed",
          file=sys.stderr, flush=True)
    if needed > free:
        raise InputError(f"{index.array.parent}: {needed / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free; "
                         "make room there or choose another folder with data.cache_dir")
    if stat.st_size < rows * index.row_bytes:
        os.truncate(index.array, rows * index.row_bytes)


def _describe(root: Path, features: FeatureConfig) -> str:
    array = {"file": ARRAY, "type": "float16, little-endian", "row": [features.n_mels, features.frames],
             "rows": f"see {INDEX}"}
    return yaml.safe_dump({"root": str(root.resolve()), "features": asdict(features), "array": array}, sort_keys=False,
                          allow_unicode=True)


def _list_damaged(damaged: Mapping[str, str], clips: int, skip_damaged: bool) -> str:
    named = "; ".join(f"{name}: {reason}" for name, reason in sorted(damaged.items())[:10])
    more = f"; and {len(damaged) - 10} more" if len(damaged) > 10 else ""
    remedy = "nothing is left to work with" if skip_damaged else "replace them, or leave them out with --skip-damaged"
    return f"{len(damaged):,} of {clips:,} clips cannot be read, all others are stored; {remedy}: {named}{more}"


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Whatever goes wrong with the folder is told in one line."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BrokenProcessPool:
        raise InputError("a worker process was ended from outside, for want of memory perhaps; the same command goes "
                         "on from here, with fewer processes by data.workers=1") from None
    except IsADirectoryError as error:
        raise InputError(f"{error.filename}: is a folder where a file belongs; remove it") from None
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror or error}); put that right or choose another "
                         "folder with data.cache_dir, and the same command goes on from here") from None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One build at a time; also clears away what a killed one has left behind."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"features: waiting for another run that writes {folder}", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        for part in folder.glob(".*.part"):
            part.unlink()
        yield
    finally:
        lock.release()


@contextmanager
def _mapper(workers: int | None, count: int) -> Iterator[Callable[..., Iterator]]:
    """A ``map`` over worker processes, or the plain one where that is as fast."""
    workers = workers or cores()
    if workers == 1 or count < _FEW_CLIPS:
        yield map
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker) as pool:
        yield functools.partial(_map_in_order, pool, _AHEAD * workers)


def _map_in_order(pool: Executor, ahead: int, function: Callable[..., Result], tasks: Iterable) -> Iterator[Result]:
    """``map`` with a bounded number of tasks under way, so that memory stays flat."""
    pending = deque()
    for task in tasks:
        pending.append(pool.submit(function, task))
        if len(pending) > ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    torch.set_num_threads(1)


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


@contextmanager
def _one_thread() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _progress(results: Iterable[Result], total: int, what: str) -> Iterator[Result]:
    """Tell how far it is: a bar on a terminal, elsewhere a line for every tenth, or every half minute."""
    if sys.stderr.isatty():
        yield from tqdm(results, what, total, unit=" clips", dynamic_ncols=True)
        return
    started = told = time.monotonic()
    for done, result in enumerate(results, 1):
        yield result
        now = time.monotonic()
        tenth = done * 10 // total > (done - 1) * 10 // total
        if done == total or now - told > 30 or (tenth and now - told > 1):
            rate, told = done / (now - started), now
            print(f"{what}: {done:,} of {total:,} clips, {rate:.0f} clips/s, {(total - done) / rate:.0f} s left",
                  file=sys.stderr, flush=True)
