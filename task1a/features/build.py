"""Compute the feature cache of a data set: new and changed clips only, on all cores, resumable
after a kill.

The index is written again every few seconds, after the rows that it lists have reached the disk. So
whenever a build is killed, what the index lists is valid, and the next build ends with the same files
as an undisturbed one.

Another version of a library may compute other features. So the features of a test sound, the
*probe*, are stored as well, and all are computed again only if those of the probe have changed.
"""
import functools
import hashlib
import io
import itertools
import os
import random
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile
import yaml

from task1a.config import FeatureConfig
from task1a.data.recording import FileIdentity, open_regular
from task1a.data.sound import SoundCheck, describe
from task1a.errors import InputError
from task1a.features import cache
from task1a.features.audio import read_clip
from task1a.features.cache import Clip, FeatureCache
from task1a.files import exclusive, read_yaml, write_text
from task1a.workers import parallel_map, progress

# a killed build loses about 5 s, or 20 times as much as saving takes
_SAVE_SECONDS, _SAVE_TIMES = 5.0, 20
_MIN_CLIPS = 128  # computed in the time that worker processes need to start
_CHUNK = 8  # clips sent to a worker at a time
_LIBRARIES = ("torch", "torchaudio", "soxr", "soundfile", "numpy", "scipy")
# of the natural logarithm; half precision, in which features are stored, has steps of 4e-3
_PROBE_TOLERANCE = 2e-3


def build(root: Path, filenames: Iterable[str], features: FeatureConfig, cache_dir: Path,
          workers: int | None = None, skip_damaged: bool = False) -> FeatureCache:
    """Bring the features of a data set up to date and open them.

    A clip is up to date if its file has the recorded identity, or else the recorded content. The files
    are the same, byte for byte, for any number of workers and after any interruptions. Notes about the
    sound go to stderr.

    Args:
        root: folder of the data set.
        filenames: names of its clips, relative to ``root``, with forward slashes.
        features: feature configuration.
        cache_dir: folder of all caches.
        workers: number of processes; default: one per core.
        skip_damaged: list unreadable clips in ``damaged`` instead of raising.

    Raises:
        InputError: clips cannot be read (after all others have been stored), a mel filter is empty,
            the disk is full, or ``cache_dir`` is not writable.
    """
    root, folder = Path(root), cache.cache_folder(root, features, cache_dir)
    names = sorted(set(filenames))
    damaged: dict[str, str] = {}
    with _writing(folder):
        clips = check_versions(folder, root, features, cache.read_index(folder, features))
        outdated = outdated_clips(root, names, clips, workers, damaged)
        cache.write_index(folder, clips)  # without the clips whose rows are overwritten next
        if outdated:
            compute_clips(root, outdated, features, folder, clips, workers, damaged)

    if damaged and (not skip_damaged or len(damaged) == len(names)):
        remedy = "no clip is left" if skip_damaged else "replace them, or leave them out with --skip-damaged"
        named = "; ".join(f"{name}: {reason}" for name, reason in sorted(damaged.items())[:10])
        more = f"; and {len(damaged) - 10} more" if len(damaged) > 10 else ""
        raise InputError(f"{len(damaged):,} of {len(names):,} clips cannot be read, all others are stored; "
                         f"{remedy}: {named}{more}")
    wanted, notes = {}, {}
    for name in names:
        if name not in damaged:
            wanted[name] = clips[name]
            notes[name] = clips[name].notes.split(",")
    for note in describe(notes):
        print(f"note: {note}", file=sys.stderr, flush=True)
    return FeatureCache(folder, features, wanted, dict(sorted(damaged.items())))


