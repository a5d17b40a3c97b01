"""Check a package as a stranger would: every rule, every violation.

``python -m submission.validate ZIP|FOLDER [--edition YEAR] [--json] [--run DIR ...]``. A zip has the official
hierarchy, ``<any>/task1/<label>/<label>.output.csv`` and ``<label>.meta.yaml`` in 2021, ``task1/<label>/...`` since; a
folder holds the folders of the labels, or is an unpacked zip. PDF files (the technical report) are only checked for
damage. With ``--run``, given once for each system in the order of the labels, the package is compared with the runs it
was made of.

Two things are told apart: errors, which mean that the package is malformed, and reasons why a well-formed package
cannot be submitted, because it is not about the challenge's data. Exit status 0 only for a package that can be
submitted; warnings do not count.
"""
import json
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType

from submission import check_meta, check_output
from submission.archive import Member, Refused, opened
from submission.findings import Finding, as_json, of_level, shown, tell, verdict
from submission.rules import EDITIONS, META_SUFFIX, TASK1A_2021, Rules
from task1a.errors import CommandParser, InputError, run_command

__all__ = ["Finding", "main", "validate"]

_REPORT = ".pdf"
_REPORT_BYTES = 64 * 1024 * 1024  # of all reports together


def validate(path: Path, rules: Rules = TASK1A_2021, runs: Sequence[Path] = ()) -> tuple[Finding, ...]:
    """Everything that is wrong with a package, in the order of its files.

    Args:
        path: the zip, or a folder with the folders of the labels.
        rules: the edition.
        runs: run folders to compare with, one for each system in the order of the labels; none to compare with
            nothing. ``{split}`` in a path stands for each split of the edition.

    Raises:
        InputError: there is nothing at ``path``, the runs are too few or too many, or one cannot be read.
    """
    path = Path(path)
    if (path / rules.folder).is_dir():
        path = path / rules.folder
    above = () if path.is_dir() else rules.above
    with opened(path, _most_bytes(rules)) as (members, findings):
        other = _other_edition(members, path, rules)
        if other:
            return *findings, Finding("error", path.name, "", f"a package of {EDITIONS[other].name}",
                                      f"one of {rules.name}; --edition {other} checks it by its own rules")
        systems, misplaced = _by_label(members, above, rules)
        findings += misplaced
        if len(systems) > rules.systems or not (systems or findings):
            findings.append(Finding("error", path.name, "", f"{len(systems)} systems",
                                    f"1 to {rules.systems}; no more are looked at"))
        labels = sorted(systems)[:rules.systems]
        if runs and len(runs) != len(labels):
            raise InputError(f"--run is given {len(runs)} times for {len(labels)} systems; give it once for each, in "
                             f"this order: {shown(' '.join(labels))}")
        for label, run in zip(labels, runs or [None] * len(labels), strict=True):
            findings += _check_system(label, {file: members[file] for file in systems[label]}, rules, run)
        for name in sorted(members):
            if name.endswith(_REPORT):
                findings += _check_report(members[name])
    return tuple(findings)


def _most_bytes(rules: Rules) -> int:
    one = len(rules.output_suffixes) * check_output.most_bytes(rules) + check_meta.MAX_BYTES
    return rules.systems * one + _REPORT_BYTES


def _by_label(members: Collection[str], above: Sequence[str | None],
              rules: Rules) -> tuple[dict[str, list[str]], list[Finding]]:
    """The files in every label's folder, and those that lie elsewhere; ``above``: the folders above, None is any."""
    systems: dict[str, list[str]] = {}
    findings = []
    names = [f"<label>{suffix}" for suffix in (*rules.output_suffixes, META_SUFFIX)]
    hierarchy = "/".join((*(name or "<any>" for name in above), "<label>", " or ".join(names)))
    for member in sorted(members):
        *folders, _ = member.split("/")
        if member.endswith(_REPORT) or (not above and not folders):  # beside the labels' folders lies the zip itself
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


def _other_edition(members: Collection[str], path: Path, rules: Rules) -> str | None:
    """The edition that the names of the files are right for, where they are not for the wanted one."""
    def fits(edition: Rules) -> bool:
        systems, _ = _by_label(members, () if path.is_dir() else edition.above, edition)
        return any(file.endswith(edition.output_suffixes) for files in systems.values() for file in files)

    return None if fits(rules) else next((year for year, edition in EDITIONS.items() if fits(edition)), None)


