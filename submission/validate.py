"""Check a package of any origin: every rule, every violation.

An error is what the organisers refuse or what changes the meaning; what their validators and
templates take is a warning at most. Where their validators stop with an exception, so would the
evaluation, and that is an error here.

``python -m submission.validate ZIP|FOLDER [--edition YEAR] [--json] [--run DIR ...]``. A zip has
the official hierarchy, ``<any>/task1/<label>/<label>.output.csv`` and ``<label>.meta.yaml`` in
2021, ``task1/<label>/...`` since; a folder holds the folders of the labels, or is an unpacked zip.
PDF files (the technical report) are only checked for damage. With ``--run``, given once for each
system in the order of the labels, the package is compared with the runs it was made from. In an
edition of device-specific models, an inference package is checked, too: the folder itself, or one
next to the folders of the labels. None of its code is executed.

Errors mean that the package is malformed. Other findings say why a well-formed package cannot be
submitted: it is not about the challenge's data. Exit status 0 only for a package that can be
submitted; warnings do not count.
"""
import json
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from submission.rules import EDITIONS, FOLDER, INSTALLERS, META_SUFFIX, TASK1A_2021, Rules, edition
from submission.validation import metadata as check_meta
from submission.validation import output as check_output
from submission.validation.archive import Member, opened
from submission.validation.findings import Finding, Level, as_json, format_findings, verdict, with_level
from task1a.errors import CommandParser, InputError, counted, run_command, shown

_REPORT = ".pdf"
_CLUTTER = (".ds_store", "thumbs.db", "ehthumbs.db", "desktop.ini")
_WITHOUT_CLUTTER = ("a zip without them: zip -r PACKAGE.zip FOLDER -x '*.DS_Store' '*__MACOSX*' '*Thumbs.db' "
                    "'*desktop.ini'; an existing one: zip -d PACKAGE.zip with the same patterns")
_SUBTASK_B = re.compile(r"[A-Za-z0-9-]+_[A-Za-z0-9-]+_task1b_[1-4]")
# of all reports together
_REPORT_BYTES = 64 * 1024 * 1024


def validate(path: Path, rules: Rules = TASK1A_2021, runs: Sequence[Path] = ()) -> tuple[Finding, ...]:
    """Return everything that is wrong with a package, in the order of its files.

    Args:
        path: the zip, or a folder with the folders of the labels.
        rules: the edition.
        runs: run folders to compare with, one for each system in the order of the labels; empty: no
            comparison. ``{split}`` in a path stands for each split of the edition.

    Raises:
        InputError: ``path`` does not exist, there are too few or too many runs, or one cannot be
            read.
    """
    path = Path(path)
    code = find_inference_packages(path, rules) if rules.device_models and path.is_dir() else []
    if path in code and runs:
        raise InputError(f"{path}: an inference package, which --run does not compare; give the zip of the "
                         "outputs")
    findings = [] if path in code else check_systems(path, rules, runs, code)
    for folder in code:
        from submission.inference2025.check import check  # imports torch, which takes seconds

        findings += check(folder, rules)
    return tuple(findings)


def find_inference_packages(path: Path, rules: Rules) -> list[Path]:
    """Return the folder itself if it can be installed or holds modules of systems, else its folders
    that do.

    Names are compared without case, so that a misnamed package is still checked as one.
    """
    module = re.compile(rf".*_{rules.task}.*/.*_{rules.task}_.*\.py", re.IGNORECASE)
    found = []
    for folder in (path, *sorted(path.iterdir())):
        if folder is not path and (not folder.is_dir() or folder.is_symlink()):
            continue
        can_be_installed = any((folder / name).is_file() for name in INSTALLERS)
        modules = (f"{file.parent.name}/{file.name}" for file in folder.glob("*/*.py"))
        if can_be_installed or any(map(module.fullmatch, modules)):
            if folder is path:
                return [path]
            found.append(folder)
    return found