def is_complete(root: Path, features: FeatureConfig, cache_dir: Path) -> bool:
    """Return whether a data set's features were computed with this configuration and these libraries.

    :class:`task1a.features.cache.FeatureCache` has the clips that they hold, and their content.
    """
    stored = _stored_description(cache.cache_folder(root, features, cache_dir))
    return bool(stored.get("probe")) and stored == _describe(Path(root), features, stored["probe"])


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Lock a folder, remove what a killed build left there, and report errors of writing in one
    line."""
    with exclusive(folder / ".lock", f"features: waiting for another run that writes {folder}"):
        try:
            for part in folder.glob(".*.part"):
                part.unlink()
            yield
        except BrokenProcessPool:
            raise InputError("a worker process was killed, perhaps for lack of memory; run the same command "
                             "again to resume, with data.workers=1 for fewer processes") from None
        except IsADirectoryError as error:
            raise InputError(f"{error.filename}: is a folder where a file belongs; remove it") from None
        except OSError as error:
            raise InputError(f"{folder}: cannot be written ({error.strerror or error}); make room or choose "
                             "another folder with data.cache_dir, and run the same command again to resume"
                             ) from None


def check_versions(folder: Path, root: Path, features: FeatureConfig,
                    clips: dict[str, Clip]) -> dict[str, Clip]:
    """Describe the cache; return its clips, or none of them if other libraries computed them
    otherwise."""
    stored = _stored_description(folder)
    probe = stored.get("probe")
    if not probe or stored != _describe(root, features, probe):
        new = probe_features(features)
        same = isinstance(probe, list) and len(probe) == len(new)
        if isinstance(probe, list) and same:
            for value, now in zip(probe, new, strict=True):
                same = same and isinstance(value, float) and abs(value - now) <= _PROBE_TOLERANCE
        if clips and not same:
            print("features: the installed libraries compute other features than those that are stored; all "
                  "are computed again", file=sys.stderr, flush=True)
            clips = {}
            cache.write_index(folder, clips)
        # the old one stays, or small changes of many versions would add up unnoticed
        text = yaml.safe_dump(_describe(root, features, probe if same else new), sort_keys=False,
                              allow_unicode=True, default_flow_style=None)
        write_text(folder / cache.DESCRIPTION, text)
    return clips


def probe_features(features: FeatureConfig) -> list[float]:
    """Compute the features of a second of noise, averaged over 16 bands of mel bins and over 16
    parts of the clip."""
    from task1a.features.log_mel import log_mel

    noise = np.frombuffer(random.Random(0).randbytes(2 * 44_100), "<i2")
    file = io.BytesIO()
    soundfile.write(file, noise, 44_100, format="WAV", subtype="PCM_16")
    energies = log_mel(read_clip(file, features), features)
    means = []
    for axis in (0, 1):
        for part in np.array_split(energies.mean(axis=axis), 16):
            if len(part):
                means.append(round(float(part.mean()), 4))
    return means


def _describe(root: Path, features: FeatureConfig, probe: list[float] | None) -> dict[str, Any]:
    versions: dict[str, str | None] = {}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # the version is unknown, and so never another one
            versions[name] = None
    array = {"file": cache.ARRAY, "type": "float16, little-endian", "row": [features.n_mels, features.frames],
             "rows": f"see {cache.INDEX}"}
    return {"root": str(root.resolve()), "features": asdict(features), "array": array,
            "made_with": versions, "probe": probe}


def _stored_description(folder: Path) -> dict[str, Any]:
    """Read the description of a cache; empty if there is none, or none that can be read."""
    path = folder / cache.DESCRIPTION
    try:
        stored = read_yaml(path) if path.is_file() else None
    except InputError:
        return {}
    return stored if isinstance(stored, dict) else {}


def outdated_clips(root: Path, names: Sequence[str], clips: dict[str, Clip], workers: int | None,
              damaged: dict[str, str]) -> list[str]:
    """Return the clips to compute: new ones, and changed ones, which are removed from ``clips``.

    Where only the identity of a file has changed, as after a copy, it is renewed. Missing files go to
    ``damaged``.
    """
    new, touched = [], []
    for name in names:
        try:
            status = os.stat(os.path.join(root, name))
        except OSError as error:
            damaged[name] = str(error.strerror)
            continue
        if name not in clips:
            new.append(name)
        elif clips[name].file != FileIdentity.of(status):
            touched.append(name)

    identify_clip = functools.partial(identify, root)
    with (parallel_map(len(touched), _MIN_CLIPS, _CHUNK, workers) as mapped,
          progress(mapped(identify_clip, touched), "compare", len(touched), " clips") as results):
        for name, found in zip(touched, results, strict=True):
            if isinstance(found, str):
                damaged[name] = found
            elif found[1] == clips[name].file_digest:
                clips[name] = clips[name]._replace(file=found[0])
            else:
                del clips[name]
                new.append(name)
    return sorted(new)


def identify(root: Path, name: str) -> tuple[FileIdentity, str] | str:
    """Return identity and digest of a clip's file, or the reason why it cannot be read."""
    try:
        with open_regular(root / name) as file:
            return _file_digest(file)
    except OSError as error:
        return str(error.strerror)


