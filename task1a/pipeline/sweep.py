"""Train and evaluate all systems of a table with several seeds, on this machine or on a Ray cluster.

Each run is a process of its own, the runner, whose output is appended to ``log.txt`` in the run folder. A process that
dies is started again and resumes; one that ends with a user error is not. Neither affects the other runs. A run starts
after the runs whose models it needs, and never beside a run with the same vanilla training, whose model it then reuses.
"""
import argparse
import itertools
import math
import os
import platform
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from tqdm import tqdm

from evaluation import records
from evaluation.tables.table_file import Table, read_table
from task1a.errors import CommandParser, FallsShort, InputError
from task1a.files import Busy
from task1a.machine import cores
from task1a.pipeline import runner
from task1a.pipeline.plan import add_run_options, parse_arguments
from task1a.pipeline.run import Run

RUNNER = ("-X", "utf8", "-c", f"import sys; sys.path.insert(0, {str(Path(__file__).resolve().parents[2])!r}); "
          "from task1a import errors; from task1a.pipeline import sweep; sys.exit(errors.run_command(sweep.run_one))")
"""Arguments of Python that execute a run, followed by the arguments of the runner."""
REPORT_EVERY, BUSY_EVERY = 300, 20  # seconds


@dataclass
class Task:
    """A run of the sweep and its state."""

    run: Run
    wanted: tuple[str, ...]
    """Names of the stages to run."""
    options: list[str]
    """Arguments of the runner."""
    needs: set[str]
    """Names of the runs whose models it needs: members of an ensemble, teachers, models to fine-tune."""
    trainings: set[tuple[Any, ...]]
    """Settings of its vanilla trainings. Runs with equal settings can share the trained model."""
    state: str = "waiting"
    """One of waiting, running, done, falls short, failed."""
    note: str = ""

    @property
    def log(self) -> Path:
        """File that receives the output of the run's process."""
        return self.run.folder.absolute() / "log.txt"

    def __str__(self) -> str:
        return f"{self.run}  {self.state}  {self.note}".rstrip()


def main(argv: Sequence[str] | None = None) -> int:
    """Run all runs of a sweep that are not finished yet, and return the exit status.

    Raises:
        InputError: If the arguments, the table or a configuration are wrong, or if a run failed.
        FallsShort: If no run failed, but the result of some falls short.
    """
    arguments = _parser().parse_intermixed_args(argv)
    tasks = plan(read_table(arguments.table), arguments)
    if any(task.state == "waiting" for task in tasks):
        with (on_ray if arguments.ray else on_this_machine)(arguments) as (submit, room):
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C; Ray installs another handler
            work(tasks, submit, room)
    print(*tasks, sep="\n", flush=True)
    states = [task.state for task in tasks]
    if failed := states.count("failed"):
        raise InputError(f"{failed} of {len(tasks)} runs failed, see their logs; the same command tries them again")
    if short := states.count("falls short"):
        raise FallsShort(f"{short} of {len(tasks)} runs, see above")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m task1a.sweep",
        description="Run every system of a table with every seed. If the sweep is stopped, the same command resumes "
                    "it. {seed} in --data-root and --eval-root stands for the seed: --data-root fold{seed}.",
        epilog="Exit status: 0 all runs are finished; 1 some fall short (over the limit, invalid); 2 some failed.")
    parser.add_argument("table", metavar="TABLE", help="table2, table3, table4, or the path of a YAML file like those "
                        "in system_configs/tables/, with its systems in the parent folder")
    add_run_options(parser)
    parser.add_argument("--systems", default="*", metavar="PATTERN", help="e.g. 'bcresnet_asc_1*' (default: all)")
    parser.add_argument("--seeds", type=_seeds, default=[0], metavar="LIST", help="e.g. 0-2 or 0,3,5 (default: 0)")
    parser.add_argument("--jobs", type=_at_least(1), metavar="N",
                        help="runs at the same time (default: 1; with --ray, as many as fit on the cluster)")
    parser.add_argument("--retries", type=_at_least(0), default=2, metavar="N", help="of a run that dies (default: 2)")
    cluster = parser.add_argument_group("on a cluster", "All nodes must share this folder under the same path.")
    cluster.add_argument("--ray", metavar="ADDRESS", help="auto, host:port, or local to start Ray on this machine")
    cluster.add_argument("--cpus-per-run", type=_at_least(1), metavar="N", help="cores of a run (default: 1)")
    cluster.add_argument("--gpus-per-run", type=float, metavar="X", help="GPUs of a run (default: 1 if there are any)")
    return parser


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"must be {least} or more (given {text})")
        return int(text)
    return number


