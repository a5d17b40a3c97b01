"""Tab-separated tables of clips: one reader for every table that comes from outside of the project.

Names and labels must be printable, not blank, without spaces around them and without quotation
marks, so that none of them can break a table, a message or a file name later.
"""
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from task1a.data.recording import open_regular
from task1a.errors import InputError, shown

MAX_BYTES = 1 << 27
"""Size of the largest table that is read, five times that of the challenge's largest predictions."""
MAX_COLUMNS = 1024
MAX_CHARACTERS = 1000
"""Length of the longest name or label."""


def read_table(path: Path, columns: Sequence[str], expected: str) -> pd.DataFrame:
    """Read a tab-separated table with a header line.

    Lines may end with LF, CR LF or CR. Quotation marks that enclose a field are removed.

    Args:
        path: the file.
        columns: names of the required columns, whose fields must be plain text (:func:`text_fault`).
        expected: what the file should be, for the messages about a missing file or column.

    Returns:
        All columns as text, in the order of the file; row ``i`` is line ``i + 2``.

    Raises:
        InputError: the file cannot be read, is too large, is not UTF-8 or lists no clip; a column
            is missing, unnamed or repeated; a line has too few or too many fields; a field of
            ``columns`` is not plain text.
    """
    lines = _read_text(path, expected).split("\n")
    header = [_unquoted(name) for name in lines.pop(0).split("\t")]

    if len(header) > MAX_COLUMNS:
        raise InputError(f"{path}: {len(header):,} columns; at most {MAX_COLUMNS:,} are read")
    for column in columns:
        if column not in header:
            raise InputError(f"{path}: no column {column!r} (the first line is {shown(' '.join(header))}); it must be "
                             f"{expected}, its columns separated by tabs")
    for number, name in enumerate(header, start=1):
        if fault := text_fault(name):
            raise InputError(f"{path}: line 1: the name of column {number}, {shown(name)}, {fault}")
        if header.count(name) > 1:
            raise InputError(f"{path}: two columns are named {name!r}")

    if not lines:
        raise InputError(f"{path}: lists no clip")
    # every line is checked before the fields are joined: one that is too long and one that is too
    # short would cancel, and shift all fields between them into other columns
    for number, line in enumerate(lines, start=2):
        found = line.count("\t") + 1
        if found != len(header):
            raise InputError(f"{path}: line {number}: {found:,} fields where the header has {len(header)}; separate "
                             "fields by single tabs")
    # one list of all fields, because a list for each line would take several times the time and
    # memory
    fields = "\t".join(lines).split("\t")
    if any('"' in line for line in lines):
        fields = [_unquoted(field) for field in fields]
    table = {name: fields[position::len(header)] for position, name in enumerate(header)}

    for column in columns:
        for field in dict.fromkeys(table[column]):  # a label stands on many lines
            if fault := text_fault(field):
                number = table[column].index(field) + 2
                raise InputError(f"{path}: line {number}: {column} {shown(field)} {fault}")
    return pd.DataFrame(table)


def text_fault(text: str) -> str:
    """Return why a text cannot be a name or a label in a table; empty if it can."""
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


def _unquoted(field: str) -> str:
    return field[1:-1] if len(field) > 1 and field[0] == field[-1] == '"' else field


def _read_text(path: Path, expected: str) -> str:
    """Read a text file with its line ends as LF, without blank lines at its end."""
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
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    filled = len(text.rstrip(" \t\n"))
    if not filled:
        raise InputError(f"{path}: the file is empty; it must be {expected}")
    # the last line may end with empty fields
    return text[:filled] + text[filled:].partition("\n")[0]