def _file_digest(file: BinaryIO) -> tuple[FileIdentity, str]:
    """Return the identity of an open file and the BLAKE2b digest of its content."""
    identity = FileIdentity.of(os.fstat(file.fileno()))
    digest = hashlib.blake2b(digest_size=16)
    while block := file.read(1 << 20):
        digest.update(block)
    return identity, digest.hexdigest()


def compute_clips(root: Path, names: Sequence[str], features: FeatureConfig, folder: Path,
             clips: dict[str, Clip], workers: int | None, damaged: dict[str, str]) -> None:
    """Compute clips, in order, into the rows that no other clip has; those that fail go to
    ``damaged``."""
    import torch

    from task1a.features.log_mel import LogMel

    LogMel(features)  # refuses an impossible configuration before any clip is read
    taken = {clip.row for clip in clips.values()}
    free = (row for row in itertools.count() if row not in taken)
    tasks = list(zip(names, free))  # noqa: B905 - the rows are endless
    rows = 1 + max(taken | {tasks[-1][1]})
    make_room(folder / cache.ARRAY, rows * cache.row_bytes(features), len(names))

    extract_clip = functools.partial(extract, root, features, folder / cache.ARRAY)
    threads, next_save = torch.get_num_threads(), time.monotonic() + _SAVE_SECONDS
    torch.set_num_threads(1)
    try:
        with (parallel_map(len(names), _MIN_CLIPS, _CHUNK, workers) as mapped,
              progress(mapped(extract_clip, tasks), "log-mel", len(names), " clips") as results):
            # Results come in the order of the names, also from several workers. So the clips of an
            # interrupted build are the first ones, and the rest gets the rows that it would have
            # had.
            for name, clip in zip(names, results, strict=True):
                if isinstance(clip, str):
                    damaged[name] = clip
                else:
                    clips[name] = clip
                if (started := time.monotonic()) > next_save:
                    cache.write_index(folder, clips)
                    saved = time.monotonic()
                    next_save = saved + max(_SAVE_SECONDS, _SAVE_TIMES * (saved - started))
    finally:
        torch.set_num_threads(threads)
        cache.write_index(folder, clips)


def extract(root: Path, features: FeatureConfig, array: Path, task: tuple[str, int]) -> Clip | str:
    """Compute one clip and write its row, or return why it cannot be read."""
    import torch

    from task1a.features.log_mel import log_mel

    torch.set_num_threads(1)  # there is a process for every core
    name, row = task
    sound = SoundCheck()
    try:
        # The file is read twice, for its digest and by libsndfile. Decoding the bytes that were
        # read for the digest takes 10 % longer, because libsndfile then reads through Python.
        with open_regular(root / name) as file:
            identity, file_digest = _file_digest(file)
            energies = log_mel(read_clip(file, features, sound), features)
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
    return Clip(identity, file_digest, row, cache.crc32(stored), ",".join(sound.notes()))


def make_room(array: Path, size: int, clips: int) -> None:
    """Extend the array to ``size`` bytes if the disk has room for them."""
    array.touch()
    status = array.stat()
    # rows that were never written occupy no blocks
    occupied = status.st_blocks * 512 if hasattr(status, "st_blocks") else status.st_size
    needed, free = max(0, size - occupied), shutil.disk_usage(array.parent).free
    print(f"features: {clips:,} clips to compute, {needed / 1e9:.2f} GB of {free / 1e9:.1f} GB free disk "
          "space needed", file=sys.stderr, flush=True)
    if needed > free:
        raise InputError(f"{array.parent}: {needed / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free; "
                         "make room there or choose another folder with data.cache_dir")
    if status.st_size < size:
        os.truncate(array, size)
