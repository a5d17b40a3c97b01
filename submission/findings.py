"""What a check found, and how it is told."""
import reprlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Level = Literal["error", "not_submittable", "warning"]

_TITLES = {"error": "error", "not_submittable": "NOT SUBMITTABLE", "warning": "warning"}
_LINES_SHOWN = 50

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 200


@dataclass(frozen=True)
class Finding:
    """One thing that is not as the rules want it."""

    level: Level
    """``error``: the package is malformed; ``not_submittable``: well-formed, but not of the challenge's data"""
    file: str
    """the member of the package, or the package"""
    where: str
    """line of a table, field of the metadata; empty for the whole file"""
    found: str
    expected: str

    def __str__(self) -> str:
        """One line."""
        place = f"{self.file}, {self.where}" if self.where else self.file
        return f"{_TITLES[self.level]}: {place}: found {self.found}, expected {self.expected}"


def shown(value: Any) -> str:
    """A value as it is quoted in a finding: short, whatever a stranger's file holds."""
    return _short.repr(value)


def of_level(findings: Iterable[Finding], level: Level) -> tuple[Finding, ...]:
    """The findings of one level."""
    return tuple(finding for finding in findings if finding.level == level)


def tell(findings: Sequence[Finding], challenge: str) -> str:
    """The findings line by line, the gravest first, and a last line with the verdict."""
    errors, reasons = of_level(findings, "error"), of_level(findings, "not_submittable")
    lines = [str(finding) for finding in (*errors, *reasons, *of_level(findings, "warning"))]
    if len(lines) > _LINES_SHOWN:
        lines[_LINES_SHOWN:] = [f"... and {len(lines) - _LINES_SHOWN:,} more"]
    if errors:
        lines.append(f"invalid package: {len(errors):,} errors")
    elif reasons:
        lines.append(f"well-formed, but NOT SUBMITTABLE to {challenge}: {len(reasons):,} reasons above")
    else:
        lines.append(f"valid, and submittable to {challenge}")
    return "\n".join(lines)
