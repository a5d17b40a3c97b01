"""Reader of data sets in the layout of TAU Urban Acoustic Scenes 2020 Mobile (Zenodo 3819968) and 2021 evaluation.

A development set has ``meta.csv``, ``evaluation_setup/fold1_{train,test,evaluate}.csv`` and ``audio/``; an evaluation
set has ``evaluation_setup/fold1_test.csv`` and ``audio/``. Tables are tab-separated with a header line. Scene labels
and devices are whatever the files say: the official ones are a matter of the submission rules, not of the reader.

Torch-free, so that the evaluation and submission commands start at once.
"""
from pathlib import Path, PurePosixPath

import pandas as pd

from task1a.errors import InputError

META = "meta.csv"
SETUP = "evaluation_setup"
DEMO_MARK = "DEMO_DATA.txt"
"""a file of this name stands in the folder of every synthesised data set"""


def read_development(root: Path, allow_overlap: bool = False) -> pd.DataFrame:
    """All clips of a development set, in the order of ``meta.csv``.

    Args:
        root: the data set's folder.
        allow_overlap: return clips that are in both splits, marked ``both``, so that a check can name all of them.

    Returns:
        Columns ``filename`` (relative to ``root``, forward slashes), ``scene_label``, ``identifier`` (the recording
        location, e.g. ``lisbon-1000``), ``device``, and ``split``: ``train``, ``test`` or ``unused``.

    Raises:
        InputError: a table is missing or malformed, lists a clip twice or one that ``meta.csv`` does not have, the
            tables disagree on a label, or a clip is in both splits.
    """
    root = Path(root)
    meta = _read_table(root / META, ("filename", "scene_label", "identifier", "source_label"))
    meta = meta.rename(columns={"source_label": "device"})
    train = _read_table(root / SETUP / "fold1_train.csv", ("filename", "scene_label"))
    test = _read_table(root / SETUP / "fold1_test.csv", ("filename",))
    evaluate = _read_table(root / SETUP / "fold1_evaluate.csv", ("filename", "scene_label"))
    if set(test.filename) != set(evaluate.filename):
        other = sorted(set(test.filename) ^ set(evaluate.filename))
        raise InputError(f"{root / SETUP}: fold1_test.csv and fold1_evaluate.csv list different clips "
                         f"({len(other)} in one only, first {other[0]}); restore both from the data set's archive")
    both = sorted(set(train.filename) & set(test.filename))
    if both and not allow_overlap:
        raise InputError(f"{root / SETUP}: {len(both)} clips are in both the train and the test split, first "
                         f"{both[0]}; a model would be tested on what it has learnt, restore the split files")
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
    return meta.assign(split=split)


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


def clip_key(filename: str) -> str:
    """The name a clip is compared by: without the ``audio/`` folder that the official files may or may not carry."""
    return filename.removeprefix("audio/")


def older_copy(train: int, test: int) -> str:
    """A note for the user where the split has the size of a withdrawn release of TAU 2020 Mobile, else empty."""
    # an early release of the 2020 split names five clips that were withdrawn later; copies of it still circulate
    if (train, test) == (13965, 2970):
        return ("; this is the older copy of the TAU 2020 Mobile split (13,965 train, 2,970 test), which names clips "
                "that no longer exist: take evaluation_setup/ from the current archive (13,962 and 2,968)")
    return ""


def _read_table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    if not path.is_file():
        raise InputError(f"{path}: no such file; the folder must be a data set in the TAU layout "
                         "(meta.csv, evaluation_setup/, audio/)")
    try:
        table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a tab-separated table: {str(error).strip()}") from None
    if not isinstance(table.index, pd.RangeIndex):  # pandas then takes the first field for a row name
        raise InputError(f"{path}: its lines have more fields than its header line; remove trailing tabs")
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise InputError(f"{path}: no column {missing[0]!r} (found {', '.join(table.columns)}); "
                         "the columns are separated by tabs")
    if table.empty:
        raise InputError(f"{path}: lists no clip")
    table = table[list(columns)]
    for column in columns:
        empty = table.index[table[column].str.strip() == ""]
        if len(empty):
            raise InputError(f"{path}: line {empty[0] + 2}: empty {column}")
    table = table.assign(filename=[_inside(path, name) for name in table.filename])
    twice = table.filename[table.filename.duplicated()]
    if len(twice):
        raise InputError(f"{path}: {len(twice)} clips are listed twice, first {twice.iloc[0]}")
    return table


def _inside(path: Path, filename: str) -> str:
    """The clip's name with forward slashes, refused where it would leave the data set's folder."""
    name = filename.replace("\\", "/")
    parts = PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts or not parts or ":" in parts[0]:
        raise InputError(f"{path}: {filename!r} points outside the data set's folder")
    return name
