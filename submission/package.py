"""Make the challenge package of one to four runs, and check it as a stranger would.

``python -m submission.package RUN [RUN...] --authors FILE --out DIR`` writes below DIR ``<label>/<label>.output.csv``
and ``<label>/<label>.meta.yaml`` for every run, and ``<Lastname>_<Institute>_task1.zip`` in the official hierarchy. A
package that lies there is removed first. The zip is the same byte for byte for the same runs; it is checked before it
takes its name, and nothing is left behind when it is malformed. Exit status 0 where the files are made, although they
may not be of the challenge's data and therefore not submittable, which is said; 1 where they would be malformed or over
the size limit.
"""
import io
import sys
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from submission import meta_yaml, output_csv
from submission.findings import Finding, of_level, tell
from submission.rules import META_SUFFIX, TASK1A_2021, Rules
from submission.validate import validate
from task1a.errors import CommandParser, InputError, run_command
from task1a.run_folder import RunFolder, replacing, write_text


@dataclass(frozen=True)
class Report:
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


def package(runs: Sequence[Path], authors: Path | None, out: Path, rules: Rules = TASK1A_2021) -> Report:
    """Package runs as the systems 1, 2, ... of a team.

    Args:
        runs: run folders with evaluation predictions, complexity.json and evaluation.json.
        authors: YAML file with the authors; the filled example where there is none.
        out: folder of the package; one that lies there is replaced.
        rules: the edition.

    Raises:
        InputError: a run is incomplete, or the authors' file has problems (one line each).
    """
    out = Path(out)
    clear(out, rules)
    runs = [Path(run) for run in runs]
    if not 1 <= len(runs) <= rules.systems:
        raise InputError(f"{len(runs)} runs given; a team hands in 1 to {rules.systems} systems")
    if len({run.resolve() for run in runs}) < len(runs):
        raise InputError("a run is given twice; each is one system")
    people = meta_yaml.read_authors(authors or meta_yaml.EXAMPLE_AUTHORS, rules)
    team = meta_yaml.team(people)
    files = {}
    for number, run in enumerate(runs, start=1):
        files |= _system_files(run, f"{team}_{rules.task}_{number}", people, rules)
    target = out / f"{team}_{rules.folder}.zip"
    try:
        return Report(target, _write(files, target, rules))
    except _Malformed as refused:
        return Report(None, refused.findings)
    except BaseException:
        clear(out, rules)
        raise


def clear(out: Path, rules: Rules = TASK1A_2021) -> None:
    """Remove the package that lies in ``out``, and nothing that is not part of it."""
    for entry in sorted(out.iterdir()) if out.is_dir() else ():
        if rules.zip_pattern.fullmatch(entry.name) and entry.is_file():
            entry.unlink()
        elif rules.label_pattern.fullmatch(entry.name) and entry.is_dir() and not entry.is_symlink():
            for suffix in (*rules.output_suffixes, META_SUFFIX):
                (entry / f"{entry.name}{suffix}").unlink(missing_ok=True)
            with suppress(OSError):  # something else lies there: it stays
                entry.rmdir()


def zip_bytes(files: Mapping[str, str]) -> bytes:
    """A zip of texts by name that depends on nothing else: members sorted, no time, plain permissions."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in sorted(files):
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system = 3  # Unix, on Windows too
            info.external_attr = 0o100644 << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, files[name].encode("utf-8"))
    return buffer.getvalue()


def _system_files(run: Path, label: str, authors: Sequence[Mapping[str, Any]], rules: Rules) -> dict[str, str]:
    """The two files of a system: text by name, below the folder of the package."""
    if not run.is_dir():
        raise InputError(f"{run}: no such run folder")
    predictions = RunFolder(run).evaluation_predictions
    if not predictions.is_file():
        raise InputError(f"{predictions}: no such file; make it with: python task1a.py --stage predict "
                         "--eval-root DIR, with the run's --system and --seed")
    try:
        meta = meta_yaml.build(label, authors, meta_yaml.read_records(run), rules)
    except (KeyError, TypeError) as error:
        raise InputError(f"{run}: its records are incomplete ({error}); make them again with: "
                         "python task1a.py --stage all --force") from None
    return {f"{label}/{label}{rules.output_suffixes[0]}": output_csv.to_text(output_csv.read(predictions)),
            f"{label}/{label}{META_SUFFIX}": meta_yaml.to_text(meta, rules)}


class _Malformed(Exception):
    def __init__(self, findings: tuple[Finding, ...]) -> None:
        super().__init__(findings)
        self.findings = findings


def _write(files: Mapping[str, str], target: Path, rules: Rules) -> tuple[Finding, ...]:
    with replacing(target) as unchecked:
        unchecked.write_bytes(zip_bytes({f"{target.stem}/{rules.folder}/{name}": text for name, text in files.items()}))
        findings = validate(unchecked, rules)
        if of_level(findings, "error"):
            raise _Malformed(findings)
        for name, text in files.items():
            write_text(target.parent / name, text)
    return findings


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    parser = CommandParser(prog="python -m submission.package", description="Package one to four runs.")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folder, runs/<system>/seed<N>")
    parser.add_argument("--authors", type=Path, metavar="FILE", help="YAML file with the authors (default: an example)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the package")
    arguments = parser.parse_args(argv)
    report = package(arguments.runs, arguments.authors, arguments.out)
    print(tell(report.findings, TASK1A_2021.name))
    print(report.zip if report.zip else "no package was made")
    return 0 if report.zip else 1


if __name__ == "__main__":
    sys.exit(run_command(main))
