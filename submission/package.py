"""Make the challenge package of one to four systems, and check it as a stranger would.

``python -m submission.package RUN [RUN...] --authors FILE --out DIR`` writes below DIR, for every run, a system's
outputs and metadata, ``<label>/<label>.output.csv`` and ``<label>/<label>.meta.yaml``, and the draft of a technical
report, ``<label>.report.md``; then ``<Lastname>_<Institute>_task1.zip`` in the official hierarchy, with the report that
``--report PDF`` names. ``--init`` writes a template of the authors' file instead. An edition whose systems were trained
on several shares of the training data takes RUN with ``{split}`` in the place of their names.

A package that lies there is removed first, but for a draft that was edited. The zip is the same byte for byte for the
same runs; it is checked before it takes its name, and nothing is left behind when it is malformed. Exit status 0 where
the files are made, although they may not be of the challenge's data and therefore not submittable, which is said; 1
where they would be malformed or over the limits.
"""
import re
import sys
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from submission import authors as authors_file
from submission import meta_yaml, report
from submission.findings import Finding, of_level, tell
from submission.rules import EDITIONS, META_SUFFIX, TASK1A_2021, Rules
from submission.validate import validate
from task1a import predictions
from task1a.errors import CommandParser, InputError, run_command
from task1a.files import remove, replacing, write_text
from task1a.run import Run

MAX_PDF_BYTES = 32 * 1024 * 1024
"""of a technical report"""

# of all editions
_ZIPS = {rules.zip_pattern for rules in EDITIONS.values()}
_LABELS = {rules.label_pattern for rules in EDITIONS.values()}
_SUFFIXES = {META_SUFFIX}.union(*(rules.output_suffixes for rules in EDITIONS.values()))


@dataclass(frozen=True)
class Package:
    """What was made, and what the check found in it."""

    zip: Path | None
    """None where the package was malformed: then there are no files at all"""
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Why there is no package."""
        return of_level(self.findings, "error")

    @property
    def notices(self) -> tuple[Finding, ...]:
        """Why the package cannot be submitted although it is well-formed."""
        return of_level(self.findings, "not_submittable")


@dataclass(frozen=True)
class _System:
    meta: str
    draft: str
    predictions: tuple[Path, ...]
    """of each split"""
    findings: Sequence[Finding]


def package(runs: Sequence[Path], authors: Path | None, out: Path, rules: Rules = TASK1A_2021,
            pdf: Path | None = None) -> Package:
    """Package runs as the systems 1, 2, ... of a team.

    Args:
        runs: run folders with evaluation predictions, complexity.json and evaluation.json; ``{split}`` in a path stands
            for each split of the edition.
        authors: YAML file of what the authors say; the filled example where there is none.
        out: folder of the package; one that lies there is replaced.
        rules: the edition.
        pdf: the technical report that goes into the zip as it is.

    Raises:
        InputError: a run is incomplete, the authors' file has problems (one line each), or the report is no PDF.
    """
    out, runs = Path(out), [Path(run) for run in runs]
    clear(out)
    if not 1 <= len(runs) <= rules.systems:
        raise InputError(f"{len(runs)} runs given; a team hands in 1 to {rules.systems} systems")
    if len({run.resolve() for run in runs}) < len(runs):
        raise InputError("a run is given twice; each is one system")
    _check_pdf(pdf)
    said = authors_file.read(authors, rules)
    team = authors_file.team(said["submission.authors"])
    labels = [f"{team}_{rules.task}_{number}" for number in range(1, len(runs) + 1)]
    systems = {label: _system(label, run, said, rules)
               for label, run in zip(labels, runs, strict=True)}
    target = out / f"{team}_{rules.folder}.zip"
    try:
        return Package(target, _write(systems, target, rules, pdf))
    except _Malformed as refused:
        clear(out)
        return Package(None, refused.findings)
    except BaseException:
        clear(out)
        raise


def clear(out: Path) -> None:
    """Remove the package that lies in ``out``, of whatever edition, and nothing that is not part of it."""
    for entry in sorted(out.iterdir()) if out.is_dir() else ():
        label = entry.name.removesuffix(report.SUFFIX)
        if _is_any(_ZIPS, entry.name) and entry.is_file():
            entry.unlink()
        elif not _is_any(_LABELS, label):
            continue
        elif label != entry.name and entry.is_file() and report.is_untouched(entry):
            entry.unlink()
        elif label == entry.name and entry.is_dir() and not entry.is_symlink():
            for suffix in _SUFFIXES:
                remove(entry / f"{label}{suffix}")
            with suppress(OSError):  # something else lies there: it stays
                entry.rmdir()


def write_zip(path: Path, members: Mapping[str, Path]) -> None:
    """Write a zip of files by name that depends on nothing else: members sorted, no time, plain permissions."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in sorted(members):
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system = 3  # Unix, on Windows too
            info.external_attr = 0o100644 << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, members[name].read_bytes())


def _is_any(patterns: Iterable[re.Pattern[str]], name: str) -> bool:
    return any(pattern.fullmatch(name) for pattern in patterns)


