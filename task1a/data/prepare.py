"""A data set from any recordings: ``python -m task1a.data.prepare SOURCE OUT``.

SOURCE is a folder with a folder of recordings for each scene, or a CSV table ``file,label[,device,location]``. OUT will
hold data sets in the layout of :mod:`task1a.data.tau_layout`: ``development`` and, if asked for, ``evaluation``, whose
labels are in ``evaluation-reference.csv``.

Clips of one location are always in the same split. Without a location, every recording is one: parts of a recording
must not be in both splits, or the test would only show that a model recognises what it has already heard. Recordings
longer than a clip are cut; all others are linked or copied as they are.
"""
import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile
from tqdm import tqdm

from task1a.data.recording import SUFFIXES, open_recording, read_header
from task1a.errors import CommandParser, InputError, counted, printable, run_command, shown
from task1a.files import write_text

if TYPE_CHECKING:
    import pandas as pd

_SHORTEST_REST = 0.5  # of a clip; a shorter rest of a long recording is dropped


@dataclass(frozen=True)
class Options:
    """What the user decides."""

    clip_seconds: float = 10.0
    """length of the clips that longer recordings are cut into"""
    test: float = 0.3
    """fraction of the locations of every scene in the test split"""
    evaluation: float = 0.0
    """fraction of the locations of every scene in an evaluation set; 0: none"""
    seed: int = 0
    """of the choice of the locations"""
    skip_damaged: bool = False
    """leave unreadable recordings out instead of stopping"""


