"""Tab-separated tables of clips: one reader for every table that the project takes from elsewhere.

A field that is no line of plain text is refused here, so that no name, label or device can later break a table, a
message or a file name: fields are printable, not blank, without spaces around them and without quotation marks.
"""
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from task1a.data.regular_file import open_regular
from task1a.errors import InputError, shown

MAX_BYTES = 1 << 27
"""The largest table that is read; the challenge's largest predictions have a fifth of that."""
MAX_COLUMNS = 1024
MAX_CHARACTERS = 1000
"""The longest name or label."""


def read_table(path: Path, columns: Sequence[str], expected: str) -> pd.DataFrame:
    """Read a tab-separated table with a header line.

    Lines may end with LF, CR LF or CR, and a field may be enclosed in quotation marks, which are taken off.

    Args:
        path: the file.
        columns: names of the columns that must be there and hold plain text.
        expected: what the file has to be, for the messages of a missing file and a missing column.

    Returns:
        All columns as text, in the order of the file; row ``i`` is line ``i + 2``.

    Raises:
        InputError: the file cannot be read, is too large, is not UTF-8 or lists no clip; a column is missing, has no
            name or the name of another one; a line has too few or too many fields; a field of ``columns`` is not plain
            text (:func:`text_fault`).
    """
    header, *rows = _read_fields(path, expected)
    _check_header(path, header, columns, expected)
    if not rows:
        raise InputError(f"{path}: lists no clip")
    for line, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise InputError(f"{path}: line {line}: {len(row):,} fields where the header has {len(header)}; single "
                             "tabs separate fields")
    for column in columns:
        position = header.index(column)
        for line, row in enumerate(rows, start=2):
            if fault := text_fault(row[position]):
                raise InputError(f"{path}: line {line}: {column} {shown(row[position])} {fault}")
    return pd.DataFrame(rows, columns=header)


def text_fault(text: str) -> str:
    """Say what keeps a text from being a name or a label in a table; empty where nothing does."""
    if not text.strip():
        return "is blank"
    if len(text) > MAX_CHARACTERS:
        return f"has {len(text):,} characters; at most {MAX_CHARACTERS:,} are allowed"
    if not text.isprintable():
        character = next(character for character in text if not character.isprintable())
        return f"holds the character {ascii(character)}, which cannot be printed; remove it"
    if text != text.strip():
        return "begins or ends with a space; remove it"
    if '"' in text:
        return "holds a quotation mark; remove it"
    return ""


def _read_fields(path: Path, expected: str) -> list[list[str]]:
    try:
        with open_regular(path) as file:
            content = file.read(MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: no such file; it must be {expected}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); it must be {expected}") from None
    if len(content) > MAX_BYTES:
        raise InputError(f"{path}: more than {MAX_BYTES:,} bytes, which is too large for {expected}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start + 1:,}); save it as UTF-8") from None
    text = text.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n")
    if not text:
        raise InputError(f"{path}: the file is empty; it must be {expected}")
    rows = []
    for line in text.split("\n"):
        rows.append([_unquoted(field) for field in line.split("\t")])
    return rows


def _unquoted(field: str) -> str:
    return field[1:-1] if len(field) > 1 and field[0] == field[-1] == '"' else field


def _check_header(path: Path, header: Sequence[str], columns: Sequence[str], expected: str) -> None:
    if len(header) > MAX_COLUMNS:
        raise InputError(f"{path}: {len(header):,} columns; at most {MAX_COLUMNS:,} are read")
    missing = [column for column in columns if column not in header]
    if missing:
        raise InputError(f"{path}: no column {missing[0]!r} (the first line is {shown(' '.join(header))}); it must be "
                         f"{expected}, its columns separated by tabs")
    for number, name in enumerate(header, start=1):
        if fault := text_fault(name):
            raise InputError(f"{path}: line 1: the name of column {number}, {shown(name)}, {fault}")
        if header.count(name) > 1:
            raise InputError(f"{path}: two columns are named {name!r}")
