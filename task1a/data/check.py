"""The check of a data set before anything is computed from it.

The header of every recording is read, and no samples are decoded. Conventions:

- a *problem* makes results impossible or meaningless and stops the run: missing or damaged audio, a
  clip or a recording location in both splits, a scene without clips to learn or to test, a
  withdrawn copy of the split;
- a *note* is worth knowing: clips that no split uses, devices that only the test split has,
  different audio formats, recordings of another length than the rest, which may be truncated, and
  those of :mod:`task1a.data.sound`.

Problems and notes count all cases and name the first ones.
"""
import hashlib
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from task1a.data import sound, tau_layout
from task1a.data.dataset import Dataset
from task1a.data.recording import FileIdentity, Header, read_header
from task1a.errors import InputError, counted
from task1a.workers import parallel_map

NAMED = 10
"""Number of cases that a problem or a note names; all are counted."""

# headers read in the time that worker processes need to start; sent to a worker at a time
_MIN_HEADERS, _CHUNK = 50_000, 500
_OFFICIAL_SPLITS = ((13_962, 2_968), (139_620, 29_680))
"""clips for training and test in the TAU sets of 2020 and 2022, which leave out 6,105 and 61,050"""


@dataclass(frozen=True)
class DataReport:
    """Results of a check."""

    facts: dict[str, Any]
    """plain data: ``name``, ``demo``, ``labels``, ``devices``, ``clips`` and ``by_device`` (by
    split), ``locations``, ``cities``, ``damaged`` (excluded clips), ``formats`` (clips by audio
    format, for each set)"""
    problems: list[str] = field(default_factory=list)
    """problems: each a text with a line for the count and a line for each named case"""
    notes: list[str] = field(default_factory=list)
    """notes, in the same form"""


def check(dataset: Dataset, skip_damaged: bool = False, sample_rate: int = 0,
          clip_seconds: float = math.inf) -> DataReport:
    """Check a development set and, if there is one, an evaluation set.

    Args:
        dataset: the recordings and their tables.
        skip_damaged: report damaged clips as left out instead of as a problem. Missing clips remain
            a problem.
        sample_rate: sample rate of the features in Hz; recordings with a lower one are noted.
        clip_seconds: length of the clips of the features in seconds; much longer recordings are noted.

    Raises:
        InputError: a table of the development set is missing or malformed.
    """
    root, clips = dataset.development, dataset.clips
    # a clip that is listed in both splits counts in both
    parts = {"train": clips[clips.split.isin(("train", "both"))],
             "test": clips[clips.split.isin(("test", "both"))],
             "unused": clips[clips.split == "unused"]}
    headers = _read_headers(root, clips.filename.tolist())
    locations = clips.identifier.unique().tolist()
    report = DataReport({
        "name": root.resolve().name,
        "demo": tau_layout.is_demo(root),
        "labels": sorted(clips.scene_label.unique()),
        "devices": sorted(clips.device.unique()),
        "clips": {"meta": len(clips), "train": 0, "test": 0, "unused": 0, "evaluation": 0},
        "by_device": {},
        "locations": len(locations),
        "cities": len({location.rsplit("-", 1)[0] for location in locations}),
        "damaged": [],
        "formats": {"development": _count_formats(headers.values())},
    })
    for split, part in parts.items():
        report.facts["clips"][split] = len(part)
        report.facts["by_device"][split] = part.device.value_counts().sort_index().to_dict()

    unused = {name: headers.pop(name) for name in parts["unused"].filename.tolist()}
    damaged = [name for name, header in headers.items() if header.fault and not header.missing]
    check_splits(parts, damaged if skip_damaged else [], report)
    note_identical_files(clips, headers, report)
    _check_files("", root, headers, report, skip_damaged)
    _note_sound("", headers, sample_rate, clip_seconds, report)
    if unused:
        advice = ("list them in fold1_train.csv, or in fold1_test.csv and fold1_evaluate.csv, if they "
                  "should be used")
        if (len(parts["train"]), len(parts["test"])) in _OFFICIAL_SPLITS:
            advice = "this is intended, the official split leaves them out"
        report.notes.append(f"unused clips, in neither split: {len(unused):,}; {advice}")
        _add(report.notes, "missing or damaged among the unused clips: {}; they are not needed",
             [f"{name} ({header.fault})" for name, header in unused.items() if header.fault])

    check_evaluation(dataset, report, skip_damaged, sample_rate, clip_seconds)
    for name, formats in report.facts["formats"].items():
        if len(formats) > 1:
            report.notes.append(f"{name} set: {len(formats)} audio formats; all are read, resampled and "
                                "mixed to mono")
    return report