def prepare(source: Path, out: Path, options: Options) -> "pd.DataFrame":
    """Write the data sets, and return the clips.

    Returns:
        Columns ``filename``, ``scene_label``, ``identifier`` (location), ``device``, ``split`` (``train``, ``test`` or
        ``evaluation``) and ``source``, the recording that the clip is a part of.

    Raises:
        InputError: the recordings cannot be divided, some cannot be read, or OUT exists.
    """
    if out.exists():
        raise InputError(f"{out}: exists already; give another folder, or remove it")
    recordings = _from_table(source) if source.is_file() else _from_folder(source)
    _check_labels(recordings, source)
    recordings, damaged = _readable(recordings)
    for path, reason in damaged.items():
        print(f"unreadable: {printable(path)}: {printable(reason)}", file=sys.stderr)
    if damaged and not options.skip_damaged:
        raise InputError(f"{counted(len(damaged), 'recording')} cannot be read, see above; mend or remove them, or "
                         "leave them out with --skip-damaged")
    recordings["split"] = split_locations(recordings, options)
    unfinished = out.with_name(f".{out.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        clips = _write_clips(recordings, unfinished, options.clip_seconds)
        _write_tables(clips, unfinished)
        unfinished.rename(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return clips


def _from_folder(folder: Path) -> "pd.DataFrame":
    """List ``<scene>/<recording>`` and ``<scene>/<location>/<recording>`` below a folder."""
    import pandas as pd

    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder or table")
    rows, loose = [], []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in SUFFIXES or not path.is_file():
            continue
        parts = path.relative_to(folder).parts
        if len(parts) == 1:
            loose.append(path)
            continue
        location = "/".join(parts[:2]) if len(parts) > 2 else "/".join(parts)
        rows.append({"source": path, "label": parts[0], "device": "a", "location": location})
    if loose:
        raise InputError(f"{loose[0]}: {counted(len(loose), 'recording')} without a scene; put the recordings of every "
                         "scene into a folder with its name, or give a table file,label[,device,location]")
    if not rows:
        raise InputError(f"{folder}: no recordings in folders of scenes ({', '.join(SUFFIXES)})")
    return pd.DataFrame(rows)


def _from_table(path: Path) -> "pd.DataFrame":
    """Read a table ``file,label[,device,location]``, separated by commas, semicolons or tabs."""
    import pandas as pd

    try:
        table = pd.read_csv(path, sep=None, engine="python", dtype=str, keep_default_na=False)
    except (ValueError, UnicodeError, OSError) as error:
        raise InputError(f"{path}: not a table of text: {shown(error)}") from None
    missing = [column for column in ("file", "label") if column not in table]
    if missing:
        raise InputError(f"{path}: no column {missing[0]!r}; expected file,label[,device,location]")
    table["source"] = [path.parent / name for name in table.file]
    for row, source in enumerate(table.source, start=2):
        if not source.is_file():
            raise InputError(f"{path}: line {row}: {source}: no such recording")
    table["device"] = table.device.where(table.device != "", "a") if "device" in table else "a"
    own = table.location if "location" in table else pd.Series("", table.index)
    table["location"] = own.where(own != "", table.file)
    return table[["source", "label", "device", "location"]]


def _check_labels(recordings: "pd.DataFrame", source: Path) -> None:
    labels = sorted(set(recordings.label))
    for label in labels:
        if not re.fullmatch(r"[^\W-][\w ]*", label):
            raise InputError(f"{source}: the scene {shown(label)}: letters, digits, spaces and '_' are allowed")
    for device in sorted(set(recordings.device)):
        if not re.fullmatch(r"\w+", device):
            raise InputError(f"{source}: the device {shown(device)}: letters, digits and '_' are allowed")
    folded: dict[str, str] = {}
    for label in labels:
        name = label.casefold().replace(" ", "_")
        if name in folded:
            raise InputError(f"{source}: the scenes {folded[name]!r} and {label!r} differ in case or spaces only; give "
                             "them one name")
        folded[name] = label
    if len(labels) < 2:
        raise InputError(f"{source}: only the scene {', '.join(labels)}; a classifier needs at least two")
    recordings["label"] = recordings.label.str.replace(" ", "_")


def _readable(recordings: "pd.DataFrame") -> "tuple[pd.DataFrame, dict[Path, str]]":
    """Return the recordings that can be read, with their length in ``seconds``, and the faults of the others."""
    seconds, damaged = [], {}
    for path in tqdm(recordings.source, "reading headers", unit=" files", disable=None):
        header = read_header(path)
        fault = header.fault or ("" if header.seconds > 0 else "holds no sound")
        seconds.append(np.nan if fault else header.seconds)
        if fault:
            damaged[path] = fault
    recordings = recordings.assign(seconds=seconds)
    return recordings[recordings.seconds > 0].reset_index(drop=True), damaged


def split_locations(recordings: "pd.DataFrame", options: Options) -> list[str]:
    """Choose the split of every recording: whole locations, a fraction of those of every scene.

    Args:
        recordings: columns ``label`` and ``location``.
        options: the fractions and the seed.

    Raises:
        InputError: a scene has too few locations to be in every split.
    """
    wanted = {"test": options.test, "evaluation": options.evaluation}
    wanted = {split: fraction for split, fraction in wanted.items() if fraction > 0}
    random = np.random.default_rng(options.seed)
    chosen: dict[str, str] = {}
    for label in sorted(set(recordings.label)):
        locations = sorted(set(recordings.location[recordings.label == label]))
        needed = 1 + len(wanted)
        if len(locations) < needed:
            raise InputError(f"the scene {label} has {counted(len(locations), 'location')} and needs {needed}, one for "
                             "every split; add recordings of other places, or give the places that were recorded in a "
                             "table with the column location")
        # locations of several scenes were chosen with the first of them
        order = [str(location) for location in random.permutation(locations)]
        for split, fraction in wanted.items():
            count = max(1, round(fraction * len(locations)))
            present = sum(chosen.get(location) == split for location in locations)
            free = [location for location in order if location not in chosen]
            for location in free[:max(0, count - present)]:
                chosen[location] = split
        for location in order:
            chosen.setdefault(location, "train")
    splits = [chosen[location] for location in recordings.location]
    for label in sorted(set(recordings.label)):
        present_splits = {split for split, name in zip(splits, recordings.label, strict=True) if name == label}
        lacking = sorted({"train", *wanted} - present_splits)
        if lacking:
            raise InputError(f"the scene {label} shares its locations with others, and none is left for the "
                             f"{lacking[0]} split; try another --seed, or add locations")
    return splits


def _write_clips(recordings: "pd.DataFrame", out: Path, clip_seconds: float) -> "pd.DataFrame":
    """Link, copy or cut the recordings into ``development/audio`` and ``evaluation/audio``."""
    import pandas as pd

    numbers = {location: number for number, location in enumerate(sorted(set(recordings.location)), start=1)}
    rows, evaluated = [], 0
    for number, recording in enumerate(tqdm(recordings.itertuples(), "clips", len(recordings), disable=None), start=1):
        folder = out / ("evaluation" if recording.split == "evaluation" else "development") / "audio"
        folder.mkdir(parents=True, exist_ok=True)
        place = f"place-{numbers[recording.location]}"
        whole = recording.seconds <= clip_seconds * (1 + _SHORTEST_REST)
        count = 1 if whole else int((recording.seconds + _SHORTEST_REST * clip_seconds) // clip_seconds)
        for part in range(count):
            suffix = recording.source.suffix.lower() if whole else ".wav"
            name = f"{recording.label}-{place}-{number}-{part}-{recording.device}{suffix}"
            if recording.split == "evaluation":  # its names must not tell the scene
                name, evaluated = f"{evaluated}{suffix}", evaluated + 1
            if whole:
                _link(recording.source, folder / name)
            else:
                _cut(recording.source, folder / name, part * clip_seconds, clip_seconds)
            rows.append({"filename": f"audio/{name}", "scene_label": recording.label, "identifier": place,
                         "device": recording.device, "split": recording.split, "source": recording.source})
    return pd.DataFrame(rows)


def _link(source: Path, target: Path) -> None:
    """Give a recording a second name; copy it where the file system has no such links."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def _cut(source: Path, target: Path, start: float, seconds: float) -> None:
    """Write a part of a recording, with its rate and channels and, as far as WAV has it, its type of samples."""
    with open_recording(source) as file:
        file.seek(round(start * file.samplerate))
        samples = file.read(round(seconds * file.samplerate), dtype="float64", always_2d=True)
        subtype = file.subtype if soundfile.check_format("WAV", file.subtype) else "PCM_16"
        soundfile.write(target, samples, file.samplerate, subtype)


def _write_tables(clips: "pd.DataFrame", out: Path) -> None:
    """Write the tables of the data sets, and the labels of the evaluation set apart."""
    def write(path: Path, table: "pd.DataFrame") -> None:
        write_text(path, table.to_csv(sep="\t", index=False, lineterminator="\n"))

    development, evaluation = clips[clips.split != "evaluation"], clips[clips.split == "evaluation"]
    root, setup = out / "development", out / "development" / "evaluation_setup"
    meta = development.rename(columns={"device": "source_label"})
    write(root / "meta.csv", meta[["filename", "scene_label", "identifier", "source_label"]])
    train, test = development[development.split == "train"], development[development.split == "test"]
    write(setup / "fold1_train.csv", train[["filename", "scene_label"]])
    write(setup / "fold1_test.csv", test[["filename"]])
    write(setup / "fold1_evaluate.csv", test[["filename", "scene_label"]])
    if len(evaluation):
        renamed = evaluation.rename(columns={"device": "device_id"})
        write(out / "evaluation" / "evaluation_setup" / "fold1_test.csv", renamed[["filename", "device_id"]])
        write(out / "evaluation-reference.csv", renamed[["filename", "scene_label", "identifier", "device_id"]])


def main(argv: Sequence[str] | None = None) -> int:
    """Prepare a data set and print its tables; returns 0.

    Raises:
        InputError: as :func:`prepare`.
    """
    parser = CommandParser(
        prog="python -m task1a.data.prepare", description="Make a data set of any recordings: labels from folders or a "
        "table, long recordings cut into clips, whole locations in the training or the test split.")
    parser.add_argument("source", metavar="SOURCE", type=Path, help="folder with a folder for each scene, and perhaps "
                        "one for each location in it; or a CSV table file,label[,device,location]")
    parser.add_argument("out", metavar="OUT", type=Path, help="new folder for the data sets")
    parser.add_argument("--clip-seconds", metavar="SECONDS", type=float, default=10.0, help="length of clips (default: "
                        "10)")
    parser.add_argument("--test", metavar="FRACTION", type=float, default=0.3, help="of the locations (default: 0.3)")
    parser.add_argument("--evaluation", metavar="FRACTION", type=float, default=0.0,
                        help="of the locations, for an evaluation set without labels (default: 0, none)")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of the choice of locations (default: 0)")
    parser.add_argument("--skip-damaged", action="store_true", help="leave unreadable recordings out")
    arguments = parser.parse_args(argv)
    if not 0 < arguments.test < 1 or not 0 <= arguments.evaluation < 1 - arguments.test:
        raise InputError("--test and --evaluation: fractions between 0 and 1, together less than 1")
    if not 0.1 <= arguments.clip_seconds <= 3600:
        raise InputError(f"--clip-seconds {arguments.clip_seconds:g}: must be between 0.1 and 3600")
    options = Options(arguments.clip_seconds, arguments.test, arguments.evaluation, arguments.seed,
                      arguments.skip_damaged)
    clips = prepare(arguments.source, arguments.out, options)
    print(_overview(clips, arguments.out, options))
    return 0


def _overview(clips: "pd.DataFrame", out: Path, options: Options) -> str:
    """Return the number of clips and locations by scene and split, and the command that comes next."""
    splits = [split for split in ("train", "test", "evaluation") if split in set(clips.split)]
    lines = [f"{'scene':<24}" + "".join(f"{split + ' clips (locations)':>30}" for split in splits)]
    for label in sorted(set(clips.scene_label)):
        line = f"{label:<24}"
        for split in splits:
            of_split = clips[(clips.scene_label == label) & (clips.split == split)]
            line += f"{f'{len(of_split):,} ({of_split.identifier.nunique():,})':>30}"
        lines.append(line)
    evaluation = f" --eval-root {out / 'evaluation'}" if "evaluation" in splits else ""
    length = "" if options.clip_seconds == 10 else f" features.clip_seconds={options.clip_seconds:g}"
    return "\n".join([*lines, "", f"next: task1a run --system bcresnet_asc_1_resnorm --data-root "
                                  f"{out / 'development'}{evaluation}{length}"])


if __name__ == "__main__":
    sys.exit(run_command(main))
