"""The last look before upload: is everything there, is it right, and by how much is it within the limits?

``python -m submission.check RUN [RUN...] [--authors FILE] [--report PDF] [--edition YEAR]`` makes the package in a
passing folder, checks it as a stranger would and against its runs, and says on one screen: for every system the sizes
against the limits and the results by device, then what is wrong with the package and what is still missing. Nothing is
kept. Exit status 0 only where the package can be uploaded as it is.
"""
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from evaluation.per_device import DEMO_NOTE
from submission import meta_yaml
from submission.authors import INIT
from submission.findings import Finding, tell, verdict
from submission.meta_yaml import Records
from submission.package import package
from submission.rules import EDITIONS, Limit, Rules
from submission.validate import validate
from task1a.errors import CommandParser, run_command


def sizes(systems: Sequence[Records], rules: Rules) -> Iterator[str]:
    """One line for every limit of the edition: what the system has of it, and what that leaves.

    Args:
        systems: the records of a system's run; of one for each split where the edition has splits.
        rules: the edition.
    """
    counted = [meta_yaml.complexity(records, rules) for records in systems]
    for limit in rules.limits:
        values = [size[limit.path] for size in counted]
        yield _unknown(limit) if None in values else _against(limit, round(max(values) * limit.unit_per_field))
    if any(limit.unit == "bytes" for limit in rules.limits):
        complexity = systems[-1].complexity
        policies = ", ".join(f"{name} {size['bytes']:,}" for name, size in complexity["policies"].items())
        yield f"bytes of non-zero values by policy: {policies}; the limit is of {complexity['limit_policy']}"


def results(evaluation: Mapping[str, Any]) -> Iterator[str]:
    """Accuracy in percent and log loss on the test split: overall, by group of devices, and by device."""
    note = f" ({DEMO_NOTE})" if evaluation["data"]["demo"] else ""
    yield f"{evaluation['data']['clips']:,} clips of {evaluation['data']['name']}{note}"
    columns = {"overall": evaluation["overall"], **evaluation["device_groups"], **evaluation["device_wise"]}
    cells = [(name, "-" if score is None else f"{score['accuracy']:.1f}",
              "-" if score is None else f"{score['logloss']:.3f}") for name, score in columns.items()]
    for head, row in zip(("", "accuracy", "log loss"), zip(*cells, strict=True), strict=True):
        widths = [max(map(len, column)) for column in cells]
        yield f"{head:<8}  " + "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))


def missing(authors: Path | None, pdf: Path | None) -> Iterator[str]:
    """What only the authors can add, and have not."""
    if authors is None:
        yield f"the authors: {INIT}, fill it in, and give it with --authors FILE"
    if pdf is None:
        yield "the technical report: finish a draft (submission.package writes one), and give it with --report PDF"


def _against(limit: Limit, value: int) -> str:
    line = f"{value:,} of {limit.max:,} {limit.unit}: "
    if value > limit.max:
        return f"{line}OVER THE LIMIT by {value - limit.max:,}"
    doubt = limit.warn_above is not None and value > limit.warn_above
    return f"{line}within, {limit.max - value:,} to spare" + (
        f"; above {limit.warn_above:,}, which is how some read the limit" if doubt else "")


def _unknown(limit: Limit) -> str:
    return f"not known of {limit.max:,} {limit.unit}: the model's architecture is not one of this project's"


def _checked(runs: Sequence[Path], authors: Path | None, pdf: Path | None, rules: Rules) -> tuple[Finding, ...]:
    """What is wrong with the package of the runs, by itself and compared with them."""
    with TemporaryDirectory() as folder:
        made = package(runs, authors, Path(folder), rules, pdf)
        return validate(made.zip, rules, runs) if made.zip else made.findings


def _screen(runs: Sequence[Path], systems: Sequence[Sequence[Records]], rules: Rules) -> Iterator[str]:
    for number, (run, records) in enumerate(zip(runs, systems, strict=True), start=1):
        own = records[-1].config["submission"]
        yield f"system {number}: {own['name']} ({own['abbreviation']}), {run}"
        yield from (f"  size     {line}" for line in sizes(records, rules))
        for split, of_split in zip(rules.splits or ("results",), records, strict=True):
            first, *rest = results(of_split.evaluation)
            yield from (f"  {split:<8} {first}", *(f"           {line}" for line in rest))
        yield ""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    parser = CommandParser(prog="python -m submission.check", description="Say on one screen whether a submission is "
                           "ready to be uploaded.")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folder, as for submission.package")
    parser.add_argument("--authors", type=Path, metavar="FILE", help="what only the authors know")
    parser.add_argument("--report", type=Path, metavar="PDF", help="the technical report")
    parser.add_argument("--edition", choices=EDITIONS, default="2021", help="year of the challenge (default: 2021)")
    arguments = parser.parse_args(argv)
    rules = EDITIONS[arguments.edition]
    systems = [[meta_yaml.read_records(part) for part in rules.runs_of(run)] for run in arguments.runs]
    findings = _checked(arguments.runs, arguments.authors, arguments.report, rules)
    print("\n".join(_screen(arguments.runs, systems, rules)))
    print(tell(findings, rules.name))
    absent = list(missing(arguments.authors, arguments.report))
    for line in absent:
        print(f"missing: {line}")
    ready = verdict(findings) == "valid" and not absent
    print("READY TO UPLOAD" if ready else "not ready to upload")
    return 0 if ready else 1


if __name__ == "__main__":
    sys.exit(run_command(main))
