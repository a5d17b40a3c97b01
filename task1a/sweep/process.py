"""A run as a process of its own, on whatever machine this is called.

It knows nothing of the project but where it lies, so that a worker of a cluster needs nothing else.
"""
import os
import platform
import shlex
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

HEADER = "--- "
"""begins the line that stands before what each attempt says"""
GRACE = 20.0
"""seconds that a process has to end in, before it is killed; a run goes on from there either way"""


@dataclass(frozen=True)
class Work:
    """A run as a process."""

    command: tuple[str, ...]
    """after the Python interpreter"""
    folder: Path
    """to work in"""
    log: Path
    """takes up what it says, after what is there"""
    sources: Path
    """folder that it imports the project from"""
    threads: int | None = None
    """for arithmetic; as many as there are cores when not given"""


def execute(work: Work, stop: threading.Event | None = None) -> int:
    """Run a process to its end and return its exit status.

    The process is told to end when ``stop`` is set or an exception interrupts the waiting, and by itself when this
    process dies.
    """
    stop = stop or threading.Event()
    work.log.parent.mkdir(parents=True, exist_ok=True)
    started = f"{HEADER}{datetime.now():%Y-%m-%d %H:%M:%S} on {platform.node()}: {shlex.join(work.command)}\n"
    with open(work.log, "ab") as log:
        log.write(started.encode())
        log.flush()
        process = subprocess.Popen([sys.executable, *work.command], cwd=work.folder, env=_environment(work),
                                   stdin=subprocess.PIPE, stdout=log, stderr=log, **_apart())
    try:
        while process.poll() is None and not stop.wait(0.1):
            pass
    finally:
        process.stdin.close()
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return process.returncode


def execute_on_ray(work: Work) -> int:
    """As :func:`execute`, for a worker of Ray, which is told to stop by an interrupt."""
    # where the sweep was started in the background, its workers are born deaf to interrupts
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return execute(work)


def _environment(work: Work) -> dict[str, str]:
    paths = [str(work.sources), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1",
                   "PYTHONIOENCODING": "utf-8"}
    return environment if work.threads is None else {**environment, "OMP_NUM_THREADS": str(work.threads)}


def _apart() -> dict[str, int | bool]:
    """Options of a process that the terminal's Ctrl-C does not reach: ending it is the sweep's to do."""
    if os.name == "nt":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}
