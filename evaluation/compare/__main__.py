"""The command ``python -m evaluation.compare A B``."""
import sys
from collections.abc import Sequence
from pathlib import Path

from evaluation.compare.comparison import compare, format_markdown
from task1a.errors import CommandParser, run_command
from task1a.files import check_outputs, to_json, write_output


def main(argv: Sequence[str] | None = None) -> int:
    """Compare two systems or two runs; returns 0.

    Raises:
        InputError: the runs or the data set cannot be read, or do not belong together.
    """
    parser = CommandParser(prog="python -m evaluation.compare",
                           description="Test whether two systems differ significantly, overall and by device.")
    parser.add_argument("first", metavar="A", type=Path,
                        help="folder of a system, for all of its seeds, or of one run")
    parser.add_argument("second", metavar="B", type=Path, help="folder of another system, or of another run")
    parser.add_argument("--data-root", metavar="DIR", help="development set of the runs (default: the one "
                        "they were made with); if every seed has a fold of its own, with {seed} for the seed")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the results to FILE")
    arguments = parser.parse_args(argv)
    check_outputs({"--json": arguments.json}, [*arguments.first.rglob("*"), *arguments.second.rglob("*")])
    comparison = compare(arguments.first, arguments.second, arguments.data_root)
    if arguments.json:
        write_output(arguments.json, to_json(comparison))
    print(format_markdown(comparison), end="")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
