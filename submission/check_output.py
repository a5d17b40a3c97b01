"""Check a system output of any origin, size and content.

Every violation is reported with its line. The rows of a block are checked at once and, if something is wrong, one by
one.
"""
import math
import re
from collections.abc import Iterator, Sequence
from itertools import chain, islice

from submission.findings import Finding
from submission.rules import Rules
from task1a.challenge import CLIP_FOLDER, KEY_COLUMNS, SUM_TOLERANCE
from task1a.errors import shown

MAX_LABELS = 100
MAX_VIOLATIONS = 10_000
"""maximum number of reported violations of one file"""
MAX_LINE_BYTES = 4096
"""maximum length of a line; if one is longer, nothing else is checked, which bounds the time of every check"""

_EXTRA_ROWS = 100_000  # for data sets other than the challenge's
_ROW_BYTES = 320  # two names, ten numbers with all digits, and the tabs
_BLOCK = 1024
# float() accepts more than decimal numbers: nan, 1_0, the digits of other scripts, spaces around them
_NUMBER_CHARACTERS = re.compile(r"[0-9.eE+\-\t]*")


def max_bytes(rules: Rules) -> int:
    """Maximum size of an output that is checked."""
    return _ROW_BYTES * (rules.clips + _EXTRA_ROWS)


def check(data: bytes, file: str, rules: Rules) -> tuple[tuple[str, ...], list[Finding]]:
    """Check a system output.

    Args:
        data: the file's content.
        file: its name in findings.
        rules: the edition.

    Returns:
        The labels of its columns (empty if the header is wrong), and the findings.
    """
    rows_expected = f"a row for each of {rules.clips:,} files"
    count = data.count(b"\n")
    if count > rules.clips + _EXTRA_ROWS or len(data) > max_bytes(rules):
        return (), [Finding("error", file, "", f"{count:,} lines, {len(data):,} bytes", rows_expected)]
    findings = []
    if b"\r" in data:
        findings.append(Finding("error", file, "", "carriage returns", "lines that end with LF"))
        data = data.replace(b"\r\n", b"\n")
    lines = data.removesuffix(b"\n").split(b"\n")
    labels: tuple[str, ...] = ()
    violations: Iterator[Finding] = iter(())
    if max(map(len, lines)) > MAX_LINE_BYTES:
        violations = (Finding("error", file, f"line {number}", f"{len(line):,} bytes", f"at most {MAX_LINE_BYTES:,}")
                      for number, line in enumerate(lines, start=1) if len(line) > MAX_LINE_BYTES)
    else:
        header, *rows = lines
        labels, wrong = _check_header(header, file, rules)
        findings += wrong
        if labels and not rows:
            findings.append(Finding("error", file, "", "no rows", rows_expected))
        elif labels:
            violations = chain(_check_rows(rows, file, labels), _check_clips(rows, file, rules))
    findings += islice(violations, MAX_VIOLATIONS)
    if next(violations, None):
        findings.append(Finding("error", file, "", f"more than {MAX_VIOLATIONS:,} violations", "none"))
    return labels, findings


def _check_header(header: bytes, file: str, rules: Rules) -> tuple[tuple[str, ...], list[Finding]]:
    """The labels, empty if the columns are wrong, and the findings."""
    text = header.decode("utf-8", "replace")
    columns, known = text.split("\t"), " ".join(rules.labels)
    labels = tuple(columns[2:])
    if "\N{REPLACEMENT CHARACTER}" in text:
        wrong = Finding("error", file, "line 1", "no UTF-8", "UTF-8 text")
    elif (tuple(columns[:2]) != KEY_COLUMNS or not 2 <= len(labels) <= MAX_LABELS
          or len(set(columns)) < len(columns) or "" in columns):
        wrong = Finding("error", file, "line 1", shown(" ".join(columns)), f"the columns {' '.join(rules.columns)}")
    elif set(labels) == set(rules.labels) and labels != rules.labels:
        wrong = Finding("error", file, "line 1", "the labels in another order", f"the order {known}")
    elif labels != rules.labels:
        return labels, [Finding("not_submittable", file, "line 1", f"the labels {shown(' '.join(labels))}",
                                f"those of {rules.name}: {known}")]
    else:
        return labels, []
    return (), [wrong]


