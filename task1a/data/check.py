"""The check of a data set before anything is computed from it: what there is, and all that is wrong with it.

Every recording's header is read, and none is decoded. Conventions:

- a *problem* makes results impossible or meaningless and stops the run: audio that is missing or damaged, a clip or a
  recording location in both splits, a label that cannot be learnt or tested, a withdrawn copy of the split;
- a *note* is worth knowing: clips that no split uses, devices that only the test split hears, differing formats.

Problems and notes are counted in full and name their first ten cases.
"""
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
from soundfile import SoundFile

from task1a.data import tau_layout
from task1a.data.dataset import Dataset
from task1a.data.recording import open_recording
from task1a.data.regular_file import open_regular
from task1a.errors import InputError
from task1a.machine import cores

NAMED = 10
"""Cases that a problem or a note names; all are counted."""

_SPLITS = ("train", "test", "unused")
_CHUNK = 256  # files a task: a task a file would spend more time on the pool than on the files


@dataclass(frozen=True)
class DataReport:
    """What a check found."""

    facts: dict[str, Any]
    """plain data: ``name``, ``demo``, ``labels``, ``devices``, ``clips`` and ``by_device`` (by split), ``locations``,
    ``cities``, ``damaged`` (clips left out), ``formats`` (clips by audio format, for each set)"""
    problems: list[str] = field(default_factory=list)
    """what stops a run; one text each, a line for the count and a line for each of the first ten cases"""
    notes: list[str] = field(default_factory=list)
    """what does not stop it, in the same form"""


@dataclass(frozen=True)
class Header:
    """What the head of an audio file says: its format and length in seconds, or why it cannot be used."""

    audio_format: str = ""
    seconds: float = 0.0
    fault: str = ""
    missing: bool = False
    identity: tuple[int, int] | None = None
    """device and inode of the file, which are the same under all its names; None where it has none"""


def check(dataset: Dataset, workers: int | None = None, skip_damaged: bool = False) -> DataReport:
    """Check a development set and, where there is one, an evaluation set.

    Args:
        dataset: the recordings and their tables.
        workers: threads that open the files; one a core when not given.
        skip_damaged: list damaged clips in the facts as left out instead of as a problem. Missing ones stay a problem.

    Raises:
        InputError: a table of the development set is missing or malformed, so that there is nothing to check.
    """
    data_root, clips = dataset.development, dataset.clips
    headers = read_headers(data_root, clips.filename, workers)
    needed = {f: headers[f] for f in clips.filename[clips.split != "unused"]}
    unused = {f: headers[f] for f in clips.filename[clips.split == "unused"]}
    facts = _facts(data_root, clips, headers)
    report = DataReport(facts)
    left_out = [name for name, header in needed.items() if header.fault and not header.missing] if skip_damaged else []
    _check_split(clips, left_out, report)
    _check_identities(clips, needed, report)
    _check_files("", needed, report, skip_damaged)
    _note_unused(unused, report)
    if dataset.evaluation is None:
        report.notes.append("no evaluation set is given: the system will be trained and judged, but there is nothing "
                            "to submit (--eval-root)")
    else:
        _check_evaluation(dataset, report, workers, skip_damaged)
    for name, formats in facts["formats"].items():
        if len(formats) > 1:
            report.notes.append(f"{name} set: {len(formats)} audio formats; all are read, resampled and mixed to mono")
    return report


def read_headers(root: Path, filenames: Iterable[str], workers: int | None = None) -> dict[str, Header]:
    """Open the head of every file, in threads; keys are ``filenames`` in their order."""
    names = list(filenames)
    chunks = [names[start:start + _CHUNK] for start in range(0, len(names), _CHUNK)]
    with ThreadPoolExecutor(workers or cores()) as pool:
        read = pool.map(lambda chunk: [read_header(root / name) for name in chunk], chunks)
        return dict(zip(names, chain.from_iterable(read), strict=True))


def read_header(path: Path) -> Header:
    """Read the format and length of one audio file, or find out why it cannot be used."""
    try:
        with open_regular(path) as file, open_recording(file) as recording:
            stat = os.fstat(file.fileno())
            identity = (stat.st_dev, stat.st_ino) if stat.st_ino else None  # some network drives have no inodes
            return Header(_format_name(recording), recording.frames / recording.samplerate, identity=identity)
    except FileNotFoundError:
        return Header(fault="no such file", missing=True)
    except InputError as error:
        return Header(fault=str(error))
    except OSError as error:
        return Header(fault=f"unreadable: {error.strerror}")


