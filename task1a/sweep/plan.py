"""What a sweep is made of: the runs of a table's rows and of some seeds, and which of them come after which."""
import argparse
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from evaluation.table_file import Table
from task1a import runner
from task1a.config import Config, fingerprint
from task1a.errors import InputError
from task1a.stages import Run

State = Literal["waiting", "queued", "running", "done", "falls short", "failed"]
"""queued: handed over to a cluster that has no room for it yet"""
UNDER_WAY: tuple[State, ...] = ("queued", "running")
ENDED: tuple[State, ...] = ("done", "falls short", "failed")


@dataclass(eq=False)
class Task:
    """One run of a sweep, and how far it has come."""

    run: Run
    wanted: list[str]
    """names of its stages"""
    arguments: tuple[str, ...]
    """of the runner"""
    trainings: frozenset[str]
    """stand for its vanilla trainings"""
    after: frozenset[Path]
    """folders of the runs whose models it needs"""
    state: State = "waiting"
    attempts: int = 0
    """how often it was started"""
    died: str = ""
    """how the last attempt ended that did not end by itself"""
    log_size: int = 0
    """bytes of its log before the last attempt, which begins by writing there"""
    note: str = ""
    """why it waits, falls short or failed"""

    @property
    def name(self) -> str:
        """As in the folder of runs."""
        return f"{self.run.config.system}/seed{self.run.config.seed}"

    @property
    def log(self) -> Path:
        """What the runner said in all attempts."""
        return self.run.folder.root / "log.txt"


def chosen(table: Table, pattern: str) -> list[Path]:
    """The configurations of a table's systems whose names match a shell pattern.

    Raises:
        InputError: there are none.
    """
    names = [row.system for row in table.rows]
    found = [name for name in names if fnmatchcase(name, pattern)]
    if not found:
        raise InputError(f"--systems {pattern}: matches no row; there are {', '.join(names)}")
    return [table.systems / f"{name}.yaml" for name in found]


def seeds(text: str) -> list[int]:
    """The seeds that ``0-2``, ``0,3,5`` or ``0-2,7`` stands for.

    Raises:
        InputError: it is none of these.
    """
    found: dict[int, None] = {}
    for part in text.split(","):
        bounds = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", part.strip(), re.ASCII)
        first, last = (int(bounds[1]), int(bounds[2] or bounds[1])) if bounds else (1, 0)
        if not 0 <= last - first < 1000:
            raise InputError(f"--seeds {text}: must be written 0-2 or 0,3,5")
        found.update(dict.fromkeys(range(first, last + 1)))
    return list(found)


def tasks(systems: Sequence[Path], numbers: Sequence[int], options: argparse.Namespace) -> list[Task]:
    """A task for every system and seed, all systems of the first seed first.

    Args:
        systems: configurations.
        numbers: seeds.
        options: of the runner, for all of them.

    Raises:
        InputError: the options or a configuration are wrong.
    """
    for override in options.overrides:
        if override.partition("=")[0] in ("seed", "system"):
            raise InputError(f"{override}: systems are named by the table, seeds by --seeds")
    planned = [_task(system, number, options) for number in numbers for system in systems]
    for root in {root for task in planned for root in _data_folders(task.run)}:
        if not root.is_dir():
            raise InputError(f"{root}: no such folder")
    return planned


def _task(system: Path, seed: int, options: argparse.Namespace) -> Task:
    arguments = ["--system", str(system), "--seed", str(seed), "--stage", options.stage, "--runs", str(options.runs),
                 "--device", options.device, *options.overrides]
    for option, root in (("--data-root", options.data_root), ("--eval-root", options.eval_root)):
        if root:
            # where seeds are folds of a cross-validation, each has a data set of its own
            arguments += [option, root.replace("{seed}", str(seed))]
    if options.skip_damaged:
        arguments.append("--skip-damaged")
    run, wanted = runner.asked_for(arguments)
    teachers = {options.runs / name for part in run.parts for name in part.config.compression.teachers
                if name != "vanilla" and part.config.compression.enabled and "compress" in wanted}
    return Task(run, wanted, tuple(arguments), frozenset(training(part.config) for part in run.parts),
                frozenset(teachers | {part.folder.root for part in run.members}))


def training(config: Config) -> str:
    """Stands for a vanilla training: equal where one run may take another's model."""
    return fingerprint([config.seed, asdict(config.features), asdict(config.model), asdict(config.training)])


def _data_folders(run: Run) -> list[Path]:
    # asking a run of the demo set would synthesise it
    return [] if run.config.data.source == "demo" else list(run.sets.values())
