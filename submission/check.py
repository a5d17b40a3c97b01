"""The final check before upload: is everything there, is it right, and by how much is it within the
limits?

``python -m submission.check RUN [RUN...] [--authors FILE] [--report PDF] [--edition YEAR]`` makes
the package in a temporary folder, validates it, compares it with its runs, and prints one screen:
for every system the sizes with the limits and the results by device, then the findings and what is
still missing. Exit status 0 only if the package can be uploaded as it is.
"""
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from evaluation.per_device import DEMO_NOTE
from submission import metadata
from submission.authors import INIT
from submission.metadata import Records
from submission.package import package
from submission.rules import EDITIONS, RESULTS, Rules, edition
from submission.validate import validate
from submission.validation.findings import format_findings, verdict
from task1a.errors import CommandParser, run_command


def sizes(records: Sequence[Records], rules: Rules) -> Iterator[str]:
    """Yield a line for every limit of the edition: the size of the system, and the margin.

    Args:
        records: records of the system's run, or of one run for each split, of which the largest
            counts.
        rules: the edition.
    """
    counts = metadata.sizes(records, rules)
    for limit in rules.limits:
        if None in counts[limit.path]:
            yield f"unknown, of {limit.max:,} {limit.unit}: the model's architecture is not one of this project's"
            continue
        value = round(max(counts[limit.path]) * limit.unit_per_field)
        line = f"{value:,} of {limit.max:,} {limit.unit}: "
        if value > limit.max:
            line += f"OVER THE LIMIT by {value - limit.max:,}"
        else:
            line += f"within, {limit.max - value:,} to spare"
            if limit.warn_above is not None and value > limit.warn_above:
                line += f"; above {limit.warn_above:,}, which is how some read the limit"
        yield line
    if any(limit.unit == "bytes" for limit in rules.limits):
        complexity = records[-1].complexity
        policies = ", ".join(f"{name} {size['bytes']:,}" for name, size in complexity["policies"].items())
        yield f"bytes of non-zero values by policy: {policies}; the limit is of {complexity['limit_policy']}"


def results(evaluation: Mapping[str, Any]) -> Iterator[str]:
    """Accuracy in percent and log loss on the test split: overall, by group of devices, and by
    device."""
    note = f" ({DEMO_NOTE})" if evaluation["data"]["demo"] else ""
    yield f"{evaluation['data']['clips']:,} clips of {evaluation['data']['name']}{note}"
    lines = [f"{'':<8}", f"{'accuracy':<8}", f"{'log loss':<8}"]
    columns = {"overall": evaluation["overall"], **evaluation["device_groups"], **evaluation["device_wise"]}
    for name, score in columns.items():
        accuracy, log_loss = (f"{score['accuracy']:.1f}", f"{score['logloss']:.3f}") if score else ("-", "-")
        cells = (name, accuracy, log_loss)
        width = max(map(len, cells))
        for index, cell in enumerate(cells):
            lines[index] += f"  {cell:>{width}}"
    yield from lines


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = CommandParser(prog="python -m submission.check", description="Show on one screen whether a submission is "
                           "ready for upload.")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folder, as for submission.package")
    parser.add_argument("--authors", type=Path, metavar="FILE", help="the authors' file")
    parser.add_argument("--report", type=Path, metavar="PDF", help="the technical report")
    parser.add_argument("--edition", type=edition, choices=EDITIONS, default="2021",
                        help="year of the challenge (default: 2021)")
    arguments = parser.parse_args(argv)
    rules = EDITIONS[arguments.edition]
    systems = [[metadata.read_records(part) for part in rules.runs_of(run)] for run in arguments.runs]
    with TemporaryDirectory() as folder:
        made = package(arguments.runs, arguments.authors, Path(folder), rules, arguments.report)
        # the folder has the files of the zip and, in some editions, the inference package
        findings = validate(Path(folder), rules, arguments.runs) if made.zip else made.findings

    for number, (run, records) in enumerate(zip(arguments.runs, systems, strict=True), start=1):
        own = records[-1].config["submission"]
        print(f"system {number}: {own['name']} ({own['abbreviation']}), {run}")
        sections: list[tuple[str, Iterable[str]]] = [("size", sizes(records, rules))]
        for block, record in metadata.results(records, rules).items():
            lines: Iterable[str] = results(record.evaluation) if record else ["none"]
            sections.append((block.removeprefix(RESULTS).removeprefix(".") or "results", lines))
        width = max(len(title) for title, _ in sections)
        for title, lines in sections:
            for line in lines:
                print(f"  {title:<{width}}  {line}")
                title = ""
        print()
    print(format_findings(findings, rules.name))
    missing = []
    if arguments.authors is None:
        missing.append(f"the authors: {INIT}, fill it in, and give it with --authors FILE")
    if arguments.report is None:
        missing.append("the technical report: finish a draft (submission.package writes one), and give it with "
                       "--report PDF")
    for line in missing:
        print(f"missing: {line}")
    ready = verdict(findings) == "valid" and not missing
    print("READY TO UPLOAD" if ready else "not ready to upload")
    return 0 if ready else 1


if __name__ == "__main__":
    sys.exit(run_command(main))
