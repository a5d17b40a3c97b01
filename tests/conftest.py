"""A data set and a system that are small enough to run the whole chain in seconds, and a folder for every test."""
import multiprocessing
import os
import runpy
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

# tests run side by side, and threads that wait for each other's cores take many times as long; before torch reads it
os.environ.setdefault("OMP_NUM_THREADS", "1")

from task1a.data import demo  # noqa: E402
from task1a.machine import cores  # noqa: E402

CHECKOUT = Path(__file__).resolve().parents[1]
USERS_FOLDERS = ("cache", "runs", "data")
"""folders of the checkout that hold a user's work, which no test reads or writes"""
LIBRARIES = (
    "pytest", "torch", "torch._dynamo", "torch.utils.flop_counter", "task1a.features.compat", "torchaudio.transforms",
    "numpy", "pandas", "scipy.optimize", "scipy.stats", "sklearn.metrics", "sklearn.model_selection", "jinja2",
    "matplotlib.figure", "matplotlib.backends.backend_svg", "pydantic.dataclasses", "soundfile", "soxr",
    "safetensors.torch", "lightning_fabric", "dcase_util", "sed_eval", "yaml", "tqdm")
"""what a process that runs commands has imported before it is forked; what is missing is imported later"""


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Divide the tests among the cores if pytest-xdist is installed and the command does not say how."""
    if config.pluginmanager.hasplugin("xdist") and not hasattr(config, "workerinput"):
        if config.option.numprocesses is None and config.option.dist == "no" and not config.option.usepdb:
            config.option.numprocesses, config.option.dist = min(cores(), 8), "worksteal"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest test, or one process would work on it when the others have nothing left to do."""
    items.sort(key=lambda item: not item.name.startswith("test_every_command_runs"))


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a shell; the commands under test hear it
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # under nohup
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def _stay_out_of_users_folders(event: str, arguments: tuple) -> None:
    if event in ("open", "os.listdir", "os.scandir", "os.mkdir", "os.rename", "os.remove") and arguments:
        if isinstance(arguments[0], str | bytes | os.PathLike):
            path = os.fsdecode(arguments[0])  # a relative one is below the test's own folder
            for name in USERS_FOLDERS:
                if f"{path}{os.sep}".startswith(f"{CHECKOUT / name}{os.sep}"):
                    raise AssertionError(f"a test uses {path}; tests work in a folder of their own")


sys.addaudithook(_stay_out_of_users_folders)


def _users_files() -> dict[str, tuple[int, int]]:
    """Sizes and times of everything in the checkout but the caches of the tools."""
    files = {}
    for folder, folders, names in os.walk(CHECKOUT):
        folders[:] = [name for name in folders if not name.startswith(".") and not name.endswith(".egg-info")
                      and name not in ("__pycache__", *USERS_FOLDERS)]
        for name in names:
            status = os.stat(os.path.join(folder, name))
            files[os.path.join(folder, name)] = status.st_size, status.st_mtime_ns
    return files


@pytest.fixture(scope="session", autouse=True)
def checkout_is_left_alone(tmp_path_factory) -> Iterator[None]:
    """Fixtures work in a folder apart, and the tests leave the checkout as it was."""
    before = _users_files()
    os.chdir(tmp_path_factory.mktemp("fixtures"))
    yield
    assert _users_files() == before


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch) -> None:
    """Every test works in a folder of its own."""
    monkeypatch.chdir(tmp_path)


TOY = {
    "description": "toy",
    "data": {"workers": 1},
    "features": {"n_mels": 32, "n_fft": 1024, "window": 1024, "hop": 800, "clip_seconds": 1.0},
    "model": {"tau": 0.4, "dropout": 0.1, "residual_norm": "all"},
    "training": {"epochs": 3, "batch_size": 16, "warmup_epochs": 1, "frequency_mask_bins": 4, "time_mask_frames": 3,
                 "roll_seconds": 0.2, "validation_fraction": 0.25, "calibrate": True},
    "compression": {"enabled": True, "epochs": 2, "ratio": 0.5},
    "submission": {"name": "Toy", "abbreviation": "Toy"},
}


@pytest.fixture(scope="session")
def once(tmp_path_factory) -> Callable[[str, Callable[[Path], object]], Path]:
    """Makes a folder once in a run of pytest, also if the tests are divided among processes."""
    base = tmp_path_factory.getbasetemp()
    common = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def made(name: str, make: Callable[[Path], object]) -> Path:
        with FileLock(common / f"{name}.lock"):
            if not (common / f"{name}.made").exists():
                shutil.rmtree(common / name, ignore_errors=True)  # of a failure
                (common / name).mkdir()
                make(common / name)
                (common / f"{name}.made").touch()
        return common / name

    return made


@pytest.fixture(scope="session")
def toy_data(once) -> tuple[Path, Path]:
    """Folders of a development and an evaluation set of one-second clips."""
    size = demo.DemoSize(train_locations=4, clips_per_location=1, parallel_every=2, test_locations=1,
                         evaluation_locations=1, clip_seconds=1.0)
    folder = once("toy", lambda folder: demo.build(folder, size))
    return folder / demo.DEVELOPMENT, folder / demo.EVALUATION


@pytest.fixture(scope="session")
def toy_system(once) -> Path:
    """A configuration of every kind of layer, trained for a few short epochs."""
    text = yaml.safe_dump(TOY)
    return once("systems", lambda folder: (folder / "toy.yaml").write_text(text, encoding="utf-8")) / "toy.yaml"


class Command:
    """``python`` with some arguments in a process of its own, whose streams are files."""

    def __init__(self, process: multiprocessing.Process, streams: list[str]) -> None:
        self._process, self._streams = process, streams
        process.start()
        self.pid = process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit status, that of a killed one negative; None while it runs."""
        return self._process.exitcode

    def wait(self, seconds: float = 300) -> "Command":
        self._process.join(seconds)
        assert self.returncode is not None, f"still running after {seconds} s: {self.stdout}{self.stderr}"
        return self

    def when(self, condition: Callable[[], object], number: int) -> "Command":
        """Send a signal as soon as a condition holds, and wait until it has ended."""
        deadline = time.monotonic() + 120
        while not condition():
            assert self.returncode is None and time.monotonic() < deadline, self.stdout + self.stderr
            time.sleep(0.002)
        os.kill(self.pid, number)
        return self.wait(60)

    stdout = property(lambda self: Path(self._streams[0]).read_text(encoding="utf-8"))
    stderr = property(lambda self: Path(self._streams[1]).read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def start(tmp_path_factory) -> Iterator[Callable[..., Command]]:
    """Starts ``python`` with some arguments: a file or ``-m`` and a module, and what follows.

    The process is forked, where the system can, from one that has imported the libraries, and is there in a tenth of a
    second instead of five. It works in the present folder or ``folder``, and executes the code ``before`` first.
    """
    context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
    context.set_forkserver_preload(LIBRARIES)
    streams, started = tmp_path_factory.mktemp("streams"), []

    def start(*arguments: object, folder: Path | None = None, before: str = "", **environment: str) -> Command:
        files = [tempfile.mkstemp(dir=streams)[1] for _ in range(2)]
        given = {"arguments": [*map(str, arguments)], "folder": str(folder or Path.cwd()), "streams": files,
                 "environment": {**os.environ, **environment}, "before": before}
        process = context.Process(target=runpy.run_path, args=(str(CHECKOUT / "tests" / "child.py"), given))
        started.append(process)
        return Command(process, files)

    yield start
    for process in started:
        process.kill()