def content_digest(dataset: Dataset) -> str:
    """A digest of what the data sets hold, which tells whether something made from them is still up to date.

    It changes with every byte of the split files and with the name, size and modification time of every clip; the
    clips are not opened. Moving a data set does not change it.

    Raises:
        InputError: a table is missing or malformed.
    """
    digest = hashlib.sha256()
    for name, root in dataset.roots.items():
        clips = dataset.clips if name == "development" else dataset.evaluation_clips
        for table in (*root.glob(tau_layout.META), *sorted((root / tau_layout.SETUP).glob("fold1_*.csv"))):
            if table.is_file():
                content = table.read_bytes()
                digest.update(f"{table.name}\t{len(content)}\n".encode() + content)
        for filename in clips.filename:
            size, modified = _size_and_time(root / filename)
            digest.update(f"{filename}\t{size}\t{modified}\n".encode())
    return digest.hexdigest()


def format_report(report: DataReport) -> str:
    """The report as text for a terminal: counts by split and device, formats, notes, problems."""
    facts = report.facts
    demo_mark = " (synthesised demo data)" if facts["demo"] else ""
    lines = [f"{facts['name']}{demo_mark}: {facts['clips']['meta']:,} clips of {len(facts['labels'])} scenes, "
             f"{facts['locations']:,} locations in {facts['cities']:,} cities", *_table(facts)]
    if facts["clips"]["evaluation"]:
        lines.append(f"  evaluation set: {facts['clips']['evaluation']:,} clips")
    for name, formats in facts["formats"].items():
        lines += [f"  {name} audio: {count:,} x {audio_format}" for audio_format, count in formats.items()]
    lines += [f"note: {note}" for note in report.notes]
    lines += [f"problem: {problem}" for problem in report.problems]
    return "\n".join(lines)


def _facts(data_root: Path, clips: pd.DataFrame, headers: dict[str, Header]) -> dict[str, Any]:
    members = {split: clips[_in(clips, split)] for split in _SPLITS}
    return {
        "name": data_root.resolve().name,
        "demo": tau_layout.is_demo(data_root),
        "labels": list(tau_layout.scene_labels(clips)),
        "devices": sorted(clips.device.unique()),
        "clips": {"meta": len(clips), **{split: len(part) for split, part in members.items()}, "evaluation": 0},
        "by_device": {split: dict(sorted(Counter(part.device).items())) for split, part in members.items()},
        "locations": int(clips.identifier.nunique()),
        "cities": int(clips.identifier.str.rsplit("-", n=1).str[0].nunique()),
        "damaged": [],
        "formats": {"development": _count_formats(headers.values())},
    }


def _in(clips: pd.DataFrame, split: str) -> pd.Series:
    # a clip that wrongly is in both splits counts in both
    return clips.split.isin((split,) if split == "unused" else (split, "both"))


def _check_split(clips: pd.DataFrame, left_out: Sequence[str], report: DataReport) -> None:
    """Check what the splits share, and which scenes each of them lacks without the clips that are left out."""
    train, test = clips[_in(clips, "train")], clips[_in(clips, "test")]
    older = tau_layout.older_copy(len(train), len(test)).removeprefix("; ")
    if older:
        report.problems.append(older)
    both = clips.filename[clips.split == "both"]
    if len(both):
        report.problems.append(_named(f"clips in both the train and the test split: {len(both):,}", both))
    shared = sorted(set(train.identifier) & set(test.identifier))
    if shared:
        counts = [(name, sum(train.identifier == name), sum(test.identifier == name)) for name in shared]
        report.problems.append(_named(
            f"locations in both the train and the test split: {len(shared):,}; the test would be of places learnt",
            [f"{name} ({in_train:,} train clips, {in_test:,} test clips)" for name, in_train, in_test in counts]))
    for split, part, consequence in (("train", train, "cannot be learnt"), ("test", test, "cannot be tested")):
        readable = part[~part.filename.isin(left_out)]
        absent = sorted(set(report.facts["labels"]) - set(readable.scene_label))
        if absent:
            report.problems.append(f"scenes without a readable clip in the {split} split, which {consequence}: "
                                   f"{', '.join(absent)}")
    unseen = sorted(set(test.device) - set(train.device))
    if unseen:
        report.notes.append(f"unseen devices, in the test split only: {', '.join(unseen)}")


