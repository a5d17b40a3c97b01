"""The command ``task1a systems``: the systems of this project, with a line each."""
from collections.abc import Sequence

from task1a.config_file import SYSTEMS, load
from task1a.errors import CommandParser


def main(argv: Sequence[str] | None = None) -> int:
    """Print the names and descriptions of the systems; returns 0."""
    CommandParser(prog="python -m task1a systems", description="The systems of this project.").parse_args(argv)
    for path in sorted(SYSTEMS.glob("*.yaml")):
        print(f"{path.stem:<40} {load(path).description}")
    return 0