def _check_pdf(path: Path | None) -> None:
    if path is None:
        return
    if not path.is_file():
        raise InputError(f"{path}: no such report")
    if path.stat().st_size > MAX_PDF_BYTES:
        raise InputError(f"{path}: {path.stat().st_size:,} bytes; a report has at most {MAX_PDF_BYTES:,}")
    with open(path, "rb") as file:
        if file.read(5) != b"%PDF-":
            raise InputError(f"{path}: not a PDF file")


def _system(label: str, system: Path, said: Mapping[str, Any], rules: Rules) -> _System:
    runs, records = rules.runs_of(system), []
    if len(set(runs)) < len(runs):
        raise InputError(f"{system}: a system of {rules.name} is a run for each of {', '.join(rules.splits)}; write "
                         "{split} where their paths differ, e.g. runs/{split}/bcresnet_asc_1/seed0")
    for run in runs:
        if not run.is_dir():
            raise InputError(f"{run}: no such run folder")
        table = Run(run).evaluation_predictions
        if not table.is_file():
            raise InputError(f"{table}: no such file; make it with: python task1a.py --stage predict "
                             "--eval-root DIR, with the run's --system and --seed")
        records.append(meta_yaml.read_records(run))
    try:
        for run, record in zip(runs, records, strict=True):
            meta_yaml.check_clips(run, record.config, rules)
        meta = meta_yaml.build(label, said, records, rules)
        return _System(meta_yaml.to_text(meta, rules), report.draft(meta, records, rules),
                       tuple(Run(run).evaluation_predictions for run in runs),
                       meta_yaml.differing_sizes(label, records, rules))
    except (KeyError, TypeError, jinja2.UndefinedError) as error:
        raise InputError(f"{runs[-1]}: its records are incomplete ({error}); make them again with: "
                         "python task1a.py --stage data,complexity,evaluate --force, with the run's --system and --seed"
                         ) from None


class _Malformed(Exception):
    def __init__(self, findings: tuple[Finding, ...]) -> None:
        super().__init__(findings)
        self.findings = findings


def _write(systems: Mapping[str, _System], target: Path, rules: Rules, pdf: Path | None) -> tuple[Finding, ...]:
    """Write the files of the systems, one after another, and the zip of them, which takes its name when it is right."""
    out, names, findings = target.parent, [], []
    for label, system in systems.items():
        findings += [*system.findings, *_write_draft(out / f"{label}{report.SUFFIX}", system.draft)]
        write_text(out / label / f"{label}{META_SUFFIX}", system.meta)
        for suffix, path in zip(rules.output_suffixes, system.predictions, strict=True):
            write_text(out / label / f"{label}{suffix}", predictions.to_text(predictions.read(path)))
        names += [f"{label}/{label}{suffix}" for suffix in (META_SUFFIX, *rules.output_suffixes)]
    above = "/".join(folder or target.stem for folder in rules.above)
    members = {f"{above}/{name}": out / name for name in names}
    if pdf:
        members[f"{above}/{target.stem}.technical_report.pdf"] = pdf
    with replacing(target) as unchecked:
        write_zip(unchecked, members)
        findings += validate(unchecked, rules)
        if of_level(findings, "error"):
            raise _Malformed(tuple(findings))
    return tuple(findings)


def _write_draft(path: Path, text: str) -> Sequence[Finding]:
    if path.is_file():  # what nobody edited was removed before
        return [Finding("warning", path.name, "", "an edited report", "a draft; the report stays as it is")]
    write_text(path, text)
    return []


def _init(path: Path, rules: Rules) -> int:
    if path.exists():
        raise InputError(f"{path}: is there already; name another file with --out FILE")
    write_text(path, authors_file.template(rules))
    print(f"{path}: put yourselves in, then give it with --authors {path}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    parser = CommandParser(prog="python -m submission.package", description="Package one to four systems.")
    parser.add_argument("runs", type=Path, nargs="*", metavar="RUN", help="run folder, runs/<system>/seed<N>; where "
                        "the edition has splits, a path with {split} for their runs")
    parser.add_argument("--authors", type=Path, metavar="FILE", help="what only the authors know (default: an example)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the package")
    parser.add_argument("--report", type=Path, metavar="PDF", help="technical report that goes into the zip")
    parser.add_argument("--edition", choices=EDITIONS, default="2021", help="year of the challenge (default: 2021)")
    parser.add_argument("--init", action="store_true", help="write the authors' file of the edition, to be filled in, "
                        "to --out FILE (default: authors.yaml)")
    arguments = parser.parse_args(argv)
    rules = EDITIONS[arguments.edition]
    if arguments.init and arguments.runs:
        parser.error("--init takes no RUN")
    if arguments.init:
        return _init(arguments.out or Path("authors.yaml"), rules)
    if arguments.out is None:
        parser.error("--out DIR is missing")
    made = package(arguments.runs, arguments.authors, arguments.out, rules, arguments.report)
    print(tell(made.findings, rules.name))
    print(made.zip or "no package was made")
    return 0 if made.zip else 1


if __name__ == "__main__":
    sys.exit(run_command(main))
