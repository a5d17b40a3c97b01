"""What a check found, and how it is told."""
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from task1a.errors import shown

Level = Literal["error", "not_submittable", "warning"]
Verdict = Literal["valid", "not_submittable", "invalid"]

_TITLES: dict[Level, str] = {"error": "error", "not_submittable": "NOT SUBMITTABLE", "warning": "warning"}
_LINES_SHOWN = 50
_NAME_SHOWN = 300


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
        """One line that is safe to print, whatever names a stranger's package has."""
        place = ", ".join(_clipped(part) for part in (self.file, self.where) if part)
        return _printable(f"{_TITLES[self.level]}: {place}: found {self.found}, expected {self.expected}")


def named(key: Any) -> str:
    """A key of a stranger's metadata as a part of a field's place."""
    return key if isinstance(key, str) else shown(key)


def of_level(findings: Iterable[Finding], level: Level) -> tuple[Finding, ...]:
    """The findings of one level."""
    return tuple(finding for finding in findings if finding.level == level)


def verdict(findings: Iterable[Finding]) -> Verdict:
    """What the findings come to."""
    levels = {finding.level for finding in findings}
    return "invalid" if "error" in levels else "not_submittable" if "not_submittable" in levels else "valid"


def tell(findings: Sequence[Finding], challenge: str) -> str:
    """The findings line by line, the gravest first, and a last line with the verdict."""
    lines = []
    for level, title in _TITLES.items():
        found = of_level(findings, level)
        lines += [str(finding) for finding in found[:_LINES_SHOWN]]
        if len(found) > _LINES_SHOWN:
            lines.append(f"{title}: ... and {len(found) - _LINES_SHOWN:,} more, which submission.validate --json lists")
    errors, reasons = of_level(findings, "error"), of_level(findings, "not_submittable")
    lines.append({
        "invalid": f"invalid package: {len(errors):,} errors",
        "not_submittable": f"well-formed, but NOT SUBMITTABLE to {challenge}: {len(reasons):,} reasons above",
        "valid": f"valid, and submittable to {challenge}",
    }[verdict(findings)])
    return "\n".join(lines)


def as_json(findings: Sequence[Finding], package: str, edition: str) -> dict[str, Any]:
    """The findings as plain data with keys that other tools may rely on."""
    return {
        "package": package,
        "edition": edition,
        "verdict": verdict(findings),
        "counts": {level: len(of_level(findings, level)) for level in _TITLES},
        "findings": [asdict(finding) for finding in findings],
    }


def _clipped(name: str) -> str:
    half = _NAME_SHOWN // 2
    return name if len(name) <= _NAME_SHOWN else f"{name[:half]}...{name[-half:]}"


def _printable(text: str) -> str:
    """Text without anything that a terminal would obey, line ends included."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
