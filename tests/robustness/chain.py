"""The whole chain on a toy system: running it, and comparing its files with those of an undisturbed run."""
import io
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests")]

from conftest import TOY  # noqa: E402, I001  (it sets the number of threads before torch is imported)
import torch  # noqa: E402
import yaml  # noqa: E402

from task1a.pipeline import runner  # noqa: E402
from task1a.data import demo  # noqa: E402
from task1a.errors import run_command  # noqa: E402

START = "start"  # the time before the first stage: Python and the imports
SIZE = demo.DemoSize(train_locations=4, clips_per_location=2, parallel_every=4, test_locations=6,
                     evaluation_locations=1, clip_seconds=1.0)  # enough clips for worker processes
SYSTEMS = {
    "toy": {**TOY, "data": {"workers": 2}},
    "other": {"base": "toy.yaml", "model": {"residual_norm": "input"}},
    "twin": {"base": "toy.yaml", "compression": {"ratio": 0.6}},  # shares the vanilla model of "toy"
}
_GROWING = {"checkpoint.pt", "history.csv", "index.csv", "log_mel.float16"}
_SECONDS = {"history.csv": rb",[^,\n]*$", "train.json": rb'"train/history.csv": .*',
            "compress.json": rb'"compress/history.csv": .*'}


@dataclass(frozen=True)
class Finished:
    """Exit status and output of a command."""

    status: int
    stdout: str
    stderr: str

    def problems(self, allowed: tuple[int, ...] = (0,)) -> list[str]:
        """Check that the status is allowed, and that an error is told in the last line only and names a path."""
        *progress, last = self.stderr.splitlines() or [""]
        one_line = last.startswith("error: ") and not any(line.startswith(("error", "Trace")) for line in progress)
        if self.status in allowed and (self.status == 0 or one_line and "/" in last):
            return []
        return [f"status {self.status}: {self.stderr[-300:]!r}"]


class Toy:
    """A toy data set, its systems, and the folder of an undisturbed run."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.data = demo.build(work / "data", SIZE)
        for name, settings in SYSTEMS.items():
            (work / f"{name}.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
        self.undisturbed = self.fresh("undisturbed")
        self.seconds = _seconds_of_stages(self.start(self.undisturbed))

    def fresh(self, name: str, source: Path | None = None) -> Path:
        """Make an empty folder, or a copy of ``source``."""
        folder = self.work / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return shutil.copytree(source, folder, dirs_exist_ok=True) if source else folder

    def arguments(self, system: str) -> list[str]:
        development, evaluation = map(str, self.data)
        return ["--stage", "all", "--system", str(self.work / f"{system}.yaml"), "--data-root", development,
                "--eval-root", evaluation, "--device", "cpu"]

    def start(self, folder: Path, system: str = "toy") -> subprocess.Popen:
        """Start the chain as a command, in a process group of its own."""
        command = [sys.executable, str(REPOSITORY / "task1a.py"), *self.arguments(system)]
        # unbuffered, so that communicate() returns all that follows the lines read before
        return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
                                start_new_session=True)

    def run(self, folder: Path, system: str = "toy") -> Finished:
        """Run the chain in a fork of this process, which saves the time of the imports."""
        process = multiprocessing.get_context("fork").Process(target=_run_here, args=(folder, self.arguments(system)))
        process.start()
        process.join()
        stdout, stderr = ((folder / name).read_text(encoding="utf-8") for name in ("stdout.txt", "stderr.txt"))
        return Finished(process.exitcode, stdout, stderr)


def _run_here(folder: Path, arguments: list[str]) -> None:
    os.chdir(folder)
    for number, name in ((1, "stdout.txt"), (2, "stderr.txt")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.exit(run_command(lambda: runner.main(arguments)))


def _seconds_of_stages(process: subprocess.Popen) -> dict[str, float]:
    stage, began, seconds = START, time.monotonic(), {}
    for line in iter(process.stdout.readline, b""):
        if match := re.match(rb"\[(\w+)\]", line):
            seconds[stage] = time.monotonic() - began
            stage, began = match[1].decode(), time.monotonic()
    seconds[stage] = time.monotonic() - began
    ended = finish(process)
    if ended.status != 0:
        raise SystemExit(f"the chain does not run undisturbed: {ended.stderr}")
    return seconds


def reach(process: subprocess.Popen, stage: str, seconds: float) -> None:
    """Wait until ``seconds`` after the start of a stage, or until the process has ended."""
    while stage != START and (line := process.stdout.readline()) and not line.startswith(f"[{stage}]".encode()):
        pass
    time.sleep(seconds)


def finish(process: subprocess.Popen) -> Finished:
    """Wait for a process to end by itself."""
    stdout, stderr = process.communicate(timeout=300)
    return Finished(process.returncode, stdout.decode(), stderr.decode())


def files(folder: Path) -> set[str]:
    """Names of all files of the runs and caches in a folder."""
    paths = [*(folder / "runs").rglob("*"), *(folder / "cache").rglob("*")]
    return {path.relative_to(folder).as_posix() for path in paths
            if path.is_file() and not re.fullmatch(r"\.lock|\.task1a-.*\.part", path.name)}


def differences(folder: Path, expected: Path, incomplete: bool = False) -> list[str]:
    """List the files that differ from the expected ones; those of an ``incomplete`` run may be missing or grow."""
    found = []
    for name in sorted(files(folder) | files(expected)):
        if not (expected / name).is_file():
            found.append(f"{name} is left over")
        elif not (folder / name).is_file():
            if not incomplete:
                found.append(f"{name} is missing")
        elif incomplete and Path(name).name in _GROWING:
            continue
        elif _content(folder / name) != _content(expected / name):
            found.append(f"{name} differs")
    return found


def _content(path: Path) -> bytes:
    """Content of a file without the durations of training."""
    content = path.read_bytes()
    if path.name != "checkpoint.pt":
        return re.sub(_SECONDS.get(path.name, rb"\Z"), b"", content, flags=re.MULTILINE)
    try:
        checkpoint = torch.load(path, weights_only=True)
        checkpoint["history"] = [row[:-1] for row in checkpoint["history"]]
    except Exception:  # damaged in any way
        return content
    torch.save(checkpoint, saved := io.BytesIO())
    return saved.getvalue()