def _seeds(text: str) -> list[int]:
    seeds = []
    for part in text.split(","):
        bounds = re.fullmatch("([0-9]{1,9})(?:-([0-9]{1,9}))?", part.strip())
        first, last = (int(bounds[1]), int(bounds[2] or bounds[1])) if bounds else (1, 0)
        if not first <= last < first + 1000:
            raise argparse.ArgumentTypeError(f"must look like 0-2 or 0,3,5 (given {text})")
        seeds += [seed for seed in range(first, last + 1) if seed not in seeds]
    return seeds


def plan(table: Table, arguments: argparse.Namespace) -> list[Task]:
    """Return the tasks of a sweep in the order of seeds and rows; runs that are finished are done."""
    names = [row.system for row in table.rows]
    chosen = [name for name in names if fnmatchcase(name, arguments.systems)]
    if not chosen:
        raise InputError(f"--systems {arguments.systems} matches no row; the rows are {', '.join(names)}")
    if any(override.startswith(("seed=", "system=")) for override in arguments.overrides):
        raise InputError("seed and system cannot be overridden: use --seeds and --systems")
    tasks: list[Task] = []
    workspace = None  # the data sets are read once for all runs
    for seed, system in itertools.product(arguments.seeds, chosen):
        options = ["--system", str(table.systems / f"{system}.yaml"), "--seed", str(seed), "--stage", arguments.stage,
                   "--runs", str(arguments.runs), "--device", arguments.device, *arguments.overrides]
        options += ["--skip-damaged"] * arguments.skip_damaged
        for option, folder in (("--data-root", arguments.data_root), ("--eval-root", arguments.eval_root)):
            if folder:
                options += [option, folder.replace("{seed}", str(seed))]
        run_plan = parse_arguments(options)
        run, wanted = run_plan.run, run_plan.wanted
        if workspace is None:
            workspace = run_plan.workspace
        run_plan = replace(run_plan, workspace=workspace)
        data = run.config.data
        if data.source == "tau_layout" and data.root is None:
            raise InputError("no data set: give its folder with --data-root DIR (and --eval-root DIR)")
        for folder in (data.root, data.evaluation_root):
            if folder is not None and not Path(folder).is_dir():
                raise InputError(f"{folder}: no such folder")
        needs, trainings = {f"{member}/seed{seed}" for member in run.config.ensemble}, set()
        for step in run_plan.steps:
            if not step.run.is_single:
                continue
            config = step.run.config
            if config.training.init_from:
                needs.add(f"{config.training.init_from}/seed{seed}")
            trainings.add((config.seed, config.features, config.model, config.vanilla_training))
            if config.compression.enabled and "compress" in wanted:
                needs.update(config.compression.teachers)
        tasks.append(Task(run, wanted, options, needs, trainings))
        if runner.is_finished(run_plan):
            finish(tasks[-1])
    return tasks


@contextmanager
def on_this_machine(arguments: argparse.Namespace) -> Iterator[tuple[Callable[..., Future[int]], int]]:
    """Yield a function that submits a call of :func:`execute` to a thread, and how many calls fit at a time."""
    if arguments.cpus_per_run or arguments.gpus_per_run is not None:
        raise InputError("--cpus-per-run and --gpus-per-run need a cluster; give its address with --ray")
    jobs, stop = arguments.jobs or 1, threading.Event()
    if jobs > 1:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // jobs)))

    def attempts(command: list[str], folder: str, log: Path) -> int:
        left: int = arguments.retries
        while True:
            try:
                return execute(command, folder, log, stop)
            except subprocess.CalledProcessError:
                if not left or stop.is_set():
                    raise
                left -= 1

    with ThreadPoolExecutor(jobs) as pool:
        try:
            yield lambda *work: pool.submit(attempts, *work), jobs
        finally:
            stop.set()  # ends the processes that are still running


