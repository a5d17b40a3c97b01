"""The table of predictions: tab-separated, one row a clip, with its decided label and a probability for each label.

It has the official columns of DCASE 2021 Task 1A: ``filename``, ``scene_label``, then a column for each scene label.
Probabilities are written with nine significant digits, which a float32 survives. Runs, metrics and submissions read and
write it here; what strangers hand in is checked byte by byte in :mod:`submission.check_output`.
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

# float() takes more than decimal numbers: 1_0, the digits of other scripts, spaces around them
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def table(filenames: Sequence[str], probabilities: np.ndarray, labels: Sequence[str]) -> pd.DataFrame:
    """Predictions as a table; the decided label is the most probable one.

    Shape:
        probabilities: (clips, labels).
    """
    predictions = pd.DataFrame(probabilities, columns=list(labels))
    predictions.insert(0, "filename", list(filenames))
    predictions.insert(1, "scene_label", [labels[index] for index in probabilities.argmax(axis=1)])
    return predictions


def label_columns(predictions: pd.DataFrame) -> list[str]:
    """The scene labels that ``predictions`` has probabilities of, in alphabetical order."""
    return sorted(column for column in predictions.columns if column not in KEY_COLUMNS)


def average(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The mean of the probabilities that several models predict for the same clips.

    Raises:
        InputError: the tables are of different clips or labels.
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
        One row a clip in the order of the file; ``filename`` and ``scene_label`` as text, probabilities as float64.

    Raises:
        InputError: there is no such table or it is malformed (:func:`task1a.data.tables.read_table`), or a probability
            is not a decimal number.
    """
    path = Path(path)
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
    """The table as the challenge wants it: tab-separated, LF line ends, nine significant digits."""
    return predictions.to_csv(sep="\t", index=False, lineterminator="\n", float_format="%.9g")


def write(path: Path, predictions: pd.DataFrame) -> None:
    """Write a table of predictions, atomically."""
    write_text(path, to_text(predictions))


def check_probabilities(predictions: pd.DataFrame) -> None:
    """Check the numbers and the decided labels of a table.

    Raises:
        InputError: a decided label is none of the labels; a probability is not finite or not in [0, 1], or those of a
            clip do not sum to 1 within ``SUM_TOLERANCE``.
    """
    labels = label_columns(predictions)
    unknown = predictions[~predictions.scene_label.isin(labels)]
    if len(unknown):
        first = unknown.iloc[0]
        raise InputError(f"predictions: {first.filename}: scene_label {first.scene_label!r} has no column of "
                         f"probabilities ({len(unknown)} clips like it); the labels are {', '.join(labels)}")
    probabilities = predictions[labels].to_numpy(np.float64)
    finite = np.isfinite(probabilities)
    inside = (probabilities >= 0) & (probabilities <= 1)
    for wrong, what in ((~finite, "is not a finite number"), (~inside, "is not between 0 and 1")):
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise InputError(f"predictions: {predictions.filename.iloc[row]}: the probability of {labels[column]} "
                             f"{what}: {probabilities[row, column]:.9g} ({wrong.any(axis=1).sum()} clips like it)")
    sums = probabilities.sum(axis=1)
    off = np.abs(sums - 1) > SUM_TOLERANCE
    if off.any():
        row = off.argmax()
        raise InputError(f"predictions: {predictions.filename.iloc[row]}: the probabilities sum to {sums[row]:.6g} "
                         f"instead of 1 ({off.sum()} clips like it)")
