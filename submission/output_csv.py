"""The system output: one row a clip, tab-separated, ``filename  scene_label  <one column a label>``.

A run's predictions have the same columns. Lines end with LF, probabilities have nine significant digits (a float32
survives them), and ``scene_label`` is a label of greatest probability. Where the data set is not the challenge's, the
columns are that data set's labels.
"""
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from submission.findings import Finding, shown
from submission.rules import Rules
from task1a.data.tau_layout import clip_key
from task1a.errors import InputError

MAX_ROWS = 100_000
MAX_BYTES = 16 * 1024 * 1024
SUM_TOLERANCE = 1e-3

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
        header, *rows = _split(Path(path).read_text(encoding="utf-8-sig")) or [[]]
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a UTF-8 text; {again}") from None
    labels = tuple(header[len(_KEYS):])
    if tuple(header[:len(_KEYS)]) != _KEYS or not labels:
        raise InputError(f"{path}: not a prediction table: its columns must be filename, scene_label and the labels; "
                         f"{again}")
    if not rows:
        raise InputError(f"{path}: holds no clip, so there is nothing to submit; {again}")
    for line, row in enumerate(rows, start=2):
        if len(row) != len(header) or not all(map(_is_number, row[len(_KEYS):])):
            raise InputError(f"{path}: line {line}: expected a filename, a label and {len(labels)} numbers; {again}")
    return Output(tuple(row[0] for row in rows), labels,
                  np.array([[float(cell) for cell in row[len(_KEYS):]] for row in rows]))


def to_text(output: Output) -> str:
    """The table as the challenge wants it; every scene label is the one of greatest probability."""
    lines = ["\t".join((*_KEYS, *output.labels))]
    for filename, row in zip(output.filenames, output.probabilities, strict=True):
        lines.append("\t".join((filename, output.labels[row.argmax()], *(f"{value:.9g}" for value in row))))
    return "\n".join(lines) + "\n"


def check(data: bytes, file: str, rules: Rules) -> tuple[tuple[str, ...], list[Finding]]:
    """Check a system output as a stranger hands it in.

    Returns:
        The labels of its columns (none where they cannot be told), and what is wrong.
    """
    rows_expected = f"a row for each of {len(rules.files):,} files"
    lines = data.count(b"\n")
    if len(data) > MAX_BYTES or lines > MAX_ROWS:
        return (), [Finding("error", file, "", f"{lines:,} lines, {len(data):,} bytes", rows_expected)]
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        return (), [Finding("error", file, f"byte {error.start}", "no UTF-8", "UTF-8 text")]
    findings = []
    if "\r" in text:
        findings.append(Finding("error", file, "", "carriage returns", "lines that end with LF"))
    header, *rows = _split(text.replace("\r\n", "\n")) or [[]]
    labels = tuple(header[len(_KEYS):])
    findings += _check_header(header, labels, file, rules)
    if any(finding.where == "line 1" and finding.level == "error" for finding in findings):
        return (), findings
    if not rows:
        return labels, [*findings, Finding("error", file, "", "no rows", rows_expected)]
    for line, row in enumerate(rows, start=2):
        findings += (Finding("error", file, f"line {line}" + field, *rest) for field, *rest in _check_row(row, labels))
    return labels, findings + list(_check_files(rows, file, rules))


def _split(text: str) -> list[list[str]]:
    return [line.split("\t") for line in text.removesuffix("\n").split("\n")] if text.strip() else []


def _is_number(cell: str) -> bool:
    return _NUMBER.fullmatch(cell) is not None


def _check_header(header: Sequence[str], labels: tuple[str, ...], file: str, rules: Rules) -> Iterator[Finding]:
    known = set(labels) == set(rules.labels)
    if tuple(header[:len(_KEYS)]) != _KEYS or len(labels) < 2 or len(set(header)) < len(header) or "" in header:
        yield Finding("error", file, "line 1", shown(" ".join(header)), f"the columns {' '.join(rules.columns)}")
    elif known and labels != rules.labels:
        yield Finding("error", file, "line 1", "the labels in another order", f"the order {' '.join(rules.labels)}")
    elif not known:
        yield Finding("not_submittable", file, "line 1", f"the labels {shown(' '.join(labels))}",
                      f"those of {rules.name}: {' '.join(rules.labels)}")


def _check_row(row: Sequence[str], labels: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Yield (field, found, expected) for what is wrong within a row."""
    if len(row) != len(_KEYS) + len(labels):
        yield "", f"{len(row)} columns", f"{len(_KEYS) + len(labels)}"
        return
    filename, scene_label, *cells = row
    if not filename.endswith(".wav"):
        yield ", filename", shown(filename), "the name of a wav file"
    legal = scene_label in labels
    if not legal:
        yield ", scene_label", shown(scene_label), "one of the labels of the columns"
    values = [float(cell) if _is_number(cell) else float("nan") for cell in cells]
    wrong = [index for index, value in enumerate(values) if not 0 <= value <= 1]
    if wrong:
        yield f", {labels[wrong[0]]}", shown(cells[wrong[0]]), "a number from 0 to 1"
        return
    if abs(sum(values) - 1) > SUM_TOLERANCE:
        yield "", f"probabilities that sum to {sum(values):.6g}", f"1 within {SUM_TOLERANCE:g}"
    if legal and values[labels.index(scene_label)] < max(values):
        yield ", scene_label", shown(scene_label), f"{labels[values.index(max(values))]}, which is more probable"


def _check_files(rows: Sequence[Sequence[str]], file: str, rules: Rules) -> Iterator[Finding]:
    """Yield clips that are there twice, and, where the names are names of clips, whether they are the challenge's."""
    first: dict[str, int] = {}
    for line, row in enumerate(rows, start=2):
        key = clip_key(row[0])
        if key in first:
            yield Finding("error", file, f"line {line}", f"{shown(row[0])} again", f"it on line {first[key]} only")
        first.setdefault(key, line)
    expected = set(rules.files)
    if first.keys() != expected and all(row[0].endswith(".wav") for row in rows):
        extra, missing = len(first.keys() - expected), len(expected - first.keys())
        yield Finding("not_submittable", file, "",
                      f"{len(first):,} files, {extra:,} of them not of the evaluation set, {missing:,} of it missing",
                      f"the {len(expected):,} files {rules.files[0]} to {rules.files[-1]}")
