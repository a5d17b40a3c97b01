"""Check a system output of any origin, size and content.

Every violation is reported with its line.

The organisers' validator reads the table with Python's ``csv`` and finds columns by their names.
What it reads alike, such as CR LF, quotes, spaces around numbers, another folder or another order
of the columns, is a warning. It stops at an empty line and at a byte order mark, so these are
errors.
"""
import codecs
import csv
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice

from submission.rules import Rules
from submission.validation.findings import Finding
from task1a.challenge import CLIP_FOLDER, KEY_COLUMNS, SUM_TOLERANCE
from task1a.errors import counted, shown

MAX_LABELS = 100
MAX_VIOLATIONS = 10_000
"""maximum number of reported violations of one file"""
MAX_LINE_BYTES = 4096
"""maximum length of a line; if one is longer, nothing else is checked, which bounds the time of
every check"""

_EXTRA_ROWS = 100_000  # for data sets other than the challenge's
_ROW_BYTES = 320  # two names, ten numbers with all digits, and the tabs
_FOLDER = CLIP_FOLDER.removesuffix("/")
# float() accepts more than decimal numbers: nan, 1_0, the digits of other scripts, spaces around
# them
_NUMBER_CHARACTERS = re.compile(r"[0-9.eE+\-\t]*")


def max_bytes(rules: Rules) -> int:
    """Maximum size of an output that is checked."""
    return _ROW_BYTES * (rules.clips + _EXTRA_ROWS)


Rows = Sequence[tuple[int, bytes]]
"""line number and content of every row"""


@dataclass(frozen=True)
class Table:
    """A system output as it is understood: LF, columns in the official order, no quotes, no spaces
    around numbers."""

    labels: tuple[str, ...]
    """labels of its columns"""
    rows: Rows

    @property
    def text(self) -> str:
        """The whole table, however the file was written."""
        rows = [row.decode("utf-8", "replace") for _, row in self.rows]
        return "\n".join(["\t".join((*KEY_COLUMNS, *self.labels)), *rows, ""])


def check(data: bytes, file: str, rules: Rules) -> tuple[Table | None, list[Finding]]:
    """Check a system output.

    Args:
        data: the file's content.
        file: its name in findings.
        rules: the edition.

    Returns:
        The table (None if there are no columns to check it by), and the findings.
    """
    rows_expected = f"a row for each of {rules.clips:,} files"
    count = data.count(b"\n")
    if count > rules.clips + _EXTRA_ROWS or len(data) > max_bytes(rules):
        return None, [Finding("error", file, "", f"{count:,} lines, {len(data):,} bytes", rows_expected)]
    findings = []
    if data.startswith(codecs.BOM_UTF8):
        findings.append(Finding("error", file, "line 1", "a byte order mark", "UTF-8 text without one"))
        data = data.removeprefix(codecs.BOM_UTF8)
    if b"\r" in data:
        data = data.replace(b"\r\r\n", b"\n").replace(b"\r\n", b"\n")
        if b"\r" in data:
            return None, [*findings, Finding("error", file, "", "carriage returns without line feeds",
                                             "lines that end with LF")]
        findings.append(Finding("warning", file, "", "lines that end with CR LF", "lines that end with LF"))
    lines = list(enumerate(data.removesuffix(b"\n").split(b"\n"), start=1))
    too_long = [Finding("error", file, f"line {number}", f"{len(line):,} bytes", f"at most {MAX_LINE_BYTES:,}")
                for number, line in lines if len(line) > MAX_LINE_BYTES]
    if too_long:
        return None, [*findings, *_bounded(too_long, file)]
    rows = [(number, line) for number, line in lines if line.strip(b" \t")]
    if rows and len(rows) < len(lines):
        first = next(number for number, line in lines if not line.strip(b" \t"))
        count = len(lines) - len(rows)
        findings.append(Finding("error", file, f"line {first}", "an empty line" if count == 1 else
                                f"the first of {count:,} empty lines", "none; the organisers' validator stops there"))

    rows, notes = _unquoted(rows or lines[:1], file)
    (_, header), *rows = rows
    labels, order, wrong = _check_header(header, file, rules)
    findings += [*notes, *wrong]
    if not labels:
        return None, findings
    if order:
        rows = [(number, _reordered(line, order)) for number, line in rows]
    if not rows:
        findings.append(Finding("error", file, "", "no rows", rows_expected))
    else:
        violations = list(_bounded(chain(_check_rows(rows, file, labels), _check_clips(rows, file, rules)), file))
        if order and len(violations) > len(rows) // 2:
            findings.pop()
            violations = [Finding("error", file, "line 1", "names of columns in an order that the cells contradict",
                                  f"the order {' '.join(rules.columns)}")]
        findings += violations
    return Table(labels, rows), findings


def _bounded(violations: Iterable[Finding], file: str) -> Iterator[Finding]:
    violations = iter(violations)
    yield from islice(violations, MAX_VIOLATIONS)
    if next(violations, None):
        yield Finding("error", file, "", f"more than {MAX_VIOLATIONS:,} violations", "none")


