"""Check a package as a stranger would: every rule, every violation.

``python -m submission.validate ZIP|FOLDER``. A zip has the official hierarchy,
``<any>/task1/<label>/<label>.output.csv`` and ``<label>.meta.yaml``; a folder holds the folders of the labels, or is an
unpacked zip. PDF files (the technical report) are left alone. Two things are told apart: errors, which mean that the
package is malformed, and reasons why a well-formed package cannot be submitted, because it is not about the challenge's
data. Exit status 0 only for a package that can be submitted.
"""
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from submission import archive, check_meta, output_csv
from submission.findings import Finding, shown, tell
from submission.rules import META_SUFFIX, TASK1A_2021, Rules
from task1a.errors import CommandParser, run_command

__all__ = ["Finding", "main", "validate"]


def validate(path: Path, rules: Rules = TASK1A_2021) -> tuple[Finding, ...]:
    """Everything that is wrong with a package, in the order of its files.

    Args:
        path: the zip, or a folder with the folders of the labels.
        rules: the edition.

    Raises:
        InputError: there is nothing at ``path``.
    """
    path = Path(path)
    if (path / rules.folder).is_dir():
        path = path / rules.folder
    members, findings = archive.read(path)
    above = () if path.is_dir() else rules.above
    systems, misplaced = _by_label(members, above, rules)
    findings += misplaced
    if len(systems) > rules.systems or not (systems or findings):
        findings.append(Finding("error", path.name, "", f"{len(systems)} systems", f"1 to {rules.systems}"))
    for label, files in systems.items():
        findings += _check_system(label, files, members, rules)
    return tuple(findings)


def _by_label(members: Mapping[str, bytes], above: Sequence[str | None],
              rules: Rules) -> tuple[dict[str, list[str]], list[Finding]]:
    """The members of every label's folder, and those that lie elsewhere; ``above``: the folders above, None is any."""
    systems: dict[str, list[str]] = {}
    findings = []
    hierarchy = "/".join((*(name or "<any>" for name in above), f"<label>/<label>{rules.output_suffixes[0]} or {META_SUFFIX}"))
    for member in sorted(members):
        *folders, _ = member.split("/")
        if member.endswith(".pdf") or (not above and not folders):  # beside the labels' folders lies the zip itself
            continue
        in_place = all(name in (None, folder) for name, folder in zip(above, folders, strict=False))
        if len(folders) != len(above) + 1 or not in_place:
            findings.append(Finding("error", member, "", "a file that does not belong here", hierarchy))
        elif not rules.label_pattern.fullmatch(folders[-1]):
            findings.append(Finding("error", member, "", f"the folder {shown(folders[-1])}",
                                    f"Lastname_Institute_{rules.task}_N of letters, digits, -; N to {rules.systems}"))
        else:
            systems.setdefault(folders[-1], []).append(member)
    return systems, findings


def _check_system(label: str, files: Sequence[str], members: Mapping[str, bytes], rules: Rules) -> Iterator[Finding]:
    output, meta = (_pick(files, label, suffix) for suffix in (rules.output_suffixes[0], META_SUFFIX))
    for file in files:
        name = file.rsplit("/", 1)[-1]
        if file not in (output, meta):
            yield Finding("error", file, "", "an extra file", f"{label}{rules.output_suffixes[0]} and {label}{META_SUFFIX} only")
        elif name not in (label + rules.output_suffixes[0], label + META_SUFFIX):
            yield Finding("error", file, "", f"the name {shown(name)}", f"the stem {label}, as its folder")
    for file, suffix in ((output, rules.output_suffixes[0]), (meta, META_SUFFIX)):
        if file is None:
            yield Finding("error", label, "", f"no {label}{suffix}", "the system output and its metadata")
    labels: tuple[str, ...] = ()
    if output is not None:
        labels, findings = output_csv.check(members[output], output.rsplit("/", 1)[-1], rules)
        yield from findings
    if meta is not None:
        yield from check_meta.check(members[meta], meta.rsplit("/", 1)[-1], label, labels, rules)


def _pick(files: Sequence[str], label: str, suffix: str) -> str | None:
    """The file of one kind: the one with the right name, else the only one with the right ending."""
    files = [file for file in files if file.endswith(suffix)]
    named = [file for file in files if file.rsplit("/", 1)[-1] == label + suffix]
    return named[0] if named else files[0] if len(files) == 1 else None


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    parser = CommandParser(prog="python -m submission.validate", description="Check a package before upload.")
    parser.add_argument("package", type=Path, metavar="ZIP|FOLDER")
    findings = validate(parser.parse_args(argv).package)
    print(tell(findings, TASK1A_2021.name))
    return 1 if any(finding.level != "warning" for finding in findings) else 0


if __name__ == "__main__":
    sys.exit(run_command(main))