def _check_identities(clips: pd.DataFrame, headers: dict[str, Header], report: DataReport) -> None:
    """Find files that the splits list under several names.

    Names alone do not tell it: a link gives a file a second name, and so does a file system that takes upper and lower
    case, or the composed and the decomposed form of a letter, for the same.
    """
    split_of = dict(zip(clips.filename, clips.split, strict=True))
    names_of: dict[tuple[int, int], list[str]] = {}
    for name, header in headers.items():
        if header.identity is not None:
            names_of.setdefault(header.identity, []).append(name)
    across, within = [], []
    for names in names_of.values():
        case = " = ".join(f"{name} ({split_of[name]})" for name in names[:3])
        if len(names) > 3:
            case += f" = ... ({len(names):,} names)"
        if len({split_of[name] for name in names}) > 1:
            across.append(case)
        elif len(names) > 1:
            within.append(case)
    if across:
        heading = (f"recordings in both the train and the test split under different names: {len(across):,}; the test "
                   "says nothing about unseen recordings")
        report.notes.append(_named(heading, across))
    if within:
        heading = f"recordings that one split lists under several names: {len(within):,}"
        report.notes.append(_named(heading, within))


def _check_files(which: str, headers: dict[str, Header], report: DataReport, skip_damaged: bool) -> None:
    missing = [name for name, header in headers.items() if header.missing]
    damaged = {name: header.fault for name, header in headers.items() if header.fault and not header.missing}
    if missing:
        report.problems.append(_named(f"missing {which}audio files: {len(missing):,}; unpack all audio archives of the "
                                      "data set", missing))
    if not damaged:
        return
    cases = [f"{name} ({fault})" for name, fault in damaged.items()]
    if skip_damaged:
        report.facts["damaged"].extend(damaged)
        report.notes.append(_named(f"damaged {which}audio files: {len(damaged):,}, left out", cases))
    else:
        report.problems.append(_named(f"damaged {which}audio files: {len(damaged):,}; restore them, or leave them out "
                                      "with --skip-damaged", cases))


def _note_unused(headers: dict[str, Header], report: DataReport) -> None:
    if not headers:
        return
    report.notes.append(f"unused clips, in neither split: {len(headers):,}; this is intended, the official split "
                        "leaves them out (6,105 on TAU Urban Acoustic Scenes 2020 Mobile)")
    faulty = [f"{name} ({header.fault})" for name, header in headers.items() if header.fault]
    if faulty:
        report.notes.append(_named(f"missing or damaged among the unused clips: {len(faulty):,}; nothing needs them",
                                   faulty))


def _check_evaluation(dataset: Dataset, report: DataReport, workers: int | None, skip_damaged: bool) -> None:
    try:
        clips = dataset.evaluation_clips
    except InputError as error:
        report.problems.append(str(error))
        return
    headers = read_headers(dataset.evaluation, clips.filename, workers)
    report.facts["clips"]["evaluation"] = len(clips)
    report.facts["formats"]["evaluation"] = _count_formats(headers.values())
    _check_files("evaluation ", headers, report, skip_damaged)
    if all(header.fault for header in headers.values()):
        report.problems.append(f"none of the {len(clips):,} evaluation clips can be read: there is nothing to submit; "
                               "restore them, or leave out --eval-root")


def _named(heading: str, cases: Sequence[str]) -> str:
    more = [f"... and {len(cases) - NAMED:,} more"] if len(cases) > NAMED else []
    return "\n    ".join([heading, *list(cases)[:NAMED], *more])


def _count_formats(headers: Iterable[Header]) -> dict[str, int]:
    """Clips by format, the commonest first; a format's clips may differ in length."""
    seconds: dict[str, list[float]] = {}
    for header in headers:
        if not header.fault:
            seconds.setdefault(header.audio_format, []).append(round(header.seconds, 1))
    named = {f"{name}, {min(s)}{f' to {max(s)}' if min(s) < max(s) else ''} s": len(s) for name, s in seconds.items()}
    return dict(sorted(named.items(), key=lambda item: (-item[1], item[0])))


def _format_name(info: SoundFile) -> str:
    encodings = {"PCM_U8": "8 bit", "PCM_S8": "8 bit", "PCM_16": "16 bit", "PCM_24": "24 bit", "PCM_32": "32 bit",
                 "FLOAT": "32 bit float", "DOUBLE": "64 bit float"}
    channels = {1: "mono", 2: "stereo"}.get(info.channels, f"{info.channels} channels")
    return f"{info.samplerate / 1000:g} kHz, {encodings.get(info.subtype, info.subtype_info)}, {channels}"


def _size_and_time(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError:  # the check says what is wrong with it
        return -1, -1
    return stat.st_size, stat.st_mtime_ns


def _table(facts: dict[str, Any]) -> list[str]:
    rows = [["split", "clips", *facts["devices"]]]
    for split in _SPLITS:
        by_device = facts["by_device"][split]
        rows.append([split, f"{facts['clips'][split]:,}", *(f"{by_device.get(d, 0):,}" for d in facts["devices"])])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(f"{cell:{'<' if column == 0 else '>'}{width}}"
                             for column, (cell, width) in enumerate(zip(row, widths, strict=True))) for row in rows]
