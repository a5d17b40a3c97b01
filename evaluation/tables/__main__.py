"""The command ``python -m evaluation.tables TABLE``."""
import sys
from collections.abc import Sequence
from pathlib import Path

from evaluation.compare import comparison
from evaluation.tables.paper import FORMATS, evaluate, format_markdown
from evaluation.tables.table_file import read_table
from task1a.errors import CommandParser, InputError, run_command
from task1a.files import write_json, write_text


def main(argv: Sequence[str] | None = None) -> int:
    """Print and write a table and, on request, the comparison of two systems; returns 0.

    Raises:
        InputError: the table or the runs cannot be read, or do not belong together.
    """
    parser = CommandParser(
        prog="python -m evaluation.tables", description="A table of the paper with the results of our runs "
        "next to the published ones, in Markdown, CSV and LaTeX.")
    parser.add_argument("table", metavar="TABLE", help="table2, table3, table4, or the path of a YAML file "
                        "like those in system_configs/tables/")
    parser.add_argument("--runs", metavar="DIR", type=Path, default=Path("runs"),
                        help="folder of the runs (default: runs)")
    parser.add_argument("--out", metavar="DIR", type=Path,
                        help="output folder (default: tables/ in the runs' folder)")
    parser.add_argument("--compare", metavar=("A", "B"), nargs=2,
                        help="test whether two systems, given by name, differ significantly")
    parser.add_argument("--data-root", metavar="DIR",
                        help="for --compare: development set of the runs (default: the one they were made "
                        "with); if every seed has a fold of its own, with {seed} for the seed")
    arguments = parser.parse_args(argv)
    if arguments.data_root and not arguments.compare:
        raise InputError("--data-root DIR is for --compare A B alone")

    table = read_table(arguments.table)
    results = evaluate(table, arguments.runs)
    compared = None
    if arguments.compare:
        first, second = (arguments.runs / system for system in arguments.compare)
        compared = comparison.compare(first, second, arguments.data_root)
    out = arguments.out or arguments.runs / "tables"
    for suffix, form in FORMATS.items():
        write_text(out / f"{table.name}.{suffix}", form(results))
    print(format_markdown(results), end="")
    if compared:
        text = comparison.format_markdown(compared)
        stem = f"compare_{compared['first']}_{compared['second']}"
        write_text(out / f"{stem}.md", text)
        write_json(out / f"{stem}.json", compared)
        print(f"\n{text}", end="")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
