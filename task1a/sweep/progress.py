"""The state of a sweep at a glance: how far each run is, and how long the rest will take.

The runs tell by their files: a stage that has ended by its record, the epochs of one under way by ``history.csv``.
"""
import csv
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from shutil import get_terminal_size
from statistics import median
from typing import NamedTuple, TextIO

from task1a.run_folder import read_json
from task1a.stages import Run
from task1a.sweep.plan import ENDED, State, Task, training

ORDER: tuple[State, ...] = ("running", "failed", "falls short", "queued", "waiting", "done")
"""in which states are listed: what is worth looking at first"""
REDRAWN_EVERY = 2.0
"""seconds, on a terminal"""
SUMMARY_EVERY = 300.0
"""seconds, elsewhere"""


class Epoch(NamedTuple):
    """A line of ``history.csv``."""

    accuracy: float | None
    """percent of the validation clips; none where there are none"""
    seconds: float


class Leg(NamedTuple):
    """A stage of a run that goes through epochs."""

    run: Run
    stage: str
    epochs: int
    path: Path
    """its ``history.csv``"""

    @property
    def history(self) -> tuple[Epoch, ...]:
        """The epochs done, as far as they are written down."""
        try:
            return _read(self.path, self.path.stat().st_mtime_ns)
        except OSError:
            return ()

    @property
    def ended(self) -> bool:
        """Whether the stage is over."""
        return self.run.folder.record(self.stage).is_file()

    @property
    def stands_for(self) -> str:
        """Equal where one run takes over what another has done."""
        return training(self.run.config) if self.stage == "train" else str(self.path)


@lru_cache(maxsize=512)
def _read(path: Path, modified: int) -> tuple[Epoch, ...]:
    with open(path, encoding="utf-8", newline="") as file:
        return tuple(Epoch(float(row["validation_accuracy"]) if row["validation_accuracy"] else None,
                           float(row["seconds"])) for row in csv.DictReader(file))


def legs(task: Task) -> list[Leg]:
    """The trainings and compressions of a run, those of its members where it is an ensemble."""
    found = []
    for part in task.run.parts:
        config, folder = part.config, part.folder
        found.append(Leg(part, "train", config.training.epochs, folder.history))
        if config.compression.enabled:
            found.append(Leg(part, "compress", config.compression.epochs, folder.compress_history))
    return [leg for leg in found if leg.stage in task.wanted]


def seconds_left(tasks: Sequence[Task], side_by_side: float) -> tuple[float, int]:
    """How long a sweep will take from here, and the number of runs of which nothing is known and that are left out.

    An epoch of a run takes the median of its own epochs, before the first one of those of the same system's other
    runs. A compression under way before its first epoch, or ever, is reckoned by the epochs of the training. What
    several runs have in common (a vanilla training, a member) counts once.

    Args:
        tasks: of the sweep.
        side_by_side: so many run at once; the sweep takes its share of the sum, but no less than its longest run.
    """
    pace, times, unknown = _pace(tasks), [], 0
    counted = {leg.stands_for for task in tasks if task.state in ENDED for leg in legs(task) if leg.ended}
    for task in sorted(tasks, key=lambda task: ORDER.index(task.state)):
        if task.state in ENDED:
            continue
        own = {leg.stands_for: leg for leg in legs(task) if leg.stands_for not in counted}
        counted.update(own)
        left = [_left(leg, task.state, pace) for leg in own.values()]
        unknown += None in left
        times.append(0 if None in left else sum(left))
    return max(sum(times) / max(1, min(side_by_side, len(times))), max(times, default=0)), unknown


def _pace(tasks: Sequence[Task]) -> dict[tuple[str, str], float]:
    """Median seconds of an epoch, by system and stage, over the runs that have begun."""
    seconds = defaultdict(list)
    for task in tasks:
        if task.state not in ("waiting", "queued"):
            for leg in legs(task):
                seconds[leg.run.config.system, leg.stage] += [epoch.seconds for epoch in leg.history]
    return {key: median(values) for key, values in seconds.items() if values}


def _left(leg: Leg, state: State, pace: dict[tuple[str, str], float]) -> float | None:
    """Seconds until a stage is over; none where nothing is known of its epochs."""
    if state == "running" and leg.ended:
        return 0.0
    done = leg.history if state == "running" else ()
    system = leg.run.config.system
    own = median(epoch.seconds for epoch in done) if done else None
    epoch = own or pace.get((system, leg.stage)) or pace.get((system, "train"))
    return None if epoch is None else max(0, leg.epochs - len(done)) * epoch


