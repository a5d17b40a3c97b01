"""Reader of data sets in the layout of TAU Urban Acoustic Scenes 2020 Mobile (Zenodo 3819968) and
2021 evaluation.

A development set has ``meta.csv``, ``evaluation_setup/fold1_{train,test,evaluate}.csv`` and
``audio/``; an evaluation set has ``evaluation_setup/fold1_test.csv`` and ``audio/``. Tables are
tab-separated with a header line. Any scene labels and devices are accepted; the rules of the
submission ask for the official ones.

Imports no torch, so that the commands of evaluation and submission start quickly.
"""
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from task1a.challenge import CLIP_FOLDER, KEY_COLUMNS, LABELS, SIMULATED_DEVICES, clip_name
from task1a.data.tables import MAX_COLUMNS, read_table
from task1a.errors import InputError, shown

META = "meta.csv"
SETUP = "evaluation_setup"
SIMULATED = "simulated"
"""Optional column of ``meta.csv``: ``yes`` or ``no``."""
DEMO_MARK = "DEMO_DATA.txt"
"""File that marks the folder of a synthesised data set."""

_RESERVED = {"scene_label": KEY_COLUMNS, "device": ("overall",)}
"""Names with another meaning in the tables of predictions and results."""


def read_development(root: Path, allow_overlap: bool = False) -> pd.DataFrame:
    """Read all clips of a development set, in the order of ``meta.csv``.

    Args:
        root: the data set's folder.
        allow_overlap: mark clips that are in both splits ``both`` instead of raising, for the check to
            list them all.

    Returns:
        Columns ``filename`` (:func:`task1a.challenge.clip_name`), ``scene_label``, ``identifier`` (the
        recording location, e.g. ``lisbon-1000``), ``device``, ``split``: ``train``, ``test`` or
        ``unused``, and ``simulated``: whether the recording is one of a simulated device
        (:func:`_simulated`).

    Raises:
        InputError: a table is missing or malformed, lists a clip twice or one that ``meta.csv`` lacks;
            the tables disagree on a label; a label or a device has a reserved name; or a clip is in
            both splits.
    """
    root = Path(root)
    meta = _read_table(root / META, ("filename", "scene_label", "identifier", "source_label"), (SIMULATED,))
    meta = meta.rename(columns={"source_label": "device"})
    for column, reserved in _RESERVED.items():
        values = meta[column].tolist()
        for name in reserved:
            if name in values:
                line = values.index(name) + 2
                raise InputError(f"{root / META}: line {line}: the {column} {name!r} has another meaning in "
                                 "predictions and results; rename it in all tables")
    n_labels, max_labels = meta.scene_label.nunique(), MAX_COLUMNS - len(KEY_COLUMNS)
    if n_labels > max_labels:  # a table of predictions has a column for each
        raise InputError(f"{root / META}: {n_labels:,} different scene labels; at most {max_labels:,} are "
                         "supported")

    train = _read_table(root / SETUP / "fold1_train.csv", ("filename", "scene_label"))
    test = _read_table(root / SETUP / "fold1_test.csv", ("filename",))
    evaluate = _read_table(root / SETUP / "fold1_evaluate.csv", ("filename", "scene_label"))
    # the same clips in both, one table without labels for the prediction, one with them for the scores
    other = sorted(set(test.filename) ^ set(evaluate.filename))
    if other:
        raise InputError(f"{root / SETUP}: fold1_test.csv and fold1_evaluate.csv list different clips "
                         f"({len(other)} in one only, first {other[0]}); restore both from the data set's "
                         "archive")
    older = older_copy(len(train), len(test))
    _check_labels(root / SETUP / "fold1_train.csv", train, meta, older)
    _check_labels(root / SETUP / "fold1_evaluate.csv", evaluate, meta, older)

    in_train, in_test = meta.filename.isin(train.filename), meta.filename.isin(test.filename)
    split = pd.Series("unused", index=meta.index)
    split[in_train] = "train"
    split[in_test] = "test"
    split[in_train & in_test] = "both"
    clips = meta.assign(split=split, simulated=_simulated(root / META, meta))
    if not allow_overlap:
        check_overlap(root, clips)
    return clips


def _check_labels(path: Path, table: pd.DataFrame, meta: pd.DataFrame, older: str) -> None:
    """Raise InputError if a table has clips that ``meta.csv`` lacks, or gives them other labels.

    ``older`` is what :func:`older_copy` says, which explains missing clips.
    """
    label_of = dict(zip(meta.filename.tolist(), meta.scene_label.tolist(), strict=True))
    missing, wrong = [], []
    for filename, label in zip(table.filename.tolist(), table.scene_label.tolist(), strict=True):
        if filename not in label_of:
            missing.append(filename)
        elif label != label_of[filename]:
            wrong.append(filename)
    if missing:
        raise InputError(f"{path}: clips that {META} lacks: {len(missing)}, first {missing[0]}"
                         + (f"; {older}" if older else ""))
    if wrong:
        raise InputError(f"{path}: clips with another scene_label than in {META}: {len(wrong)}, "
                         f"first {wrong[0]}")