def check_systems(path: Path, rules: Rules, runs: Sequence[Path], code: Collection[Path]) -> list[Finding]:
    """Check the outputs and metadata, without the folders of inference packages."""
    if (path / FOLDER).is_dir():
        path = path / FOLDER
    is_folder = path.is_dir()
    system_bytes = len(rules.output_suffixes) * check_output.max_bytes(rules) + check_meta.MAX_BYTES
    max_bytes = rules.systems * system_bytes + _REPORT_BYTES
    with opened(path, max_bytes, without=code) as (members, findings):
        # a package of another year would break nearly every rule; it is named instead
        systems, misplaced = sort_members(members, is_folder, rules)
        if not _has_outputs(systems, rules):
            others = {}
            for year, other in EDITIONS.items():
                if _has_outputs(sort_members(members, is_folder, other)[0], other):
                    others[year] = other.name
            if others:
                return [*findings, Finding(
                    "error", path.name, "", f"a package of {' or '.join(others.values())}",
                    f"one of {rules.name}; --edition {' or '.join(others)} checks it by its own rules")]
        findings += misplaced
        if len(systems) > rules.systems or not (systems or with_level(findings, "error")):
            findings.append(Finding("error", path.name, "", counted(len(systems), "system"),
                                    f"1 to {rules.systems}; no more are checked"))
        elif len(systems) > rules.template_systems:
            findings.append(Finding(
                "warning", path.name, "", f"{len(systems)} systems",
                f"1 to {rules.template_systems}, the numbers in the organisers' template of {rules.year}; "
                f"their validator takes {rules.systems}"))
        labels = sorted(systems)[:rules.systems]
        if runs and len(runs) != len(labels):
            raise InputError(f"--run is given {counted(len(runs), 'time')} for "
                             f"{counted(len(labels), 'system')}; give it once for each, in this order: "
                             f"{shown(' '.join(labels))}")
        outputs: dict[bytes, str] = {}
        compared: Sequence[Path | None] = runs or [None] * len(labels)
        for label, run in zip(labels, compared, strict=True):
            files = [members[name] for name in systems[label]]
            findings += check_system(label, files, rules, run, outputs)
        for name in sorted(members):
            if name.endswith(_REPORT) and not _is_clutter(name):
                data, problems = members[name].read(_REPORT_BYTES)
                findings += problems
                if data is not None and not data.startswith(b"%PDF-"):
                    findings.append(Finding("warning", name, "", "no PDF", "a technical report as PDF"))
    return findings


def sort_members(members: Collection[str], is_folder: bool,
                 rules: Rules) -> tuple[dict[str, list[str]], list[Finding]]:
    """Return the names of the files in every label's folder, and findings about files elsewhere.

    The organisers' validator skips files with no ``task1`` in their path, names those in the folder
    of a system, and crashes on all others.
    """
    systems: dict[str, list[str]] = {}
    clutter, skipped, subtask_b = [], [], []
    misnamed: dict[str, Finding] = {}
    misplaced: dict[str, Finding] = {}
    above = () if is_folder else rules.above
    names = " or ".join(f"<label>{suffix}" for suffix in (*rules.output_suffixes, META_SUFFIX))
    hierarchy = "/".join([*(name or "<any>" for name in above), "<label>", names])
    for member in sorted(members):
        *folders, _ = member.split("/")
        label = folders[-1] if len(folders) == len(above) + 1 else ""
        # the validator of 2021 compares no folder, those of later years the first
        in_place = label and (None in above or folders[:-1] == list(above))
        in_system = in_place and rules.label_pattern.fullmatch(label)
        is_skipped = FOLDER not in member and not is_folder
        if _is_clutter(member):
            clutter.append((member, bool(is_skipped or in_system or _REPORT in member)))
        elif member.endswith(_REPORT) or (is_folder and not folders):
            continue  # reports are checked apart, and a zip may lie next to the labels' folders
        elif in_system:
            systems.setdefault(label, []).append(member)
            if above and folders[-2] != FOLDER:
                misnamed.setdefault(folders[-2], Finding(
                    "warning", member, "", f"the folder {shown(folders[-2])}",
                    f"{FOLDER}, as the organisers name it"))
        elif is_skipped:
            skipped.append(member)
        elif in_place and _SUBTASK_B.fullmatch(label):
            subtask_b.append(member)
        else:  # one finding for each folder
            place, found, expected = "/".join(folders) or member, "a file that does not belong here", hierarchy
            if in_place:
                found, expected = f"the folder {shown(label)}", rules.label_format
            elif folders and rules.label_pattern.fullmatch(folders[-1]):
                place = "/".join(folders[:-1])
                found = f"systems in the folder {shown(place)}"
            misplaced.setdefault(f"{place}: {found}", Finding("error", member, "", found, expected))

    findings = [*misplaced.values(), *misnamed.values()]
    if clutter:
        crashes = [member for member, harmless in clutter if not harmless]
        where = ", where the validator of the organisers stops" if crashes else ""
        findings.append(Finding(
            "error" if crashes and not is_folder else "warning", (crashes or [clutter[0][0]])[0], "",
            f"{counted(len(clutter), 'file')} of the operating system (.DS_Store, __MACOSX, Thumbs.db, "
            f"desktop.ini){where}", _WITHOUT_CLUTTER))
    if skipped:
        findings.append(Finding("warning", skipped[0], "", f"{counted(len(skipped), 'file')} of no system, "
                                "which the organisers skip", hierarchy))
    if subtask_b:
        findings.append(Finding("warning", subtask_b[0], "", "systems of subtask B, which are not checked",
                                rules.label_format))
    return systems, findings


def _is_clutter(member: str) -> bool:
    """Return whether only an operating system puts such a file into a zip."""
    *folders, base = member.split("/")
    return base.lower() in _CLUTTER or base.startswith("._") or "__MACOSX" in folders


def _has_outputs(systems: Mapping[str, Sequence[str]], rules: Rules) -> bool:
    for names in systems.values():
        for name in names:
            if name.endswith(rules.output_suffixes):
                return True
    return False