def _check_system(label: str, members: Mapping[str, Member], rules: Rules, run: Path | None) -> Iterator[Finding]:
    """Check the files in a label's folder, and compare them with the system's run where there is one."""
    suffixes = (*rules.output_suffixes, META_SUFFIX)
    names = [label + suffix for suffix in suffixes]
    picked = {suffix: _pick(members.values(), label, suffix) for suffix in suffixes}
    for member in members.values():
        if member not in picked.values():
            yield Finding("error", member.name, "", "an extra file", f"{' and '.join(names)} only")
        elif _base(member) not in names:
            yield Finding("error", member.name, "", f"the name {shown(_base(member))}",
                          f"the stem {label}, as its folder")
    for suffix, member in picked.items():
        if member is None:
            yield Finding("error", label, "", f"no {label}{suffix}", "every system output and its metadata")
    runs = rules.runs_of(run) if run else (None,) * len(rules.output_suffixes)
    labels: tuple[str, ...] = ()
    for suffix, split_run in zip(rules.output_suffixes, runs, strict=True):
        if picked[suffix]:
            known, findings = _check_output(picked[suffix], rules, split_run)
            yield from findings
            labels = labels or known
    if picked[META_SUFFIX]:
        yield from _check_meta(picked[META_SUFFIX], label, labels, rules, runs if run else ())


def _pick(members: Collection[Member], label: str, suffix: str) -> Member | None:
    """The file of one kind: the one with the right name, else the only one with the right ending."""
    members = [member for member in members if member.name.endswith(suffix)]
    named = [member for member in members if _base(member) == label + suffix]
    return named[0] if named else members[0] if len(members) == 1 else None


def _base(member: Member) -> str:
    return member.name.rpartition("/")[2]


def _check_output(member: Member, rules: Rules, run: Path | None) -> tuple[tuple[str, ...], list[Finding]]:
    try:
        data = member.read(check_output.most_bytes(rules))
    except Refused as refused:
        return (), [refused.finding]
    labels, findings = check_output.check(data, _base(member), rules)
    if run and labels and not of_level(findings, "error"):
        findings += _against_run().compare_output(data, _base(member), run)
    return labels, findings


def _check_meta(member: Member, label: str, labels: Sequence[str], rules: Rules,
                runs: Sequence[Path]) -> list[Finding]:
    try:
        data = member.read(check_meta.MAX_BYTES)
    except Refused as refused:
        return [refused.finding]
    meta, findings = check_meta.read(data, _base(member))
    if meta is not None:
        findings += check_meta.check(meta, _base(member), label, labels, rules)
    if meta is not None and runs:
        findings += _against_run().compare_meta(meta, _base(member), runs, rules)
    return findings


def _check_report(member: Member) -> Iterator[Finding]:
    try:
        data = member.read(_REPORT_BYTES)
    except Refused as refused:
        yield refused.finding
        return
    if not data.startswith(b"%PDF-"):
        yield Finding("warning", member.name, "", "no PDF", "a technical report as PDF")


def _against_run() -> ModuleType:
    # it counts the values of model files, for which it needs torch: seconds that only --run may take
    from submission import against_run
    return against_run


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    parser = CommandParser(prog="python -m submission.validate", description="Check a package before upload.")
    parser.add_argument("package", type=Path, metavar="ZIP|FOLDER")
    parser.add_argument("--edition", choices=EDITIONS, default="2021", help="year of the challenge (default: 2021)")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument("--run", type=Path, action="append", default=[], metavar="DIR", help="compare with the run "
                        "that a system was made of; once for each system, in the order of the labels; where the "
                        "edition has splits, a path with {split} for their runs")
    arguments = parser.parse_args(argv)
    rules = EDITIONS[arguments.edition]
    findings = validate(arguments.package, rules, arguments.run)
    if arguments.json:
        print(json.dumps(as_json(findings, str(arguments.package), arguments.edition), indent=1))
    else:
        print(tell(findings, rules.name))
    return 0 if verdict(findings) == "valid" else 1


if __name__ == "__main__":
    sys.exit(run_command(main))
