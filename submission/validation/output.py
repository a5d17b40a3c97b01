"""Check a system output of any origin, size and content.

Every violation is reported with its line.

The organisers' validator reads the table with Python's ``csv`` and finds columns by their names.
What it reads alike, such as CR LF, quotes, spaces around numbers, another folder or another order
of the columns, is a warning. It stops at an empty line and at a byte order mark, so these are
errors.
"""
import codecs
import csv
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

# for data sets other than the challenge's
_EXTRA_ROWS = 100_000
# two names, ten numbers with all digits, and the tabs
_ROW_BYTES = 320
_FOLDER = CLIP_FOLDER.removesuffix("/")
# float() accepts more than decimal numbers: nan, 1_0, the digits of other scripts, spaces around
# them
_NUMBER_CHARACTERS = re.compile(r"[0-9.eE+\-\t]*")


def max_bytes(rules: Rules) -> int:
    """Return the maximum size of an output that is checked."""
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
    lines, findings = split_lines(data, file)
    if not lines:
        return None, findings
    lines, problems = remove_quotes(lines, file)
    findings += problems
    (_, header), *rows = lines
    labels, order, problems = check_header(header, file, rules)
    findings += problems
    if not labels:
        return None, findings
    if order:
        for index, (number, line) in enumerate(rows):
            cells = line.split(b"\t")
            if len(cells) == len(order):  # a row of another length is reported as one
                rows[index] = number, b"\t".join([cells[place] for place in order])
    if not rows:
        return Table(labels, rows), [*findings, Finding("error", file, "", "no rows", rows_expected)]
    wrong = chain(check_rows(rows, file, labels), check_clips(rows, file, rules))
    violations = list(_bounded(wrong, file))
    if order and len(violations) > len(rows) // 2:
        findings.pop()  # the note about the order, because the cells are in another one
        violations = [Finding("error", file, "line 1",
                              "names of columns in an order that the cells contradict",
                              f"the order {' '.join(rules.columns)}")]
    return Table(labels, rows), findings + violations


def split_lines(data: bytes, file: str) -> tuple[Rows, list[Finding]]:
    """Return the lines that are not empty, or none if they cannot be checked; and the findings."""
    findings = []
    if data.startswith(codecs.BOM_UTF8):
        findings.append(Finding("error", file, "line 1", "a byte order mark", "UTF-8 text without one"))
        data = data.removeprefix(codecs.BOM_UTF8)
    if b"\r" in data:
        data = data.replace(b"\r\r\n", b"\n").replace(b"\r\n", b"\n")
        if b"\r" in data:
            return [], [*findings, Finding("error", file, "", "carriage returns without line feeds",
                                           "lines that end with LF")]
        findings.append(Finding("warning", file, "", "lines that end with CR LF",
                                "lines that end with LF"))
    rows, empty, too_long = [], [], []
    for number, line in enumerate(data.removesuffix(b"\n").split(b"\n"), start=1):
        if len(line) > MAX_LINE_BYTES:
            too_long.append(Finding("error", file, f"line {number}", f"{len(line):,} bytes",
                                    f"at most {MAX_LINE_BYTES:,}"))
        elif line.strip(b" \t"):
            rows.append((number, line))
        else:
            empty.append((number, line))
    if too_long:
        return [], [*findings, *_bounded(too_long, file)]
    if rows and empty:
        found = "an empty line" if len(empty) == 1 else f"the first of {len(empty):,} empty lines"
        findings.append(Finding("error", file, f"line {empty[0][0]}", found,
                                "none; the organisers' validator stops there"))
    return rows or empty[:1], findings


def _bounded(violations: Iterable[Finding], file: str) -> Iterator[Finding]:
    violations = iter(violations)
    yield from islice(violations, MAX_VIOLATIONS)
    if next(violations, None):
        yield Finding("error", file, "", f"more than {MAX_VIOLATIONS:,} violations", "none")


