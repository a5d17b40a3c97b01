"""The command: ``python -m task1a.sweep TABLE.yaml --seeds 0-2``."""
import argparse
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from evaluation.table_file import read_table
from task1a.errors import CommandParser, FallsShort, InputError
from task1a.runner import add_run_options
from task1a.sweep import places, plan
from task1a.sweep.progress import View
from task1a.sweep.schedule import look, sweep


def main(argv: Sequence[str] | None = None, command: tuple[str, ...] = places.RUNNER) -> int:
    """Run the rows of a table with some seeds, as far as they are not finished; returns the exit status.

    Args:
        argv: arguments of the command line.
        command: what Python runs, before the arguments of the runner.

    Raises:
        InputError: the arguments, the table or a configuration are wrong, or a run failed.
        FallsShort: all runs ended, and the result of some is not good enough.
    """
    arguments = _parser().parse_intermixed_args(argv)
    table = read_table(arguments.table)
    systems = plan.chosen(table, arguments.systems)
    tasks = plan.tasks(systems, plan.seeds(arguments.seeds), arguments)
    view = View(table.title, tasks)
    look(tasks, view.redraw)
    if any(task.state == "waiting" for task in tasks):
        place = _place(arguments, command)
        with _terminated_like_interrupted():  # after Ray, which answers the signal itself
            sweep(tasks, place, arguments.retries, lambda: view.show(place.room))
    view.close()
    failed, short = (sum(task.state == state for task in tasks) for state in ("failed", "falls short"))
    if failed:
        raise InputError(f"{failed} of {len(tasks)} runs failed, named above with their logs; the same command tries "
                         "them again")
    if short:
        raise FallsShort(f"{short} of {len(tasks)} runs, named above")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m task1a.sweep",
        description="Run every row of a table with some seeds, on this machine or over a Ray cluster. The same command "
                    "goes on where it was stopped; what is finished is not run again. Where each seed has a fold of "
                    "its own, write {seed} for it: --data-root fold{seed}/development.",
        epilog="Exit status: 0 all runs are finished; 1 some fall short (over the limit, invalid); 2 some failed.")
    parser.add_argument("table", metavar="TABLE", help="table2, table3, table4, or the path of a YAML file like those "
                        "in system_configs/tables/, whose systems lie one folder above")
    add_run_options(parser)
    parser.add_argument("--systems", default="*", metavar="PATTERN",
                        help="only rows whose system matches, e.g. 'bcresnet_asc_1*' (default: all)")
    parser.add_argument("--seeds", default="0", metavar="LIST", help="e.g. 0-2 or 0,3,5 (default: 0)")
    parser.add_argument("--jobs", type=_positive, metavar="N",
                        help="how many at once (default: 1; with --ray, as many as there is room for)")
    parser.add_argument("--retries", type=_count, default=2, metavar="N",
                        help="how often a run that died is tried again (default: 2)")
    cluster = parser.add_argument_group("on a cluster", "Every node sees this folder under the same path.")
    cluster.add_argument("--ray", metavar="ADDRESS", help="auto, host:port, or local to start Ray on this machine")
    cluster.add_argument("--cpus-per-run", type=_positive, metavar="N", help="cores of a run (default: 1)")
    cluster.add_argument("--gpus-per-run", type=_share, metavar="X",
                         help="GPUs of a run, e.g. 0.25 (default: 1 where there are any)")
    return parser


def _place(arguments: argparse.Namespace, command: tuple[str, ...]) -> places.Place:
    """Where the runs are worked on."""
    if arguments.ray:
        return places.Cluster(arguments.ray, arguments.jobs, arguments.cpus_per_run or 1, arguments.gpus_per_run,
                              arguments.device != "cpu", command)
    if arguments.cpus_per_run or arguments.gpus_per_run is not None:
        raise InputError("--cpus-per-run and --gpus-per-run are for a cluster; give its address with --ray")
    return places.ThisMachine(arguments.jobs or 1, command)


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Let SIGTERM end the sweep as Ctrl-C does, with the runs under way."""
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more (given {text})")
    return number


def _count(text: str) -> int:
    if (number := int(text)) < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more (given {text})")
    return number


def _share(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 1 and not number.is_integer():
        raise argparse.ArgumentTypeError(f"must be a part of one, or whole (given {text})")
    return number
