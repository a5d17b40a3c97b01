"""The command ``task1a``: one table from the names of its subcommands to their functions.

Every subcommand is the ``main`` of a module, which ``python -m`` starts as well.
"""
import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from task1a import __version__
from task1a.errors import CommandParser, InputError, run_command


class Command(NamedTuple):
    """A subcommand."""

    module: str
    """module whose ``main`` it is"""
    summary: str
    example: str
    """complete arguments"""


COMMANDS = {
    "run": Command("task1a.pipeline.runner", "from recordings to a checked challenge zip",
                   "--system bcresnet_asc_1_resnorm --data-root DIR --eval-root DIR"),
    "sweep": Command("task1a.pipeline.sweep", "every system of a table with several seeds",
                     "table3 --data-root DIR --seeds 0-2 --jobs 4"),
    "systems": Command("task1a.systems", "list the systems of this project", ""),
    "prepare": Command("task1a.data.prepare", "a data set of any recordings", "recordings/ my-data --evaluation 0.2"),
    "download": Command("task1a.data.download", "fetch the data sets of the challenge", "--data-root DIR"),
    "predict": Command("task1a.predict.__main__", "scene probabilities of any recordings",
                       "runs/demo/seed0 recordings/ --csv scenes.csv"),
    "size": Command("task1a.complexity.__main__", "count the size of models of any format", "model.onnx teacher.pt"),
    "export": Command("task1a.export.__main__", "write a model as ONNX", "runs/demo/seed0 model.onnx"),
    "embed": Command("task1a.embed", "draw Figure 1 of the paper", "runs/demo/seed0 --out figure.png"),
    "evaluate": Command("evaluation.per_device", "scores of a prediction file by device",
                        "runs/demo/seed0/predictions/test.csv --data-root DIR"),
    "compare": Command("evaluation.compare.__main__", "paired tests of two systems", "runs/demo runs/other"),
    "tables": Command("evaluation.tables.__main__", "the paper's tables next to your runs", "table3 --runs runs"),
    "report": Command("evaluation.report.__main__", "one HTML page about runs",
                      "runs/demo/seed0 runs/other/seed0 --out report.html"),
    "package": Command("submission.package", "write the challenge zip of runs",
                       "runs/demo/seed0 --authors authors.yaml --out package"),
    "validate": Command("submission.validate", "check a challenge zip as the organisers do",
                        "package/Lastname_INST_task1.zip"),
    "check": Command("submission.check", "check a run before the package is made", "runs/demo/seed0"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit status.

    Raises:
        InputError: there is no such subcommand, or as the subcommand.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if arguments[0] == "--version":
        print(f"task1a {__version__}")
        return 0
    name = arguments.pop(0)
    if name not in COMMANDS:
        raise InputError(f"task1a {name}: no such command; the commands are {', '.join(COMMANDS)}")
    command = COMMANDS[name]
    CommandParser.program = f"task1a {name}"
    CommandParser.example = f"task1a {name} {command.example}".rstrip()
    status: int = importlib.import_module(command.module).main(arguments)
    return status


def _overview() -> str:
    lines = ["usage: task1a COMMAND ...", ""]
    lines += [f"  {name:<10} {command.summary}" for name, command in COMMANDS.items()]
    lines += ["", "task1a COMMAND --help shows the options of a command and an example; task1a --version the version."]
    return "\n".join(lines)


def console() -> int:
    """Run the command for the console; return its exit status."""
    return run_command(main)


if __name__ == "__main__":
    sys.exit(console())