def content_digest(dataset: Dataset) -> str:
    """Return a digest of the data sets, by which a result made from them is found to be up to date.

    It depends on the content of the tables and on the name and identity of every clip. No clip is
    opened.

    Raises:
        InputError: a table is missing or malformed.
    """
    # Tables by content, recordings by identity: reading 23,035 clips takes minutes. Lengths and line
    # ends keep neighbouring texts apart, so that no other tables have the same bytes in a row.
    digest = hashlib.sha256()
    for name, root in dataset.roots.items():
        clips = dataset.clips if name == "development" else dataset.evaluation_clips
        for table in (root / tau_layout.META, *sorted((root / tau_layout.SETUP).glob("fold1_*.csv"))):
            if table.is_file():
                content = table.read_bytes()
                digest.update(f"{table.name}\t{len(content)}\n".encode() + content)
        folder = os.path.join(root, "")
        for filename in clips.filename.tolist():
            try:
                identity = tuple(FileIdentity.of(os.stat(folder + filename)))
            except OSError:  # the check reports it
                identity = None
            digest.update(f"{filename}\t{identity}\n".encode())
    return digest.hexdigest()


def format_report(report: DataReport) -> str:
    """Format a report for a terminal: counts by split and device, formats, notes, problems."""
    facts = report.facts
    demo_mark = " (synthesised demo data)" if facts["demo"] else ""
    lines = [f"{facts['name']}{demo_mark}: {counted(facts['clips']['meta'], 'clip')} of "
             f"{counted(len(facts['labels']), 'scene')}, {counted(facts['locations'], 'location')} in "
             f"{counted(facts['cities'], 'city', 'cities')}"]
    lines.append(f"  {'split':<6}  clips")
    for device in facts["devices"]:
        lines[-1] += f"{device:>7}"
    for split, by_device in facts["by_device"].items():
        lines.append(f"  {split:<6}{facts['clips'][split]:>7,}")
        for device in facts["devices"]:
            lines[-1] += f"{by_device.get(device, 0):>7,}"
    if facts["clips"]["evaluation"]:
        lines.append(f"  evaluation set: {counted(facts['clips']['evaluation'], 'clip')}")
    for name, formats in facts["formats"].items():
        for audio_format, count in formats.items():
            lines.append(f"  {name} audio: {count:,} x {audio_format}")
    for note in report.notes:
        lines.append(f"note: {note}")
    for problem in report.problems:
        lines.append(f"problem: {problem}")
    return "\n".join(lines)


def _read_headers(root: Path, filenames: Sequence[str]) -> dict[str, Header]:
    """Read the headers of all recordings of a set, by file name."""
    paths = [os.path.join(root, name) for name in filenames]
    with parallel_map(len(paths), _MIN_HEADERS, _CHUNK) as mapped:
        return dict(zip(filenames, mapped(read_header, paths), strict=True))


def check_splits(parts: Mapping[str, pd.DataFrame], excluded: Sequence[str], report: DataReport) -> None:
    """Find what the splits share, and which scenes they lack without the clips in ``excluded``."""
    train, test = parts["train"], parts["test"]
    if older := tau_layout.older_copy(len(train), len(test)):
        report.problems.append(older)
    _add(report.problems, "clips in both the train and the test split: {}",
         train.filename[train.split == "both"])
    in_train, in_test = train.identifier.value_counts(), test.identifier.value_counts()
    shared = []
    for name in sorted(set(in_train.index) & set(in_test.index)):
        shared.append(f"{name} ({counted(in_train[name], 'train clip')}, {counted(in_test[name], 'test clip')})")
    _add(report.problems, "locations in both the train and the test split: {}; results would not hold for new "
         "locations", shared)
    for split, part, consequence in (("train", train, "cannot be learnt"), ("test", test, "cannot be tested")):
        readable = part[~part.filename.isin(excluded)]
        absent = sorted(set(report.facts["labels"]) - set(readable.scene_label.unique()))
        if absent:
            report.problems.append(f"scenes without a readable clip in the {split} split, which {consequence}: "
                                   f"{', '.join(absent)}")
    unseen = sorted(set(test.device) - set(train.device))
    if unseen:
        report.notes.append(f"unseen devices, in the test split only: {', '.join(unseen)}")


def note_identical_files(clips: pd.DataFrame, headers: dict[str, Header], report: DataReport) -> None:
    """Find files that are listed under several names.

    The names do not show this: links give a file a second name, and some file systems ignore the case
    of letters or treat the composed and the decomposed form of a character alike.
    """
    split_of = dict(zip(clips.filename.tolist(), clips.split.tolist(), strict=True))
    names_of: dict[tuple[int, int], list[str]] = {}
    for name, header in headers.items():
        if header.inode is not None:
            names_of.setdefault(header.inode, []).append(name)

    across: list[str] = []
    within: list[str] = []
    for names in names_of.values():
        if len(names) > 1:
            case = " = ".join(f"{name} ({split_of[name]})" for name in names[:3])
            if len(names) > 3:
                case += f" = ... ({len(names):,} names)"
            splits = {split_of[name] for name in names}
            (across if len(splits) > 1 else within).append(case)
    _add(report.notes, "recordings in both the train and the test split under different names: {}; the test "
         "says nothing about unseen recordings", across)
    _add(report.notes, "recordings that one split lists under several names: {}", within)