@contextmanager
def on_ray(arguments: argparse.Namespace) -> Iterator[tuple[Callable[..., Future[int]], int]]:
    """Yield a function that submits a call of :func:`execute` to Ray, and how many calls fit at a time."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # do not report to Ray's makers unless the user wants it
    cpus, gpus = arguments.cpus_per_run or 1, arguments.gpus_per_run
    try:
        import ray
        cluster = ray.init(address=arguments.ray, log_to_driver=False, logging_level="error")
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if gpus is None:
            gpus = int(arguments.device != "cpu" and any("GPU" in node for node in nodes))
        remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=arguments.retries,
                            retry_exceptions=[subprocess.CalledProcessError])(execute)
    except ImportError:
        raise InputError("--ray needs Ray: pip install -e '.[cluster]'") from None
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(f"--ray {arguments.ray}: {' '.join(str(error).split())}") from None
    with cluster:  # ends the processes that are still running
        room = 0
        for node in nodes:
            room += int(min(node.get("CPU", 0) / cpus, node.get("GPU", 0) / gpus if gpus else math.inf))
        if room < 1 or gpus > 1 and gpus % 1:  # Ray has no fractions beyond one GPU
            raise InputError(f"--ray {arguments.ray}: no node offers {cpus} CPUs and {gpus:g} GPUs for a run")
        yield lambda *work: remote.remote(*work).future(), arguments.jobs or room


def execute(command: list[str], folder: str, log: Path, stop: threading.Event | None = None) -> int:
    """Run Python with a command until it ends or ``stop`` is set, and append its output to a log.

    Returns the exit status if it is 0, 1 (the result falls short) or 2 (user error). If the process dies or ends with
    any other status, raises CalledProcessError.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab", buffering=0) as output:
        output.write(f"--- {time.ctime()} on {platform.node()}\n".encode())
        # in a session of its own, the process does not get Ctrl-C; it exits when leaving the block closes its pipe
        with subprocess.Popen([sys.executable, *command], cwd=folder, stdin=subprocess.PIPE, stdout=output,
                              stderr=output, start_new_session=True) as process:
            while process.poll() is None and not (stop and stop.is_set()):
                time.sleep(0.1)
    if process.returncode in (0, 2) or process.returncode == 1 and last_line(log).startswith("falls short: "):
        return process.returncode
    raise subprocess.CalledProcessError(process.returncode, "the runner")


def run_one() -> int:
    """Run the runner in the process of a run. It exits when its parent does, and waits while the run is busy."""
    pipe = os.dup(0)  # is closed however the parent ends
    # a child process that inherited the pipe would hang on Windows, because this process is reading from it
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    threading.Thread(target=lambda: os.read(pipe, 1) or os._exit(130), daemon=True).start()
    while True:
        try:
            return runner.main()
        except Busy as busy:
            print(busy, flush=True)
            time.sleep(BUSY_EVERY)


def work(tasks: Sequence[Task], submit: Callable[..., Future[int]], room: int) -> None:
    """Run the waiting tasks, at most ``room`` at a time, and report their progress."""
    running: dict[Future[int], Task] = {}
    report_due = time.monotonic() + REPORT_EVERY
    finished = sum(task.state != "waiting" for task in tasks)
    with tqdm(total=len(tasks), initial=finished, unit="run", dynamic_ncols=True, disable=None) as bar:
        while unfinished := [task for task in tasks if task.state in ("waiting", "running")]:
            trained = set().union(*(task.trainings for task in tasks if task.state in ("done", "falls short")))
            waiting = [task for task in unfinished if task.state == "waiting"]
            ready = [task for task in waiting if not any(str(other.run) in task.needs for other in unfinished)]
            if not ready and not running:
                ready = waiting[:1]  # they need each other; the first one reports the missing model
            for task in ready:
                under_way = set().union(*(other.trainings for other in running.values()))
                if len(running) < room and not task.trainings & (under_way - trained):
                    task.state = "running"
                    running[submit([*RUNNER, *task.options], os.getcwd(), task.log)] = task
                    bar.write(str(task), file=sys.stderr)

            bar.set_postfix(Counter(task.state for task in tasks))
            if time.monotonic() > report_due:
                report_due += REPORT_EVERY
                for task in running.values():
                    bar.write(f"{task}  {last_line(task.log)}", file=sys.stderr)

            for future in wait(running, 1, FIRST_COMPLETED).done:
                task, error = running.pop(future), future.exception()
                said = last_line(task.log)
                if error or future.result() == 2:
                    died = f"{type(error).__name__}: {error}".strip().splitlines()[-1] + "  " if error else ""
                    task.state, task.note = "failed", f"{died}last line: {said}  log: {task.log}"
                else:
                    finish(task, said.removeprefix("falls short: ") if future.result() == 1 else "")
                bar.write(str(task), file=sys.stderr)
                bar.update()


def finish(task: Task, finding: str = "") -> None:
    """Note the accuracy of a run that has ended, and why its result falls short, if it does."""
    finding = runner.over_limit(task.run, task.wanted) or finding
    accuracy = ""
    if task.run.evaluation.is_file():
        accuracy = f"accuracy {records.read(task.run, 'summary')['overall']['accuracy']:.1f} %  "
    task.state, task.note = "falls short" if finding else "done", accuracy + finding


def last_line(log: Path) -> str:
    """Return the last line of a log that is not blank, or an empty string."""
    if not log.is_file():
        return ""
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        lines = file.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""
