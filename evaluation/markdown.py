"""Markdown tables whose columns are aligned in the source, too."""
from collections.abc import Sequence

from task1a.errors import printable


def section(title: str, rows: Sequence[Sequence[str]], sides: str, notes: Sequence[str]) -> str:
    """Format a heading, a table, and a list of notes.

    Args:
        title: text of the heading.
        rows: cells of the table; the first row is its head.
        sides: alignment of each column: ``<`` for text, ``>`` for numbers.
        notes: items of the list.
    """
    escaped = []
    for row in rows:
        escaped.append([printable(cell.replace("\\", "\\\\").replace("|", "\\|")) for cell in row])
    widths = [max(3, *map(len, column)) for column in zip(*escaped, strict=True)]
    # the rule below the head says how a column is aligned: ----- or ----:
    rule = ["-" * (width - (side == ">")) + ":" * (side == ">")
            for side, width in zip(sides, widths, strict=True)]
    lines = [f"## {printable(title)}", ""]
    for row in (escaped[0], rule, *escaped[1:]):
        cells = [f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)]
        lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    for note in notes:
        lines.append(f"- {printable(note)}")
    return "\n".join(lines) + "\n"
