"""Make the challenge package of one to four systems, and validate it.

``python -m submission.package RUN [RUN...] --authors FILE --out DIR`` writes below DIR, for every
run, a system's outputs and metadata, ``<label>/<label>.output.csv`` and
``<label>/<label>.meta.yaml``, and the draft of a technical report, ``<label>.report.md``; then
``<Lastname>_<Institute>_task1.zip`` in the official hierarchy, with the report that ``--report
PDF`` names. ``--init`` writes a template of the authors' file instead. For 2024, where a system is
trained on five shares of the training data, RUN contains the placeholder ``{split}``. An edition of
device-specific models gets the installable inference package of all runs as well,
``<Lastname>_<Institute>_task1_inference``.

A package in DIR is removed first, except for edited drafts. The same runs give the same zip byte
for byte. The zip is validated before it gets its final name; if it is malformed, no file is left
behind. Exit status 0 if the package was written, even if it is marked as not submittable; 1 if it
would be malformed or over a limit.
"""
import re
import shutil
import sys
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from submission import authors as authors_file
from submission import metadata, report
from submission.rules import (
    EDITIONS,
    FOLDER,
    INFERENCE_MARK,
    INFERENCE_SUFFIX,
    META_SUFFIX,
    TASK1A_2021,
    Rules,
    edition,
)
from submission.validate import validate
from submission.validation.findings import Finding, format_findings, with_level
from task1a.errors import CommandParser, InputError, run_command
from task1a.files import digest, remove, replacing, write_text
from task1a.pipeline.run import Run

MAX_PDF_BYTES = 32 * 1024 * 1024
"""maximum size of a technical report"""

# names of the files of any edition
_ZIP = re.compile(rf"[A-Za-z0-9-]+_[A-Za-z0-9-]+_{FOLDER}\.zip")
_LABEL = re.compile("|".join(rules.label_pattern.pattern for rules in EDITIONS.values()))
_SUFFIXES = {META_SUFFIX}.union(*(rules.output_suffixes for rules in EDITIONS.values()))
_INFERENCE_PACKAGE = re.compile(rf"[A-Za-z0-9-]+_[A-Za-z0-9-]+{INFERENCE_SUFFIX}")


@dataclass(frozen=True)
class Package:
    """A package and what its validation found."""

    zip: Path | None
    """None if the package was malformed; then no file is left"""
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class System:
    """What a package holds of a system."""

    files: Mapping[str, str]
    """text of its files, by the end of their names"""
    draft: str
    findings: Sequence[Finding]


class _Malformed(Exception):
    pass


def package(runs: Sequence[Path], authors: Path | None, out: Path, rules: Rules = TASK1A_2021,
            pdf: Path | None = None) -> Package:
    """Package runs as the systems 1, 2, ... of a team.

    Args:
        runs: run folders with evaluation predictions, complexity.json and evaluation.json;
            ``{split}`` in a path stands for each split of the edition.
        authors: the authors' file; default: example authors.
        out: folder of the package, which replaces an older one.
        rules: the edition.
        pdf: technical report for the zip.

    Raises:
        InputError: a run is incomplete, the authors' file has problems (one line each), or the
            report is no PDF.
    """
    out, runs = Path(out), [Path(run) for run in runs]
    # first of all, so that no older package is taken for the one that could not be made
    clear(out)
    if not 1 <= len(runs) <= rules.systems:
        raise InputError(f"{len(runs)} runs given; a team hands in 1 to {rules.systems} systems")
    if len({run.resolve() for run in runs}) < len(runs):
        raise InputError("a run is given twice; each is one system")
    if pdf is not None:
        check_pdf(pdf)
    given = authors_file.read(authors, rules)
    team = authors_file.team(given["submission.authors"])
    systems = {}
    for number, run in enumerate(runs, start=1):
        label = f"{team}_{rules.task}_{number}"
        systems[label] = read_system(label, run, given, rules)

    target = out / f"{team}_{FOLDER}.zip"
    above = "/".join(folder or target.stem for folder in rules.above)
    try:
        members, findings = write_systems(systems, out, above)
        if rules.device_models:
            from submission.inference2025 import check  # import torch, which takes seconds
            from submission.inference2025 import package as inference_package

            code = inference_package.render(dict(zip(systems, runs, strict=True)), out)
            findings += check.check(code, rules)
        if pdf is not None:
            members[f"{above}/{target.stem}.technical_report.pdf"] = pdf
        # only what is well-formed gets the name of the package
        with replacing(target) as unchecked:
            write_zip(unchecked, members)
            findings += validate(unchecked, rules)
            if with_level(findings, "error"):
                raise _Malformed
    except _Malformed:
        clear(out)
        return Package(None, tuple(findings))
    except BaseException:
        clear(out)
        raise
    return Package(target, tuple(findings))


