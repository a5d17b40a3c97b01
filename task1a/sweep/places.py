"""Where the runs of a sweep are worked on: on this machine, or on a cluster through Ray.

A place has ``room`` for so many runs at once. It starts a run with ``start``, which gives a future of the run's exit
status. A future that ends in an error for which ``is_lost`` holds stands for a run whose place has gone.
"""
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import ModuleType
from typing import Protocol

from task1a.errors import InputError
from task1a.machine import cores
from task1a.sweep import process
from task1a.sweep.plan import Task
from task1a.sweep.process import GRACE, Work

RUNNER = ("-m", "task1a.sweep.child")
"""what Python runs, before the arguments of the runner"""
SOURCES = Path(__file__).resolve().parents[2]
"""folder of the packages"""


class Place(Protocol):
    """Where runs are worked on."""

    room: float
    """how many at once"""

    def start(self, task: Task) -> Future[int]:
        """Start a run; gives its exit status."""

    def is_lost(self, error: BaseException) -> bool:
        """Whether an error means that the place of the run has gone, rather than that it could not be started."""

    def close(self) -> None:
        """End what is running, and wait until it has ended."""


class ThisMachine:
    """``jobs`` processes side by side, each with its part of the cores."""

    def __init__(self, jobs: int, command: tuple[str, ...] = RUNNER) -> None:
        self.room = jobs
        self._command = command
        self._threads = None if jobs == 1 or "OMP_NUM_THREADS" in os.environ else max(1, cores() // jobs)
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(jobs)

    def start(self, task: Task) -> Future[int]:
        """Start a run; gives its exit status."""
        work = _work(task, self._command, self._threads)
        return self._pool.submit(process.execute, work, self._stop)

    def is_lost(self, error: BaseException) -> bool:
        """Whether the place of the run has gone: never."""
        return False

    def close(self) -> None:
        """End what is running, and wait until it has ended."""
        self._stop.set()
        self._pool.shutdown(wait=True, cancel_futures=True)


class Cluster:
    """The nodes of a Ray cluster, which see this folder under the same path."""

    def __init__(self, address: str, jobs: int | None = None, cpus: int = 1, gpus: float | None = None,
                 on_gpu: bool = True, command: tuple[str, ...] = RUNNER) -> None:
        """Join a cluster.

        Args:
            address: ``auto`` or ``host:port``; ``local`` starts Ray on this machine.
            jobs: how many runs at once at most; as many as there is room for when not given.
            cpus: cores of a run.
            gpus: of a run; when not given one, where the cluster has any and ``on_gpu`` is true, else none.
            on_gpu: whether runs may take a GPU.
            command: what Python runs, before the arguments of the runner.

        Raises:
            InputError: Ray is not installed or does not answer, or no node has so many cores and GPUs.
        """
        self._ray = ray = _joined(address, jobs and jobs * cpus)
        self.room = jobs or float("inf")
        self._command, self._cpus, self._running = command, cpus, {}
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if gpus is None:
            gpus = float(on_gpu and any(node.get("GPU") for node in nodes))
        if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
            ray.shutdown()
            raise InputError(f"--ray {address}: no node has {cpus} CPUs and {gpus:g} GPUs, which a run is to have "
                             "(--cpus-per-run, --gpus-per-run)")
        try:
            ray.cloudpickle.register_pickle_by_value(process)  # so that no worker has to find this project
            # tried again by the sweep, which tells a run that died from one that ended with an error
            self._execute = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(process.execute_on_ray)
        except ValueError as error:
            ray.shutdown()
            raise InputError(f"--gpus-per-run {gpus:g}: {error}") from None

    def start(self, task: Task) -> Future[int]:
        """Start a run as soon as a node has room; gives its exit status."""
        reference = self._execute.remote(_work(task, self._command, self._cpus))
        future = reference.future()
        self._running[future] = reference
        future.add_done_callback(lambda ended: self._running.pop(ended, None))
        return future

    def is_lost(self, error: BaseException) -> bool:
        """Whether the worker or the node of the run has gone."""
        exceptions = self._ray.exceptions
        return isinstance(error, exceptions.RayError) and not isinstance(error, exceptions.RayTaskError)

    def close(self) -> None:
        """End what is running, and wait until it has ended."""
        running = dict(self._running)
        for reference in running.values():
            self._ray.cancel(reference)
        wait(running, timeout=2 * GRACE)
        self._ray.shutdown()


def _work(task: Task, command: tuple[str, ...], threads: int | None) -> Work:
    return Work((*command, *task.arguments), Path.cwd(), task.log.absolute(), SOURCES, threads)


def _joined(address: str, cpus: int | None) -> ModuleType:
    """Ray, joined to a cluster; one started here has so many cores, those of the machine when not given."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody unless the user says so
    try:
        import ray
    except ImportError:
        raise InputError("--ray needs Ray: pip install -e '.[cluster]'") from None
    own = {"num_cpus": cpus, "include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error", **own)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise InputError(f"--ray {address}: no cluster answers there: {' '.join(str(error).split())}") from None
    return ray