def _check_files(which: str, root: Path, headers: dict[str, Header], report: DataReport,
                 skip_damaged: bool) -> None:
    missing = [name for name, header in headers.items() if header.missing]
    # only the named ones, because each reads folders
    for number, name in enumerate(missing[:NAMED]):
        # the two may look the same, so it is shown in ASCII
        if similar := tau_layout.similar_file(root, name):
            missing[number] = f"{name} (there is {similar!a}; rename it, or correct the tables)"
    damaged, cases = [], []
    for name, header in headers.items():
        if header.fault and not header.missing:
            damaged.append(name)
            cases.append(f"{name} ({header.fault})")
    _add(report.problems, f"missing {which}audio files: {{}}; unpack all audio archives of the data set", missing)
    if skip_damaged:
        report.facts["damaged"].extend(damaged)
        _add(report.notes, f"damaged {which}audio files: {{}}, left out", cases)
    else:
        _add(report.problems, f"damaged {which}audio files: {{}}; restore them, or leave them out with --skip-damaged",
             cases)


def _note_sound(which: str, headers: dict[str, Header], sample_rate: int, clip_seconds: float,
                report: DataReport) -> None:
    """Note recordings that may not be what they seem, by their headers, and unusual lengths."""
    noted, seconds = {}, {}
    for name, header in headers.items():
        if not header.fault:
            noted[name] = sound.header_notes(header.notes, header.rate, header.seconds, sample_rate, clip_seconds)
            seconds[name] = header.seconds
    for note in sound.describe(noted):
        report.notes.append(which + note)

    # libsndfile reads a truncated file as a shorter recording, and only of a WAV file the header
    # tells
    lengths = Counter(round(value, 2) for value in seconds.values())
    [(usual, count)] = lengths.most_common(1) or [(0.0, 0)]
    if count > len(seconds) / 2:
        _add(report.notes, f"{which}recordings of another length than most, which have {usual:g} s: {{}}; they may be "
             "truncated", [f"{name} ({value:.2f} s)" for name, value in seconds.items()
                           if abs(value - usual) > 0.01 * usual])


def check_evaluation(dataset: Dataset, report: DataReport, skip_damaged: bool, sample_rate: int,
                     clip_seconds: float) -> None:
    """Check the evaluation set, if there is one: its table, and whether its recordings can be read."""
    if dataset.evaluation is None:
        report.notes.append("no evaluation set is given (--eval-root): the system can be trained and "
                            "evaluated, but there is nothing to submit")
        return
    try:
        clips = dataset.evaluation_clips
    except InputError as error:
        report.problems.append(str(error))
        return
    headers = _read_headers(dataset.evaluation, clips.filename.tolist())
    report.facts["clips"]["evaluation"] = len(clips)
    report.facts["formats"]["evaluation"] = _count_formats(headers.values())
    _check_files("evaluation ", dataset.evaluation, headers, report, skip_damaged)
    _note_sound("evaluation set: ", headers, sample_rate, clip_seconds, report)
    if all(header.fault for header in headers.values()):
        report.problems.append(f"of {counted(len(clips), 'evaluation clip')}, none can be read: there is nothing to "
                               "submit; restore them, or leave out --eval-root")


def _add(texts: list[str], heading: str, cases: Sequence[str]) -> None:
    """Add a problem or a note if there are cases; ``{}`` in the heading stands for their number."""
    if len(cases):
        lines = [heading.format(f"{len(cases):,}"), *cases[:NAMED]]
        if len(cases) > NAMED:
            lines.append(f"... and {len(cases) - NAMED:,} more")
        texts.append("\n    ".join(lines))


def _count_formats(headers: Iterable[Header]) -> dict[str, int]:
    """Count clips by format, most frequent first; a format is named with the range of its clips'
    lengths."""
    seconds: dict[str, list[float]] = {}
    for header in headers:
        if not header.fault:
            seconds.setdefault(header.audio_format, []).append(round(header.seconds, 1))
    counts = {}
    for audio_format, lengths in seconds.items():
        shortest, longest = min(lengths), max(lengths)
        span = f"{shortest}" if shortest == longest else f"{shortest} to {longest}"
        counts[f"{audio_format}, {span} s"] = len(lengths)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
