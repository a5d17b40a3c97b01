"""The order of a sweep: which run starts when, and what becomes of it.

A run that dies is tried again and goes on where it was; one that ends with an error is not, and stops no other. A run
waits for those whose models it needs, for another process that is working on it, and for a training under way beside
it that it can take over.
"""
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path

from task1a import runner
from task1a.sweep.child import BUSY
from task1a.sweep.places import Place
from task1a.sweep.plan import ENDED, UNDER_WAY, Task
from task1a.sweep.process import HEADER

ELSEWHERE = "another process is working on it"
_SHORT = "falls short: "
_POLL = 0.5  # seconds


def look(tasks: Sequence[Task], show: Callable[[], None] = lambda: None) -> None:
    """Settle the tasks that are finished already; ``show`` is called after each."""
    for task in tasks:
        if runner.is_finished(task.run, task.wanted):
            _finish(task, "")
        show()


def sweep(tasks: Sequence[Task], place: Place, retries: int, show: Callable[[], None] = lambda: None) -> None:
    """Work on all waiting tasks until each has ended, ``show`` being called after every step.

    What is running is ended where this is interrupted.

    Args:
        tasks: their state is kept up to date.
        place: where they run.
        retries: how often a run that died is tried again.
        show: is called about twice a second.
    """
    running: dict[Future[int], Task] = {}
    try:
        while running or any(task.state == "waiting" for task in tasks):
            while len(running) < place.room and (task := _next(tasks)):
                task.state, task.note, task.log_size = "queued", "", _size(task.log)
                task.attempts += 1
                running[place.start(task)] = task
            for task in running.values():
                if _size(task.log) > task.log_size:
                    task.state = "running"
            show()
            if running:
                ended, _ = wait(running, _POLL, FIRST_COMPLETED)
                for future in ended:
                    _settle(running.pop(future), future, place, retries)
            else:
                time.sleep(_POLL)
    finally:
        place.close()


def _next(tasks: Sequence[Task]) -> Task | None:
    """The run to start next; none where all that wait have to."""
    waiting = [task for task in tasks if task.state == "waiting"]
    for task in waiting:
        was_elsewhere = task.note == ELSEWHERE
        task.note = _comes_after(task, tasks) or (ELSEWHERE if runner.is_busy(task.run) else "")
        if task.note:
            continue
        if not was_elsewhere or not runner.is_finished(task.run, task.wanted):
            return task
        _finish(task, "")
    under_way = any(task.state in UNDER_WAY for task in tasks)
    if waiting and not under_way and all(task.state == "waiting" and task.note != ELSEWHERE for task in waiting):
        return waiting[0]  # they wait for each other; whichever comes first says what it lacks
    return None


def _comes_after(task: Task, tasks: Sequence[Task]) -> str:
    """What has to come before a run; nothing where it can start."""
    for other in tasks:
        if other is not task and other.run.folder.root in task.after and other.state not in ENDED:
            return f"after {other.name}"
        if other.state in UNDER_WAY and task.trainings & other.trainings and not _has_trained(other):
            return f"its training is under way in {other.name}"
    return ""


def _has_trained(task: Task) -> bool:
    return all(runner.is_finished(part, ["train"]) for part in task.run.parts)


def _settle(task: Task, future: Future[int], place: Place, retries: int) -> None:
    """Put down what became of an attempt."""
    error = future.exception()
    status = None if error else future.result()
    said = last_line(task.log)
    if status == 0:
        _finish(task, "")
    elif status == 1 and said.startswith(_SHORT):
        _finish(task, said.removeprefix(_SHORT))
    elif status == 2:
        task.state, task.note = "failed", said.removeprefix("error: ")
    elif status == BUSY:
        task.state, task.note = "waiting", ELSEWHERE
        task.attempts -= 1
    elif error and not place.is_lost(error):
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        task.state, task.note = "failed", f"could not be started: {reason}"
    else:
        died = f"its worker was lost ({type(error).__name__})" if error else _ending(status)
        task.died, task.state = died, "waiting"
        if task.attempts > retries:
            heard = "" if said.startswith(HEADER) else f"; it said last: {said}"
            task.state, task.note = "failed", f"{died}, attempt {task.attempts}{heard}"


def _finish(task: Task, finding: str) -> None:
    finding = runner.over_limit(task.run, task.wanted) or finding
    task.state, task.note = ("falls short", finding) if finding else ("done", "")


def _ending(status: int) -> str:
    """How a process ended that did not end by itself."""
    try:
        return f"ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"ended with status {status}"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def last_line(path: Path, most: int = 4096) -> str:
    """The last line of a text file that holds anything, as far as it stands in the last ``most`` bytes."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - most))
            lines = file.read().decode(errors="replace").replace("\r", "\n").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