def remove_quotes(lines: Rows, file: str) -> tuple[list[tuple[int, bytes]], list[Finding]]:
    """Return the lines without quotes around cells and spaces around numbers, and the findings."""
    plain: list[tuple[int, bytes]] = []
    quotes, spaces = [], []
    for number, line in lines:
        if b'"' in line:
            with suppress(UnicodeDecodeError, csv.Error):
                cells = next(csv.reader([line.decode("utf-8")], delimiter="\t"))
                if not any("\t" in cell for cell in cells):
                    line = "\t".join(cells).encode("utf-8")
                    quotes.append(number)
        if plain and b" " in line:  # names of columns are not numbers
            names, numbers = line.split(b"\t")[:2], line.split(b"\t")[2:]
            stripped = b"\t".join(names + [cell.strip(b" ") for cell in numbers])
            if stripped != line:
                line = stripped
                spaces.append(number)
        plain.append((number, line))
    findings = []
    for what, places in (("quotes around cells", quotes), ("spaces around numbers", spaces)):
        if places:
            findings.append(Finding("warning", file, f"line {places[0]}", what, "the values alone"))
    return plain, findings


def check_header(header: bytes, file: str,
                 rules: Rules) -> tuple[tuple[str, ...], list[int] | None, list[Finding]]:
    """Check the names of the columns.

    Returns:
        The labels (empty if the columns are wrong), the places of the official columns if they are
        in another order, and the findings.
    """
    text = header.decode("utf-8", "replace")
    columns, official = text.split("\t"), " ".join(rules.columns)
    labels = tuple(columns[2:])
    if "\N{REPLACEMENT CHARACTER}" in text:
        return (), None, [Finding("error", file, "line 1", "no UTF-8", "UTF-8 text")]
    if tuple(columns) == rules.columns:
        return labels, None, []
    if sorted(columns) == sorted(rules.columns):
        order = [columns.index(name) for name in rules.columns]
        return rules.labels, order, [Finding("warning", file, "line 1", "the columns in another order",
                                             f"the order {official}, for programs that read it by place")]
    if (tuple(columns[:2]) != KEY_COLUMNS or not 2 <= len(labels) <= MAX_LABELS
            or len(set(columns)) < len(columns) or "" in columns):
        return (), None, [Finding("error", file, "line 1", shown(" ".join(columns)),
                                  f"the columns {official}, with tabs between them")]
    return labels, None, [Finding("not_submittable", file, "line 1", f"the labels {shown(' '.join(labels))}",
                                  f"those of {rules.name}: {' '.join(rules.labels)}")]


def check_rows(rows: Rows, file: str, labels: Sequence[str]) -> Iterator[Finding]:
    """Yield what is wrong within the rows below the header."""
    for number, line in rows:
        for field, found, expected in check_row(line, labels):
            yield Finding("error", file, f"line {number}{field}", found, expected)


def check_row(line: bytes, labels: Sequence[str]) -> Iterator[tuple[str, str, str]]:
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
    if scene_label not in labels:
        yield ", scene_label", shown(scene_label), "one of the labels of the columns"
    values = []
    for label, cell in zip(labels, cells, strict=True):
        value = -1.0
        with suppress(ValueError):
            if _NUMBER_CHARACTERS.fullmatch(cell):
                value = float(cell)
        if 0 <= value <= 1:
            values.append(value)
        else:
            yield f", {label}", shown(cell), "a number from 0 to 1"
    if len(values) < len(labels):
        return
    if abs(sum(values) - 1) > SUM_TOLERANCE:
        yield "", f"probabilities that sum to {sum(values):.6g}", f"1 within {SUM_TOLERANCE:g}"
    if scene_label in labels and values[labels.index(scene_label)] < max(values):
        best = labels[values.index(max(values))]
        yield ", scene_label", shown(scene_label), f"{best}, which is more probable"


def _is_clip(filename: str) -> bool:
    return filename.endswith(".wav") and filename.isprintable() and "\\" not in filename


def check_clips(rows: Rows, file: str, rules: Rules) -> Iterator[Finding]:
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
            yield Finding("error", file, f"line {number}", f"{shown(filename)} again",
                          f"it on line {first[key]} only")
        else:
            first[key] = number
    files = rules.files
    expected = set(files)
    extra, missing = len(first.keys() - expected), len(expected - first.keys())
    # rows with a wrong name are reported already, and may be meant for the missing clips
    if extra or missing > nameless:
        yield Finding("not_submittable", file, "", f"{len(first):,} files, {extra:,} of them not of the "
                      f"evaluation set, {missing:,} of it missing",
                      f"the {len(files):,} files {files[0]} to {files[-1]}")
    elif elsewhere:
        yield Finding("warning", file, "", f"the folder of {shown(elsewhere)}", f"{CLIP_FOLDER} or no folder")
