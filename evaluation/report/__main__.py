"""The command ``python -m evaluation.report RUN... --out FILE``."""
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from evaluation import records
from evaluation.report.page import page
from task1a.errors import CommandParser, run_command
from task1a.files import check_outputs, write_output
from task1a.pipeline.run import Run


def main(argv: Sequence[str] | None = None) -> int:
    """Write the report of runs; returns 0.

    Raises:
        InputError: a run has not been evaluated, or runs were tested on different data sets.
    """
    parser = CommandParser(prog="python -m evaluation.report", description="One HTML page about one or several runs.")
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="run folder, <runs>/<system>/seed<N>")
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="HTML file to write")
    arguments = parser.parse_args(argv)
    runs, inputs = [Run(folder) for folder in arguments.runs], []
    for run in runs:
        inputs += [path for path in run.folder.rglob("*") if path != run.report]
        for clip in records.read(run, "evaluation")["highest_losses"]:
            with suppress(OSError):  # of a name that is too long
                if (path := run.data_root / clip["filename"]).is_file():
                    inputs.append(path)
    check_outputs({"--out": arguments.out}, inputs)
    write_output(arguments.out, page(runs))
    print(arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