def _check_rows(lines: Sequence[bytes], file: str, labels: Sequence[str]) -> Iterator[Finding]:
    """Yield what is wrong within the rows below the header."""
    for start in range(0, len(lines), _BLOCK):
        block = lines[start:start + _BLOCK]
        if not _all_right(block, labels):
            for line, row in enumerate(block, start=start + 2):
                for field, *rest in _check_row(row, labels):
                    yield Finding("error", file, f"line {line}{field}", *rest)


def _all_right(lines: Sequence[bytes], labels: Sequence[str]) -> bool:
    """Whether all rows of a block are valid, at least as strictly as by :func:`_check_row`."""
    import numpy as np

    try:
        rows = [line.decode("ascii").split("\t") for line in lines]
    except UnicodeDecodeError:
        return False
    if any(len(row) != 2 + len(labels) or not _is_clip(row[0]) for row in rows):
        return False
    cells = [cell for row in rows for cell in row[2:]]
    if not _NUMBER_CHARACTERS.fullmatch("\t".join(cells)):
        return False
    try:
        values = np.array([float(cell) for cell in cells]).reshape(len(rows), len(labels))
        chosen = values[np.arange(len(rows)), [labels.index(row[1]) for row in rows]]
    except ValueError:  # no number, or an unknown label
        return False
    return bool(((values >= 0) & (values <= 1)).all() and (chosen == values.max(axis=1)).all()
                and (np.abs(values.sum(axis=1) - 1) <= SUM_TOLERANCE).all())


def _check_row(line: bytes, labels: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Yield (column, found, expected) for everything that is wrong within a row."""
    try:
        cells = line.decode("utf-8").split("\t")
    except UnicodeDecodeError:
        yield "", "no UTF-8", "UTF-8 text"
        return
    if len(cells) != 2 + len(labels):
        yield "", f"{len(cells)} columns", f"{2 + len(labels)}"
        return
    filename, scene_label, *cells = cells
    if not _is_clip(filename):
        yield ", filename", shown(filename), "the name of a wav file"
    legal = scene_label in labels
    if not legal:
        yield ", scene_label", shown(scene_label), "one of the labels of the columns"
    values = [_number(cell) for cell in cells]
    wrong = [index for index, value in enumerate(values) if not 0 <= value <= 1]
    for index in wrong:
        yield f", {labels[index]}", shown(cells[index]), "a number from 0 to 1"
    if wrong:
        return
    if abs(sum(values) - 1) > SUM_TOLERANCE:
        yield "", f"probabilities that sum to {sum(values):.6g}", f"1 within {SUM_TOLERANCE:g}"
    if legal and values[labels.index(scene_label)] < max(values):
        yield ", scene_label", shown(scene_label), f"{labels[values.index(max(values))]}, which is more probable"


def _number(cell: str) -> float:
    """The number in a cell; NaN if it is not a decimal number."""
    try:
        return float(cell) if _NUMBER_CHARACTERS.fullmatch(cell) else math.nan
    except ValueError:
        return math.nan


def _is_clip(filename: str) -> bool:
    return (filename.endswith(".wav") and filename.isprintable() and "\\" not in filename
            and not {"", ".", ".."}.intersection(filename.split("/")))


def _check_clips(lines: Sequence[bytes], file: str, rules: Rules) -> Iterator[Finding]:
    """Yield repeated clips, and a finding if the clips are not those of the challenge."""
    first: dict[str, int] = {}
    nameless = 0
    for line, row in enumerate(lines, start=2):
        filename = row.partition(b"\t")[0].decode("utf-8", "replace")
        key = filename.removeprefix(CLIP_FOLDER)
        if not _is_clip(filename):
            nameless += 1
        elif key in first:
            yield Finding("error", file, f"line {line}", f"{shown(filename)} again", f"it on line {first[key]} only")
        else:
            first[key] = line
    files = rules.files
    expected = set(files)
    extra, missing = len(first.keys() - expected), len(expected - first.keys())
    # rows with a wrong name are reported already, and may be meant for the missing clips
    if extra or missing > nameless:
        yield Finding("not_submittable", file, "",
                      f"{len(first):,} files, {extra:,} of them not of the evaluation set, {missing:,} of it missing",
                      f"the {len(files):,} files {files[0]} to {files[-1]}")
