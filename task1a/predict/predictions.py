"""Tables of predictions: tab-separated, one row per clip, with its predicted label and the
probability of each label.

The columns are those of DCASE 2021 Task 1A: ``filename``, ``scene_label``, then one per scene
label. Probabilities are written with nine significant digits, enough to restore a float32.
:mod:`submission.validation.output` checks the output files of submissions more strictly, byte by
byte.
"""
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from task1a.challenge import KEY_COLUMNS, SUM_TOLERANCE
from task1a.data.tables import read_table
from task1a.errors import InputError, shown
from task1a.files import write_text

# float() also accepts 1_0, digits of other scripts, and spaces
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def table(filenames: Sequence[str], probabilities: np.ndarray, labels: Sequence[str]) -> pd.DataFrame:
    """Build a table of predictions; ``scene_label`` is the most probable label.

    Shape:
        probabilities: (clips, labels).
    """
    predictions = pd.DataFrame(probabilities, columns=list(labels))
    predictions.insert(0, "filename", list(filenames))
    predictions.insert(1, "scene_label", [labels[index] for index in probabilities.argmax(axis=1)])
    return predictions


def label_columns(predictions: pd.DataFrame) -> list[str]:
    """Return the scene labels with a column of probabilities, in alphabetical order."""
    return sorted(column for column in predictions.columns if column not in KEY_COLUMNS)


def average(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Mean of the probabilities that several models predict for the same clips.

    Raises:
        InputError: the tables have different clips or labels.
    """
    first = tables[0]
    labels = list(first.columns[len(KEY_COLUMNS):])
    for other in tables[1:]:
        if list(other) != list(first) or list(other.filename) != list(first.filename):
            raise InputError("the members of the ensemble predict different clips or labels")
    if len(tables) == 1:
        return first
    mean = np.mean([predictions[labels].to_numpy() for predictions in tables], axis=0)
    return table(first.filename, mean, labels)


def read(path: Path) -> pd.DataFrame:
    """Read a table of predictions.

    Returns:
        ``filename`` and ``scene_label`` as text, probabilities as float64; rows and columns in the
        order of the file.

    Raises:
        InputError: the file is missing or malformed (:func:`task1a.data.tables.read_table`), or a
            probability is not a decimal number.
    """
    predictions = read_table(path, KEY_COLUMNS, "a prediction file (filename, scene_label, one column a label)")
    for label in label_columns(predictions):
        numbers = np.empty(len(predictions))
        for row, text in enumerate(predictions[label].tolist()):
            if not _NUMBER.fullmatch(text):
                raise InputError(f"{path}: line {row + 2}: column {label!r}: {shown(text)} is not a number")
            numbers[row] = float(text)
        predictions[label] = numbers
    return predictions


def to_text(predictions: pd.DataFrame) -> str:
    """Return the table in the format of the challenge."""
    return predictions.to_csv(sep="\t", index=False, lineterminator="\n", float_format="%.9g")


def write(path: Path, predictions: pd.DataFrame) -> None:
    """Write a table of predictions, atomically."""
    write_text(path, to_text(predictions))


def check_probabilities(predictions: pd.DataFrame) -> None:
    """Check the predicted labels and the probabilities of a table.

    Raises:
        InputError: a predicted label has no column; a probability is not finite or not in [0, 1]; or
            the probabilities of a clip do not sum to 1 within ``SUM_TOLERANCE``.
    """
    labels = label_columns(predictions)
    unknown = predictions[~predictions.scene_label.isin(labels)]
    if len(unknown):
        first = unknown.iloc[0]
        raise InputError(f"predictions: {first.filename}: scene_label {first.scene_label!r} has no column of "
                         f"probabilities ({len(unknown)} clips like it); the labels are {', '.join(labels)}")
    probabilities = predictions[labels].to_numpy(np.float64)
    for wrong, problem in ((~np.isfinite(probabilities), "is not a finite number"),
                           ((probabilities < 0) | (probabilities > 1), "is not between 0 and 1")):
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise InputError(f"predictions: {predictions.filename.iloc[row]}: the probability of {labels[column]} "
                             f"{problem}: {probabilities[row, column]:.9g} ({wrong.any(axis=1).sum()} clips like it)")
    sums = probabilities.sum(axis=1)
    off = np.abs(sums - 1) > SUM_TOLERANCE
    if off.any():
        row = off.argmax()
        raise InputError(f"predictions: {predictions.filename.iloc[row]}: the probabilities sum to {sums[row]:.6g} "
                         f"instead of 1 ({off.sum()} clips like it)")