def _unquoted(lines: Rows, file: str) -> tuple[Rows, list[Finding]]:
    """Remove the quotes around cells, and the spaces around numbers."""
    plain, quotes, spaces = [], [], []
    for number, line in lines:
        if b'"' in line:
            with suppress(UnicodeDecodeError, csv.Error):
                cells = next(csv.reader([line.decode("utf-8")], delimiter="\t"))
                if not any("\t" in cell for cell in cells):
                    line = "\t".join(cells).encode("utf-8")
                    quotes.append(number)
        if plain and b" " in line:  # names of columns are not numbers
            names, numbers = line.split(b"\t")[:2], line.split(b"\t")[2:]
            stripped = b"\t".join([*names, *(cell.strip(b" ") for cell in numbers)])
            if stripped != line:
                line = stripped
                spaces.append(number)
        plain.append((number, line))
    found = (("quotes around cells", quotes), ("spaces around numbers", spaces))
    return plain, [Finding("warning", file, f"line {numbers[0]}", what, "the values alone")
                   for what, numbers in found if numbers]


def _reordered(line: bytes, order: Sequence[int]) -> bytes:
    """The cells of a row in the official order; a row of another length stays, and is reported as
    one."""
    cells = line.split(b"\t")
    return b"\t".join(cells[index] for index in order) if len(cells) == len(order) else line


def _check_header(header: bytes, file: str,
                  rules: Rules) -> tuple[tuple[str, ...], list[int] | None, list[Finding]]:
    """The labels (empty if the columns are wrong), the places of the official columns if they are
    in another order, and the findings."""
    text = header.decode("utf-8", "replace")
    columns, known = text.split("\t"), " ".join(rules.labels)
    labels = tuple(columns[2:])
    if "\N{REPLACEMENT CHARACTER}" in text:
        return (), None, [Finding("error", file, "line 1", "no UTF-8", "UTF-8 text")]
    if sorted(columns) == sorted(rules.columns):
        if tuple(columns) == rules.columns:
            return labels, None, []
        order = [columns.index(name) for name in rules.columns]
        return rules.labels, order, [Finding("warning", file, "line 1", "the columns in another order", "the order "
                                             f"{' '.join(rules.columns)}, for programs that read it by place")]
    if (tuple(columns[:2]) != KEY_COLUMNS or not 2 <= len(labels) <= MAX_LABELS
            or len(set(columns)) < len(columns) or "" in columns):
        return (), None, [Finding("error", file, "line 1", shown(" ".join(columns)),
                                  f"the columns {' '.join(rules.columns)}, with tabs between them")]
    return labels, None, [Finding("not_submittable", file, "line 1", f"the labels {shown(' '.join(labels))}",
                                  f"those of {rules.name}: {known}")]


def _check_rows(rows: Rows, file: str, labels: Sequence[str]) -> Iterator[Finding]:
    """Yield what is wrong within the rows below the header."""
    for number, line in rows:
        for field, *rest in _check_row(line, labels):
            yield Finding("error", file, f"line {number}{field}", *rest)


def _check_row(line: bytes, labels: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Yield (column, found, expected) for everything that is wrong within a row."""
    try:
        cells = line.decode("utf-8").split("\t")
    except UnicodeDecodeError:
        yield "", "no UTF-8", "UTF-8 text"
        return
    if len(cells) != 2 + len(labels):
        yield "", counted(len(cells), "column"), f"{2 + len(labels)}"
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
    return filename.endswith(".wav") and filename.isprintable() and "\\" not in filename


def _check_clips(rows: Rows, file: str, rules: Rules) -> Iterator[Finding]:
    """Yield repeated clips, and a finding if the clips are not those of the challenge."""
    first: dict[str, int] = {}
    nameless, elsewhere = 0, ""
    for number, row in rows:
        filename = row.partition(b"\t")[0].decode("utf-8", "replace")
        folder, _, key = filename.rpartition("/")
        if not _is_clip(filename):
            nameless += 1
            continue
        if folder not in ("", _FOLDER):
            elsewhere = elsewhere or filename
        if key in first:
            yield Finding("error", file, f"line {number}", f"{shown(filename)} again", f"it on line {first[key]} only")
        else:
            first[key] = number
    files = rules.files
    expected = set(files)
    extra, missing = len(first.keys() - expected), len(expected - first.keys())
    # rows with a wrong name are reported already, and may be meant for the missing clips
    if extra or missing > nameless:
        yield Finding("not_submittable", file, "",
                      f"{len(first):,} files, {extra:,} of them not of the evaluation set, {missing:,} of it missing",
                      f"the {len(files):,} files {files[0]} to {files[-1]}")
    elif elsewhere:
        yield Finding("warning", file, "", f"the folder of {shown(elsewhere)}", f"{CLIP_FOLDER} or no folder")
