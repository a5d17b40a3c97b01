"""The whole chain on a toy system: how it is started, and what it leaves behind when nothing disturbs it."""
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

from task1a import runner  # noqa: E402
from task1a.data import demo  # noqa: E402
from task1a.errors import run_command  # noqa: E402

START = "start"  # what comes before the first stage: Python and the imports
SIZE = demo.DemoSize(train_locations=4, clips_per_location=2, parallel_every=4, test_locations=6,
                     evaluation_locations=1, clip_seconds=1.0)  # enough clips for worker processes to take part
SYSTEMS = {
    "toy": {**TOY, "data": {"workers": 2}},
    "other": {"base": "toy.yaml", "model": {"residual_norm": "input"}},
    "twin": {"base": "toy.yaml", "compression": {"ratio": 0.6}},  # has the vanilla model of "toy"
}
_GROWING = {"checkpoint.pt", "history.csv", "index.csv", "log_mel.float16"}
_SECONDS = {"history.csv": rb",[^,\n]*$", "train.json": rb'"train/history.csv": .*',
            "compress.json": rb'"compress/history.csv": .*'}


@dataclass(frozen=True)
class Finished:
    """How a command ended, and what it wrote to standard output and to standard error."""

    status: int
    said: str
    told: str

    def problems(self, allowed: tuple[int, ...] = (0,)) -> list[str]:
        """What is wrong with the exit status, or with what is told of it: in one line, the last, that names a path."""
        *progress, last = self.told.splitlines() or [""]
        one_line = last.startswith("error: ") and not any(line.startswith(("error", "Trace")) for line in progress)
        if self.status in allowed and (self.status == 0 or one_line and "/" in last):
            return []
        return [f"status {self.status}: {self.told[-300:]!r}"]


class Toy:
    """A toy data set, systems for it, and a folder in which the chain ran undisturbed."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.data = demo.build(work / "data", SIZE)
        for name, settings in SYSTEMS.items():
            (work / f"{name}.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
        self.undisturbed = self.fresh("undisturbed")
        self.seconds = _seconds_of_stages(self.start(self.undisturbed))

    def fresh(self, name: str, of: Path | None = None) -> Path:
        """An empty folder, or a copy of another one."""
        folder = self.work / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return shutil.copytree(of, folder, dirs_exist_ok=True) if of else folder

    def arguments(self, system: str) -> list[str]:
        development, evaluation = map(str, self.data)
        return ["--stage", "all", "--system", str(self.work / f"{system}.yaml"), "--data-root", development,
                "--eval-root", evaluation, "--device", "cpu"]

    def start(self, folder: Path, system: str = "toy") -> subprocess.Popen:
        """Start the chain as a command, in a process group of its own."""
        command = [sys.executable, str(REPOSITORY / "task1a.py"), *self.arguments(system)]
        # unbuffered, so that reading line by line takes nothing away from what communicate() returns
        return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
                                start_new_session=True)

    def run(self, folder: Path, system: str = "toy") -> Finished:
        """Run the chain in a fork of this process, which has imported everything already."""
        process = multiprocessing.get_context("fork").Process(target=_run_here, args=(folder, self.arguments(system)))
        process.start()
        process.join()
        said, told = ((folder / name).read_text(encoding="utf-8") for name in ("said.txt", "told.txt"))
        return Finished(process.exitcode, said, told)


def _run_here(folder: Path, arguments: list[str]) -> None:
    os.chdir(folder)
    for number, name in ((1, "said.txt"), (2, "told.txt")):
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
        raise SystemExit(f"the chain does not run undisturbed: {ended.told}")
    return seconds


def reach(process: subprocess.Popen, stage: str, seconds: float) -> None:
    """Wait until so many seconds after a stage has begun, or until the process has ended."""
    while stage != START and (line := process.stdout.readline()) and not line.startswith(f"[{stage}]".encode()):
        pass
    time.sleep(seconds)


def finish(process: subprocess.Popen) -> Finished:
    """Wait for a process to end by itself."""
    said, told = process.communicate(timeout=300)
    return Finished(process.returncode, said.decode(), told.decode())


def files(folder: Path) -> set[str]:
    """Names of all files of the runs and the caches."""
    paths = [*(folder / "runs").rglob("*"), *(folder / "cache").rglob("*")]
    return {path.relative_to(folder).as_posix() for path in paths if path.is_file() and path.name != ".lock"}


def differences(folder: Path, right: Path, so_far: bool = False) -> list[str]:
    """Name the files that are not as in the right folder; ``so_far``: where they may be missing or still grow."""
    found = []
    for name in sorted(files(folder) | files(right)):
        if not (right / name).is_file():
            found.append(f"{name} is left over")
        elif not (folder / name).is_file():
            found += [] if so_far else [f"{name} is missing"]
        elif not (so_far and Path(name).name in _GROWING):
            found += [] if _content(folder / name) == _content(right / name) else [f"{name} differs"]
    return found


def _content(path: Path) -> bytes:
    """What a file holds, but for the seconds that training took."""
    content = path.read_bytes()
    if path.name != "checkpoint.pt":
        return re.sub(_SECONDS.get(path.name, rb"\Z"), b"", content, flags=re.MULTILINE)
    try:
        checkpoint = torch.load(path, weights_only=True)
        checkpoint["history"] = [row[:-1] for row in checkpoint["history"]]
    except Exception:  # whatever the reader makes of a damaged file
        return content
    torch.save(checkpoint, saved := io.BytesIO())
    return saved.getvalue()
