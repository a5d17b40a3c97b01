"""Findings of a check, as text and as JSON."""
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from task1a.errors import counted, shown

Level = Literal["error", "not_submittable", "warning"]
Verdict = Literal["valid", "not_submittable", "invalid"]

_TITLES: dict[Level, str] = {"error": "error", "not_submittable": "NOT SUBMITTABLE", "warning": "warning"}
# lines of each level, and characters of a name
_LINES_SHOWN = 50
_NAME_SHOWN = 300


@dataclass(frozen=True)
class Finding:
    """One violation of the rules."""

    level: Level
    """``error``: the package is malformed; ``not_submittable``: well-formed, but not of the
    challenge's data"""
    file: str
    """name of the file, or of the package"""
    where: str
    """line of a table or field of the metadata; empty for the whole file"""
    found: str
    expected: str

    def __str__(self) -> str:
        """Format the finding as one line that is safe to print, whatever names the package
        contains."""
        half = _NAME_SHOWN // 2
        names = []
        for name in filter(None, (self.file, self.where)):
            names.append(name if len(name) <= _NAME_SHOWN else f"{name[:half]}...{name[-half:]}")
        line = f"{_TITLES[self.level]}: {', '.join(names)}: found {self.found}, expected {self.expected}"
        # escape control characters, including line ends
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def format_key(key: Any) -> str:
    """Format a key of a metadata file, which need not be text, as a part of a field's path."""
    return key if isinstance(key, str) else shown(key)


def with_level(findings: Iterable[Finding], level: Level) -> tuple[Finding, ...]:
    """Return the findings of one level."""
    return tuple(finding for finding in findings if finding.level == level)


def verdict(findings: Iterable[Finding]) -> Verdict:
    """Return the verdict on a package with these findings."""
    levels = {finding.level for finding in findings}
    if "error" in levels:
        return "invalid"
    return "not_submittable" if "not_submittable" in levels else "valid"


def format_findings(findings: Sequence[Finding], challenge: str) -> str:
    """Format the findings line by line, the gravest first, with the verdict in the last line."""
    lines: list[str] = []
    for level, title in _TITLES.items():
        found = with_level(findings, level)
        lines += map(str, found[:_LINES_SHOWN])
        if len(found) > _LINES_SHOWN:
            lines.append(f"{title}: ... and {len(found) - _LINES_SHOWN:,} more, which submission.validate "
                         "--json lists")
    errors, reasons = with_level(findings, "error"), with_level(findings, "not_submittable")
    if errors:
        lines.append(f"invalid package: {counted(len(errors), 'error')}")
    elif reasons:
        lines.append(f"well-formed, but NOT SUBMITTABLE to {challenge}: {counted(len(reasons), 'reason')} above")
    else:
        lines.append(f"valid, and submittable to {challenge}")
    return "\n".join(lines)


def as_json(findings: Sequence[Finding], package: str, edition: str) -> dict[str, Any]:
    """Return the findings as plain data for other tools, which rely on the keys."""
    return {
        "package": package,
        "edition": edition,
        "verdict": verdict(findings),
        "counts": {level: len(with_level(findings, level)) for level in _TITLES},
        "findings": [asdict(finding) for finding in findings],
    }