def write_systems(systems: Mapping[str, System], out: Path,
                  above: str) -> tuple[dict[str, Path], list[Finding]]:
    """Write the files of systems and their drafts.

    Args:
        systems: the systems, by label.
        out: folder of the package.
        above: folders above the labels' folders inside the zip.

    Returns:
        The files by their names in the zip, and findings.
    """
    members: dict[str, Path] = {}
    findings: list[Finding] = []
    for label, system in systems.items():
        findings += system.findings
        draft = out / f"{label}{report.SUFFIX}"
        if draft.is_file():  # an unedited one was removed before
            findings.append(Finding("warning", draft.name, "", "a report that was edited",
                                    "a draft; it is kept, delete it to get a new one"))
        else:
            write_text(draft, system.draft)
        for suffix, text in system.files.items():
            name = f"{label}/{label}{suffix}"
            write_text(out / name, text)
            members[f"{above}/{name}"] = out / name
    return members, findings


def clear(out: Path) -> None:
    """Remove the package in ``out``, of any edition, and no other file.

    An inference package that is a git repository stays.
    """
    for entry in sorted(out.iterdir()) if out.is_dir() else ():
        label = entry.name.removesuffix(report.SUFFIX)
        if _ZIP.fullmatch(entry.name) and entry.is_file():
            entry.unlink()
        elif _INFERENCE_PACKAGE.fullmatch(entry.name) and not entry.is_symlink():
            if (entry / INFERENCE_MARK).is_file() and not (entry / ".git").exists():
                shutil.rmtree(entry)
        elif not _LABEL.fullmatch(label):
            continue
        elif label != entry.name and entry.is_file() and report.is_untouched(entry):
            entry.unlink()
        elif label == entry.name and entry.is_dir() and not entry.is_symlink():
            for suffix in _SUFFIXES:
                remove(entry / f"{label}{suffix}")
            with suppress(OSError):  # the folder stays if it has other files
                entry.rmdir()


def write_zip(path: Path, members: Mapping[str, Path]) -> None:
    """Write files to a zip that depends on their names and content only: sorted, no times."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in sorted(members):
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system = 3  # Unix, on Windows too
            info.external_attr = 0o100644 << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, members[name].read_bytes())


def check_pdf(path: Path) -> None:
    """Check that a file is a PDF that is not too large.

    Raises:
        InputError: it is not.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such report")
    size = path.stat().st_size
    if size > MAX_PDF_BYTES:
        raise InputError(f"{path}: {size:,} bytes; a report has at most {MAX_PDF_BYTES:,}")
    with open(path, "rb") as file:
        if file.read(5) != b"%PDF-":
            raise InputError(f"{path}: not a PDF file")


