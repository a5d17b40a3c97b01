"""Reader of data sets in the layout of TAU Urban Acoustic Scenes 2020 Mobile (Zenodo 3819968) and 2021 evaluation.

A development set has ``meta.csv``, ``evaluation_setup/fold1_{train,test,evaluate}.csv`` and ``audio/``; an evaluation
set has ``evaluation_setup/fold1_test.csv`` and ``audio/``. Tables are tab-separated with a header line. Scene labels
and devices are whatever the files say: the official ones are a matter of the submission rules, not of the reader.

Torch-free, so that the evaluation and submission commands start at once.
"""
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from task1a.challenge import CLIP_FOLDER, KEY_COLUMNS, clip_name
from task1a.data.tables import MAX_COLUMNS, read_table
from task1a.errors import InputError

META = "meta.csv"
SETUP = "evaluation_setup"
DEMO_MARK = "DEMO_DATA.txt"
"""a file of this name stands in the folder of every synthesised data set"""

_RESERVED = {"scene_label": KEY_COLUMNS, "device": ("overall",)}
"""names that stand for something else in the tables of predictions and of results"""


def read_development(root: Path, allow_overlap: bool = False) -> pd.DataFrame:
    """All clips of a development set, in the order of ``meta.csv``.

    Args:
        root: the data set's folder.
        allow_overlap: return clips that are in both splits, marked ``both``, so that a check can name all of them.

    Returns:
        Columns ``filename`` (:func:`task1a.challenge.clip_name`), ``scene_label``, ``identifier`` (the recording
        location, e.g. ``lisbon-1000``), ``device``, and ``split``: ``train``, ``test`` or ``unused``.

    Raises:
        InputError: a table is missing or malformed, lists a clip twice or one that ``meta.csv`` does not have, the
            tables disagree on a label, a label or a device has a name that results need for something else, or a clip
            is in both splits.
    """
    root = Path(root)
    meta = _read_table(root / META, ("filename", "scene_label", "identifier", "source_label"))
    meta = meta.rename(columns={"source_label": "device"})
    _check_names(root / META, meta)
    train = _read_table(root / SETUP / "fold1_train.csv", ("filename", "scene_label"))
    test = _read_table(root / SETUP / "fold1_test.csv", ("filename",))
    evaluate = _read_table(root / SETUP / "fold1_evaluate.csv", ("filename", "scene_label"))
    if set(test.filename) != set(evaluate.filename):
        other = sorted(set(test.filename) ^ set(evaluate.filename))
        raise InputError(f"{root / SETUP}: fold1_test.csv and fold1_evaluate.csv list different clips "
                         f"({len(other)} in one only, first {other[0]}); restore both from the data set's archive")
    both = set(train.filename) & set(test.filename)
    labels = dict(zip(meta.filename, meta.scene_label, strict=True))
    for name, table in (("fold1_train.csv", train), ("fold1_evaluate.csv", evaluate)):
        missing = [f for f in table.filename if f not in labels]
        if missing:
            raise InputError(f"{root / SETUP / name}: {len(missing)} clips are not in {META}, first {missing[0]}"
                             f"{older_copy(len(train), len(test))}")
        wrong = [f for f, label in zip(table.filename, table.scene_label, strict=True) if labels[f] != label]
        if wrong:
            raise InputError(f"{root / SETUP / name}: {len(wrong)} clips have another scene_label than in {META}, "
                             f"first {wrong[0]}")
    split = pd.Series("unused", index=meta.index)
    split[meta.filename.isin(set(train.filename))] = "train"
    split[meta.filename.isin(set(test.filename))] = "test"
    split[meta.filename.isin(both)] = "both"
    clips = meta.assign(split=split)
    if not allow_overlap:
        check_overlap(root, clips)
    return clips


def read_evaluation(root: Path) -> pd.DataFrame:
    """The unlabelled clips of an evaluation set: one column, ``filename`` (relative to ``root``), in file order."""
    return _read_table(Path(root) / SETUP / "fold1_test.csv", ("filename",))


def read_reference(root: Path) -> pd.DataFrame:
    """The test split of a development set with its truth: ``filename``, ``scene_label``, ``device``."""
    clips = read_development(root)
    return clips.loc[clips.split == "test", ["filename", "scene_label", "device"]].reset_index(drop=True)


def scene_labels(clips: pd.DataFrame) -> tuple[str, ...]:
    """The scene labels of a development set in alphabetical order, which is the official column order."""
    return tuple(sorted(clips.scene_label.unique()))


def is_demo(root: Path) -> bool:
    """Whether the data set in ``root`` is a synthesised demo set."""
    return (Path(root) / DEMO_MARK).is_file()


def check_overlap(root: Path, clips: pd.DataFrame) -> None:
    """Refuse a development set with clips in both splits.

    Raises:
        InputError: there are some.
    """
    both = clips.filename[clips.split == "both"]
    if len(both):
        raise InputError(f"{root / SETUP}: {len(both)} clips are in both the train and the test split, first "
                         f"{min(both)}; a model would be tested on what it was trained on, restore the split files")


def older_copy(train: int, test: int) -> str:
    """A note for the user where the split has the size of a withdrawn release of TAU 2020 Mobile, else empty."""
    # an early release of the 2020 split names five clips that were withdrawn later; copies of it still circulate
    if (train, test) == (13965, 2970):
        return ("; this is the older copy of the TAU 2020 Mobile split (13,965 train, 2,970 test), which names clips "
                "that no longer exist: take evaluation_setup/ from the current archive (13,962 and 2,968)")
    return ""


def _check_names(path: Path, meta: pd.DataFrame) -> None:
    for column, reserved in _RESERVED.items():
        for line, name in enumerate(meta[column].tolist(), start=2):
            if name in reserved:
                raise InputError(f"{path}: line {line}: a {column} is named {name!r}, which stands for something else "
                                 "in predictions and results; rename it in all tables")
    labels, most = meta.scene_label.nunique(), MAX_COLUMNS - 2
    if labels > most:  # a table of predictions has a column for each
        raise InputError(f"{path}: {labels:,} different scene labels; at most {most:,} can be told apart")


def _read_table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    table = read_table(path, columns, "part of a data set in the TAU layout (meta.csv, evaluation_setup/, audio/)")
    table = table[list(columns)]
    names, line_of, twice = [], {}, []
    for line, filename in enumerate(table.filename.tolist(), start=2):
        name = _inside(f"{path}: line {line}", filename)
        names.append(name)
        key = name.removeprefix(CLIP_FOLDER)
        if key in line_of:
            twice.append(f"{name} (lines {line_of[key]} and {line})")
        line_of.setdefault(key, line)
    if twice:
        raise InputError(f"{path}: {len(twice)} clips are listed twice, first {twice[0]}")
    return table.assign(filename=names)


def _inside(where: str, filename: str) -> str:
    """The normal form of a clip's name, refused where it leads out of the data set's folder or names no file."""
    name = clip_name(filename)
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or ":" in parts[0]:
        raise InputError(f"{where}: {filename!r} points outside the data set's folder; give the path below it")
    if name == "." or filename.endswith(("/", "\\")):
        raise InputError(f"{where}: {filename!r} is the name of a folder, not of a recording")
    return name