def describe(task: Task) -> str:
    """One line about a run: its name, its state and what there is to say of it."""
    return f"{task.name}  {task.state}  {'  '.join(_details(task))}".rstrip()


def _details(task: Task) -> Iterator[str]:
    if task.state == "running":
        under_way = next((leg for leg in legs(task) if not leg.ended), None)
        if under_way:
            yield f"{under_way.stage} {min(len(under_way.history), under_way.epochs)}/{under_way.epochs}"
            if under_way.history and under_way.history[-1].accuracy is not None:
                yield f"validation accuracy {under_way.history[-1].accuracy:.1f} %"
        if task.attempts > 1:
            yield f"(attempt {task.attempts}: {task.died})"
    if task.state in ("done", "falls short") and task.run.folder.evaluation.is_file():
        yield f"accuracy {read_json(task.run.folder.evaluation)['overall']['accuracy']:.1f} %"
    if task.note:
        yield task.note
    if task.state == "failed":
        yield f"log: {task.log}"


def summary(tasks: Sequence[Task], side_by_side: float) -> str:
    """One line about all runs: how many there are in each state, and how long the rest will take."""
    states = Counter(task.state for task in tasks)
    text = ", ".join(f"{states[state]} {state}" for state in (*ENDED, "running", "queued", "waiting") if states[state])
    if all(state in ENDED for state in states):
        return text
    seconds, unknown = seconds_left(tasks, side_by_side)
    left = f"about {duration(seconds)} left" if seconds else "time left not known yet"
    if seconds and unknown:
        left += f", {unknown} of unknown length not counted"
    return f"{text}; {left}"


def duration(seconds: float) -> str:
    """A length of time for a reader: the two largest units."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes < 48 * 60 else f"{minutes / 1440:.1f} days"


class View:
    """Shows a sweep while it goes on: on a terminal redrawn in place, elsewhere a line for each change."""

    def __init__(self, title: str, tasks: Sequence[Task], stream: TextIO | None = None) -> None:
        self._title, self._tasks = title, tasks
        self._stream = stream or sys.stdout
        self._live = self._stream.isatty()
        self._drawn, self._due = 0, 0.0
        self._seen = {task: (task.state, task.attempts) for task in tasks}
        if self._live and os.name == "nt":
            os.system("")  # makes a Windows console heed the codes below

    def show(self, room: float) -> None:
        """Bring what is shown up to date, if it is time; there is room for so many runs at once."""
        # a cluster has room for as many as there are; how many it takes is seen by what runs
        side_by_side = min(room, max(1, sum(task.state == "running" for task in self._tasks)))
        if self._live:
            self.redraw(side_by_side)
        else:
            self._tell(side_by_side)

    def redraw(self, side_by_side: float = 1) -> None:
        """Draw everything anew on a terminal, if it is time; elsewhere do nothing."""
        if self._live and time.monotonic() >= self._due:
            self._draw(self._lines(side_by_side))
            self._due = time.monotonic() + REDRAWN_EVERY

    def close(self) -> None:
        """Show what every run has come to, in the order of the table."""
        if self._live:
            self._draw([])
        text = "\n".join(describe(task) for task in self._tasks)
        print(f"{self._title}\n{text}\n{summary(self._tasks, 1)}", file=self._stream, flush=True)

    def _tell(self, side_by_side: float) -> None:
        clock = f"{datetime.now():%H:%M:%S}"
        for task in self._tasks:
            if task.state != "queued" and self._seen[task] != (task.state, task.attempts):
                self._seen[task] = (task.state, task.attempts)
                print(f"{clock} {describe(task)}", file=self._stream, flush=True)
        if time.monotonic() >= self._due:
            print(f"{clock} {self._title}: {summary(self._tasks, side_by_side)}", file=self._stream, flush=True)
            self._due = time.monotonic() + SUMMARY_EVERY

    def _lines(self, side_by_side: float) -> list[str]:
        """The summary and the runs, those worth looking at first, as many as the terminal has room for."""
        width, height = get_terminal_size()
        lines = [describe(task) for task in sorted(self._tasks, key=lambda task: ORDER.index(task.state))]
        if len(lines) > height - 2:
            lines = [*lines[:height - 3], f"and {len(lines) - height + 3} more"]
        return [line[:width - 1] for line in (f"{self._title}: {summary(self._tasks, side_by_side)}", *lines)]

    def _draw(self, lines: Sequence[str]) -> None:
        up = f"\x1b[{self._drawn}F\x1b[J" if self._drawn else ""
        self._stream.write(up + "".join(f"{line}\n" for line in lines))
        self._stream.flush()
        self._drawn = len(lines)