def read_evaluation(root: Path) -> pd.DataFrame:
    """Read the unlabelled clips of an evaluation set, in file order.

    Returns:
        Columns ``filename`` and, where the set tells the recording devices as in 2025, ``device``.
    """
    table = _read_table(Path(root) / SETUP / "fold1_test.csv", ("filename",), optional=("device_id",))
    return table.rename(columns={"device_id": "device"})


def read_reference(root: Path) -> pd.DataFrame:
    """Read the labelled test split of a development set: ``filename``, ``scene_label``, ``device``,
    ``simulated``."""
    clips = read_development(root)
    return clips.loc[clips.split == "test", ["filename", "scene_label", "device", SIMULATED]].reset_index(drop=True)


def similar_file(root: Path, name: str) -> str:
    """Find the file that a clip without a recording may mean.

    Systems write accented letters as one character or as two (Unicode's normal forms C and D), some of
    them do not distinguish upper from lower case, and tables give the folder ``audio/`` or omit it.

    Returns:
        The name of a file below ``root``; empty if there is none.
    """
    bare = name.removeprefix(CLIP_FOLDER)
    for candidate in (name, CLIP_FOLDER + bare, bare):
        found = Path(root)
        for part in candidate.split("/"):
            alike = []
            for entry in found.iterdir() if found.is_dir() else ():
                if _without_form(entry.name) == _without_form(part):
                    alike.append(entry)
            if not alike:
                break
            found = min(alike)
        else:
            return found.relative_to(root).as_posix()
    return ""


def _without_form(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold()


def is_demo(root: Path) -> bool:
    """Return whether the data set in ``root`` is a synthesised demo set."""
    return (Path(root) / DEMO_MARK).is_file()


def check_overlap(root: Path, clips: pd.DataFrame) -> None:
    """Raise InputError if clips of a development set are in both splits."""
    both = clips.filename[clips.split == "both"]
    if len(both):
        raise InputError(f"{root / SETUP}: clips in both the train and the test split: {len(both)}, first "
                         f"{min(both)}; a model would be tested on what it was trained on, restore the split files")


def older_copy(train: int, test: int) -> str:
    """Return a message if the split has the size of a withdrawn release of TAU 2020 Mobile, otherwise
    empty."""
    if (train, test) == (13965, 2970):
        return ("this is the older copy of the TAU 2020 Mobile split (13,965 train, 2,970 test), which lists five "
                "withdrawn clips: take evaluation_setup/ from the current archive (13,962 and 2,968)")
    return ""


def _simulated(path: Path, meta: pd.DataFrame) -> Sequence[bool]:
    """Return whether each clip is one of a simulated device.

    A column ``simulated`` of ``meta.csv`` tells. Without it, :data:`SIMULATED_DEVICES` are
    simulated in sets that have the scenes of the challenge and name their clips as the TAU sets do;
    anywhere else, ``s6`` is a telephone.

    Raises:
        InputError: a value of the column is not ``yes`` or ``no``, or a device has both.
    """
    if SIMULATED not in meta:
        like_tau = meta.scene_label.isin(LABELS).all()
        for name, label, location, device in zip(meta.filename, meta.scene_label, meta.identifier, meta.device,
                                                 strict=True):
            like_tau = like_tau and name.removeprefix(CLIP_FOLDER).startswith(f"{label}-{location}-")
            like_tau = like_tau and name.endswith(f"-{device}.wav")
        return meta.device.isin(SIMULATED_DEVICES) if like_tau else [False] * len(meta)
    # results are reported by device, so a device is simulated on all lines or on none
    values: dict[str, str] = {}
    for line, (device, value) in enumerate(zip(meta.device, meta[SIMULATED], strict=True), start=2):
        if value not in ("yes", "no"):
            raise InputError(f"{path}: line {line}: {SIMULATED} {shown(value)} is not yes or no")
        if values.setdefault(device, value) != value:
            raise InputError(f"{path}: line {line}: device {device} is simulated on some lines and not on others")
    return meta[SIMULATED] == "yes"


def _read_table(path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> pd.DataFrame:
    """Read ``columns`` of a table, and the ``optional`` ones that it has, with the normal forms of
    its file names, each of which is listed once."""
    table = read_table(path, columns, "part of a data set in the TAU layout (meta.csv, evaluation_setup/, audio/)")
    filenames = table.filename.tolist()
    names = [clip_name(filename) for filename in filenames]
    for line, (filename, name) in enumerate(zip(filenames, names, strict=True), start=2):
        if name.startswith("/") or ".." in name.split("/") or ":" in name.partition("/")[0]:
            raise InputError(f"{path}: line {line}: {filename!r} points outside the data set's folder; give the path "
                             "below it")
        if name == "." or filename.endswith(("/", "\\")):
            raise InputError(f"{path}: line {line}: {filename!r} is the name of a folder, not of a recording")

    # audio/x.wav and x.wav are one clip, because tables give the folder or omit it
    line_of: dict[str, int] = {}
    twice = []
    for line, name in enumerate(names, start=2):
        first = line_of.setdefault(name.removeprefix(CLIP_FOLDER), line)
        if first != line:
            twice.append(f"{name} (lines {first} and {line})")
    if twice:
        raise InputError(f"{path}: clips listed twice: {len(twice)}, first {twice[0]}")
    present = [column for column in optional if column in table]
    return table[[*columns, *present]].assign(filename=names)
