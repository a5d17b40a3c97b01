"""Tables in Markdown, in line where they are read as text."""
from collections.abc import Sequence


def table(rows: Sequence[Sequence[str]], sides: str) -> str:
    """The lines of a table.

    Args:
        rows: cells; the first row is the heading.
        sides: one character a column: ``<`` for text, ``>`` for figures.
    """
    escaped = [[cell.replace("\\", "\\\\").replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(3, *map(len, column)) for column in zip(*escaped, strict=True)]
    head, *lines = ["| " + " | ".join(f"{cell:{side}{width}}" for cell, side, width in
                                      zip(row, sides, widths, strict=True)) + " |" for row in escaped]
    rule = ["-" * width if side == "<" else "-" * (width - 1) + ":" for side, width in zip(sides, widths, strict=True)]
    return "\n".join([head, f"| {' | '.join(rule)} |", *lines])


def notes(sentences: Sequence[str]) -> str:
    """A list of what has to be said with a table."""
    return "\n".join(f"- {sentence}" for sentence in sentences)