def check_system(label: str, members: Sequence[Member], rules: Rules, run: Path | None,
                 outputs: dict[bytes, str]) -> Iterator[Finding]:
    """Check the files in a label's folder, and compare them with the run of the system if there is
    one.

    Args:
        label: name of the folder.
        members: the files in it.
        rules: the edition.
        run: run folder to compare with.
        outputs: names of the outputs before, by the digest of their content; gets those of this
            system.
    """
    picked, findings = pick_files(label, members, rules)
    yield from findings
    runs = rules.runs_of(run) if run else ()
    labels: tuple[str, ...] = ()
    same_names: dict[str, list[str]] = {}
    for number, suffix in enumerate(rules.output_suffixes):
        if suffix not in picked:
            continue
        name = picked[suffix].base
        data, findings = picked[suffix].read(check_output.max_bytes(rules))
        yield from findings
        if data is None:
            continue
        table, findings = check_output.check(data, name, rules)
        yield from findings
        if table is None:
            continue
        labels = labels or table.labels
        # five copies are no five shares, and two systems are hardly alike on purpose
        first = outputs.setdefault(sha256(table.text.encode("utf-8", "replace")).digest(), name)
        same_names.setdefault(first, []).append(name)
        if first not in same_names[first]:  # it is of another system
            yield Finding("warning", name, "", f"the same predictions as in {first}",
                          "those of another system")
        if runs and not with_level(findings, "error"):
            from submission.validation import against_run  # imports torch, which takes seconds

            yield from against_run.compare_output(table.text, name, runs[number])
    for names in same_names.values():
        if len(names) > 1:
            yield Finding("error", names[1], "", f"the same predictions in {', '.join(names)}",
                          "an output for each share of the training data")

    if META_SUFFIX not in picked:
        return
    member = picked[META_SUFFIX]
    data, findings = member.read(check_meta.MAX_BYTES)
    yield from findings
    meta, findings = (None, []) if data is None else check_meta.read(data, member.base)
    yield from findings
    if meta is not None:
        yield from check_meta.check(meta, member.base, label, labels, rules)
        if runs:
            from submission.validation import against_run

            yield from against_run.compare_meta(meta, member.base, runs, rules)


def pick_files(label: str, members: Sequence[Member],
               rules: Rules) -> tuple[dict[str, Member], list[Finding]]:
    """Return the files of a system by the end of their names, and findings about names and other
    files."""
    suffixes = (*rules.output_suffixes, META_SUFFIX)
    picked, names = {}, {}
    for suffix in suffixes:
        # the file with the right name, else the only one whose name means the same
        candidates = [member for member in members if _meant(member.base).endswith(suffix)]
        right = [member for member in candidates if member.base == label + suffix]
        if right or len(candidates) == 1:
            picked[suffix] = (right or candidates)[0]
            names[picked[suffix].name] = label + suffix

    findings = []
    for member in members:
        name = names.get(member.name, "")
        if name and name != member.base:
            # the organisers' validator looks for the ending in the name, and compares the name up
            # to the first dot
            is_read = name in member.base and member.base.startswith(f"{label}.")
            findings.append(Finding("warning" if is_read else "error", member.name, "",
                                    f"the name {shown(member.base)}", f"the name {name}, as its folder"))
        elif not name:
            level: Level = "error" if any(suffix in member.base for suffix in suffixes) else "warning"
            expected = " and ".join(label + suffix for suffix in suffixes)
            findings.append(Finding(level, member.name, "", "an extra file", f"{expected} only"))
    for suffix in suffixes:
        if suffix not in picked:
            findings.append(Finding("error", label, "", f"no {label}{suffix}",
                                    "every system output and its metadata"))
    return picked, findings


def _meant(name: str) -> str:
    """Return a file's name without what editors change: case, ``.yml``, a second ending
    ``.txt``."""
    name = name.lower().removesuffix(".txt")
    return f"{name.removesuffix('.yml')}.yaml" if name.endswith(".yml") else name


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = CommandParser(prog="python -m submission.validate", description="Check a package before upload.")
    parser.add_argument("package", type=Path, metavar="ZIP|FOLDER")
    parser.add_argument("--edition", type=edition, choices=EDITIONS, default="2021",
                        help="year of the challenge (default: 2021)")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument("--run", type=Path, action="append", default=[], metavar="DIR", help="compare with the "
                        "run that a system was made from; once for each system, in the order of the labels; where "
                        "the edition has splits, a path with {split} for their runs")
    arguments = parser.parse_args(argv)
    rules = EDITIONS[arguments.edition]
    findings = validate(arguments.package, rules, arguments.run)
    if arguments.json:
        print(json.dumps(as_json(findings, str(arguments.package), arguments.edition), indent=1))
    else:
        print(format_findings(findings, rules.name))
    return 0 if verdict(findings) == "valid" else 1


if __name__ == "__main__":
    sys.exit(run_command(main))