def read_system(label: str, folder: Path, given: Mapping[str, Any], rules: Rules) -> System:
    """Read the run of a system, or its runs of all splits, and write its files and its draft.

    Args:
        label: label of the system.
        folder: the run folder; ``{split}`` in it stands for each split of the edition.
        given: values of the authors' file by path.
        rules: the edition.

    Raises:
        InputError: a run is incomplete, or is not for this edition.
    """
    folders = rules.runs_of(folder)
    if len(set(folders)) < len(folders):
        raise InputError(f"{folder}: a system of {rules.name} is a run for each of "
                         f"{', '.join(rules.splits)}; write {{split}} where their paths differ, e.g. "
                         "runs/{split}/bcresnet_asc_1/seed0")
    runs, files = [], {}
    for part, suffix in zip(folders, rules.output_suffixes, strict=True):
        if not part.is_dir():
            raise InputError(f"{part}: no such run folder")
        files[suffix] = read_output(Run(part))
        records = metadata.read_records(part)
        seconds = records.config["features"]["clip_seconds"]
        if seconds != rules.clip_seconds and "system.complexity.macs" in rules.comments:
            raise InputError(f"{part}: its features.clip_seconds is {seconds:g}, but {rules.name} counts the "
                             f"operations for a clip of {rules.clip_seconds:g} s; train with "
                             f"features.clip_seconds={rules.clip_seconds:g}")
        runs.append(records)
    name = f"{label}{META_SUFFIX}"
    findings = metadata.differing_sizes(label, runs, rules) + metadata.wrong_shares(name, runs, rules)
    devices = runs[-1].config["device_models"]
    if devices and not rules.device_models:
        findings.append(Finding(
            "not_submittable", name, "", f"models for the devices {', '.join(devices)}",
            f"one model: the evaluation set of {rules.name} names no devices"))
    meta = metadata.build(label, given, runs, rules)
    files = {META_SUFFIX: metadata.to_text(meta, rules.comments), **files}
    return System(files, report.draft(meta, runs, rules), findings)


def read_output(run: Run) -> str:
    """Return the predictions of a run for the evaluation set, in the format of the challenge.

    The file that the run wrote is returned as it is. One that was changed since is read and written
    again, so that other number formats and line ends do not matter.

    Raises:
        InputError: there are no predictions, or the changed file is no table of predictions.
    """
    path = run.evaluation_predictions
    if not path.is_file():
        raise InputError(f"{path}: no such file; make it with: python task1a.py --stage predict --eval-root "
                         "DIR, with the run's --system and --seed")
    record = run.read_stage("predict")
    if record and record["outputs"].get(path.relative_to(run.folder).as_posix()) == digest(path):
        return path.read_bytes().decode("utf-8")
    from task1a.predict import predictions

    return predictions.to_text(predictions.read(path))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = CommandParser(prog="python -m submission.package", description="Package one to four systems.")
    parser.add_argument("runs", type=Path, nargs="*", metavar="RUN", help="run folder, runs/<system>/seed<N>; "
                        "where the edition has splits, a path with {split} for their runs")
    parser.add_argument("--authors", type=Path, metavar="FILE",
                        help="what only the authors know (default: an example)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the package")
    parser.add_argument("--report", type=Path, metavar="PDF", help="technical report that goes into the zip")
    parser.add_argument("--edition", type=edition, choices=EDITIONS, default="2021",
                        help="year of the challenge (default: 2021)")
    parser.add_argument("--init", action="store_true", help="write the authors' file of the edition, to be "
                        "filled in, to --out FILE (default: authors.yaml)")
    arguments = parser.parse_args(argv)
    rules = EDITIONS[arguments.edition]
    if arguments.init:
        if arguments.runs:
            parser.error("--init takes no RUN")
        path = arguments.out or Path("authors.yaml")
        if path.exists():
            raise InputError(f"{path}: exists already; name another file with --out FILE")
        write_text(path, authors_file.template(rules))
        print(f"{path}: fill in the authors, then give the file with --authors {path}")
        return 0
    if arguments.out is None:
        parser.error("--out DIR is missing")
    made = package(arguments.runs, arguments.authors, arguments.out, rules, arguments.report)
    print(format_findings(made.findings, rules.name))
    print(made.zip or "no package was made")
    return 0 if made.zip else 1


if __name__ == "__main__":
    sys.exit(run_command(main))
