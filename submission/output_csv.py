"""The system output: one row a clip, tab-separated, ``filename  scene_label  <one column a label>``.

A run's predictions have the same columns. Lines end with LF, probabilities have nine significant digits (a float32
survives them), and ``scene_label`` is a label of greatest probability. Where the data set is not the challenge's, the
columns are that data set's labels.
"""
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from task1a.errors import InputError

_KEYS = ("filename", "scene_label")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True)
class Output:
    """Probabilities of clips, rows in the order of the evaluation set."""

    filenames: tuple[str, ...]
    labels: tuple[str, ...]
    probabilities: np.ndarray
    """Shape (clips, labels)."""


def read(path: Path) -> Output:
    """Read an output or prediction table.

    Raises:
        InputError: the file is empty, lists no clip, or a line has not the header's columns or not numbers.
    """
    again = "predict again: python task1a.py --stage predict --force"
    try:
        header, *rows = Path(path).read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a UTF-8 text; {again}") from None
    labels = tuple(header.split("\t")[len(_KEYS):])
    if tuple(header.split("\t")[:len(_KEYS)]) != _KEYS or not labels:
        raise InputError(f"{path}: not a prediction table: its columns must be filename, scene_label and the labels; "
                         f"{again}")
    if not rows:
        raise InputError(f"{path}: holds no clip, so there is nothing to submit; {again}")
    cells = [row.split("\t", len(_KEYS)) for row in rows]
    probabilities = _numbers([row[-1] if len(row) > len(_KEYS) else "" for row in cells], len(labels))
    if probabilities is None:
        line = next(line for line, row in enumerate(rows, start=2) if not _is_row(row.split("\t"), len(labels)))
        raise InputError(f"{path}: line {line}: expected a filename, a label and {len(labels)} numbers; {again}")
    return Output(tuple(row[0] for row in cells), labels, probabilities)


def to_text(output: Output) -> str:
    """The table as the challenge wants it; every scene label is the one of greatest probability."""
    best = [output.labels[index] for index in output.probabilities.argmax(1)]
    line = "\t".join(("%s", "%s", *["%.9g"] * len(output.labels)))
    rows = zip(output.filenames, best, output.probabilities.tolist(), strict=True)
    return "\n".join(("\t".join((*_KEYS, *output.labels)), *(line % (*keys, *row) for *keys, row in rows))) + "\n"


def _numbers(rows: Sequence[str], columns: int) -> np.ndarray | None:
    """Rows of finite numbers, separated by tabs; None where one of them is something else."""
    if "" in rows:  # numpy would skip it
        return None
    try:
        numbers = np.loadtxt(rows, delimiter="\t", comments=None, ndmin=2)
    except ValueError:
        return None
    return numbers if numbers.shape == (len(rows), columns) and np.isfinite(numbers).all() else None


def _is_row(cells: Sequence[str], columns: int) -> bool:
    numbers = cells[len(_KEYS):]
    return len(numbers) == columns and all(_is_number(cell) and math.isfinite(float(cell)) for cell in numbers)


def _is_number(cell: str) -> bool:
    return _NUMBER.fullmatch(cell) is not None
