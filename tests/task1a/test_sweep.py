"""Sweeps: what runs when, what becomes of runs that fail, die or are left behind, and how the command ends.

Most of it is tested with a stand-in for the runner, whose runs do as they are told.
"""
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import yaml

from task1a.errors import run_command
from task1a.files import exclusive
from task1a.pipeline import sweep

PROJECT = Path(sweep.__file__).resolve().parents[1]
RUNNER = sweep.RUNNER
STAND_IN = '''
import json, os, sys, threading, time
from pathlib import Path

threading.Thread(target=lambda: os.read(0, 1) or os._exit(130), daemon=True).start()
system, seed = (sys.argv[sys.argv.index(option) + 1] for option in ("--system", "--seed"))
name = f"{Path(system).stem}/seed{seed}"

def note(what):
    with open("events.txt", "a") as events:
        events.write(f"{what} {name} {os.getpid()}\\n")

note("start")
print(*sys.argv[1:], flush=True)
attempts = json.loads(Path("conduct.json").read_text())[Path(system).stem].split()
attempt = min(Path("events.txt").read_text().count(f"start {name} "), len(attempts))
match attempts[attempt - 1]:
    case "meets":  # whoever does the same, which is seen only by runs that are side by side
        note("meets")
        started = time.monotonic()
        while Path("events.txt").read_text().count("meets ") < 2:
            if time.monotonic() > started + 30:
                sys.exit("nobody came")
            time.sleep(0.05)
    case "pauses":
        time.sleep(0.5)
    case "sleeps":
        time.sleep(600)
    case "dies":
        os.kill(os.getpid(), 9)
    case "kills-its-parent":
        os.kill(os.getppid(), 9)
        time.sleep(600)
    case "crashes":
        sys.exit("RuntimeError: out of memory")
    case "falls-short":
        print("falls short: over the limit")
        sys.exit(1)
    case "is-refused":
        print("error: no such thing")
        time.sleep(0.5)
        note("end")
        sys.exit(2)
note("end")
'''


class Toys:
    """Systems that a stand-in runs, and a table of them, in the present folder."""

    def __init__(self, conduct: dict[str, str], settings: dict[str, dict]) -> None:
        """Write a system for each key, which all differ in their training unless ``settings`` says otherwise."""
        for number, name in enumerate(conduct, 1):
            own = settings.get(name, {"model": {"tau": number}})
            Path(f"{name}.yaml").write_text(yaml.safe_dump({"data": {"source": "demo"}, **own}))
        Path("tables").mkdir(exist_ok=True)
        rows = [{"system": name, "label": name} for name in conduct]
        Path("tables/table.yaml").write_text(yaml.safe_dump({"title": "Toys", "rows": rows}))
        Path("conduct.json").write_text(json.dumps(conduct))

    @property
    def events(self) -> list[str]:
        path = Path("events.txt")
        return [line.rpartition(" ")[0] for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def toys(tmp_path, monkeypatch) -> Callable[..., Toys]:
    monkeypatch.chdir(tmp_path)
    Path("stand_in.py").write_text(STAND_IN)
    monkeypatch.setattr(sweep, "RUNNER", (str(tmp_path / "stand_in.py"),))
    return lambda conduct, **settings: Toys(conduct, settings)


def run(*arguments: str) -> int:
    """Exit status of a sweep."""
    return run_command(lambda: sweep.main(["tables/table.yaml", *arguments]))


def start(*arguments: str, before: str = "pass") -> subprocess.Popen:
    """A sweep in a process of its own, which does something before."""
    code = (f"import sys; from task1a import errors; from task1a.pipeline import sweep; {before}; "
            "sys.exit(errors.run_command(sweep.main))")
    return subprocess.Popen([sys.executable, "-c", code, "tables/table.yaml", *arguments], text=True,
                            stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(PROJECT)})


def until(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("arguments, message", [
    (["seed=1"], "seed and system cannot be overridden"),
    (["data.source=tau_layout"], "no data set: give its folder with --data-root"),
    (["--data-root", "fold{seed}", "--seeds", "0-1"], "fold1: no such folder"),
    (["training.epoch=1"], "did you mean 'training.epochs'"),
    (["--jobs", "0"], "--jobs: must be 1 or more"),
    (["--gpus-per-run", "0.25"], "give its address with --ray"),
    (["--force"], "unrecognized arguments: --force"),
    (["--systems", "b*"], "--systems b* matches no row; the rows are a, c"),
    *((["--seeds", seeds], "must look like 0-2 or 0,3,5") for seeds in ("", "2-0", "0-", "1,,2", "0-99999", "²")),
])
def test_wrong_arguments_start_nothing(toys, capsys, arguments, message):
    made = toys({"a": "ends", "c": "ends"})
    Path("fold0").mkdir()
    assert run(*arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and message in said and said.count("\n") == 1
    assert not made.events and not Path("runs").exists()


def test_ray_that_is_not_installed_is_one_line(toys, capsys, monkeypatch):
    toys({"a": "ends"})
    monkeypatch.setitem(sys.modules, "ray", None)
    assert run("--ray", "auto") == 2
    assert capsys.readouterr().err == "error: --ray needs Ray: pip install -e '.[cluster]'\n"


def test_rows_seeds_and_a_data_set_for_each_seed(toys):
    made = toys({"slim": "ends", "wide_a": "ends", "wide_b": "ends"})
    for seed in (1, 3, 4):
        Path(f"fold{seed}/evaluation").mkdir(parents=True)
    assert run("--systems", "wide_*", "--seeds", "4,1,3-4", "data.source=tau_layout", "--data-root", "fold{seed}",
               "--eval-root", "fold{seed}/evaluation") == 0
    assert made.events == [f"{what} wide_{system}/seed{seed}" for seed in (4, 1, 3) for system in "ab"
                           for what in ("start", "end")]
    assert "--data-root fold3 --eval-root fold3/evaluation" in Path("runs/wide_b/seed3/log.txt").read_text()


@pytest.mark.parametrize("conduct, status, attempts, shown", [
    ("ends", 0, 1, "done"),
    ("falls-short", 1, 1, "falls short  over the limit"),
    ("is-refused", 2, 1, "failed  last line: error: no such thing"),
    ("dies ends", 0, 2, "done"),
    ("crashes dies falls-short", 1, 3, "falls short  over the limit"),
    ("dies", 2, 3, "failed  CalledProcessError: .* last line: "),
    ("crashes", 2, 3, "failed  CalledProcessError: .* last line: RuntimeError: out of memory"),
])
def test_what_becomes_of_a_run_and_not_of_the_others(toys, capsys, conduct, status, attempts, shown):
    made = toys({"first": "ends", "odd": conduct, "last": "ends"})
    assert run() == status
    said = capsys.readouterr().out
    assert re.search(f"^odd/seed0  {shown}", said, re.MULTILINE)
    assert ("log: " + str(Path("runs/odd/seed0/log.txt").absolute()) in said) == (status == 2)
    assert made.events.count("start odd/seed0") == attempts
    assert [made.events.count(f"end {name}/seed0") for name in ("first", "last")] == [1, 1]


SAME = {"model": {"tau": 9}}
TAUGHT = {"compression": {"enabled": True, "teachers": ["vanilla", "a/seed0"]}}


@pytest.mark.parametrize("conduct, settings, order, status", [
    ("both ends, a pauses, b pauses", {"both": {"ensemble": ["a", "b"]}}, "a both, b both", 0),
    ("pupil ends, a pauses", {"pupil": {**SAME, **TAUGHT}}, "a pupil", 0),
    ("tuned ends, a pauses", {"tuned": {**SAME, "training": {"init_from": "a"}}}, "a tuned", 0),
    ("pupil ends, a is-refused", {"pupil": {**SAME, **TAUGHT}}, "a pupil", 2),
    ("a meets, twin ends, other meets", {"a": SAME, "twin": {**SAME, "compression": {"epochs": 3}}}, "a twin", 0),
    ("a pauses, final ends", {"a": {**SAME, "training": {"validation_fraction": 0.25}}, "final": {**SAME, "training": {
        "validation_fraction": 0.0, "calibrate": True, "pilot_fraction": 0.25}}}, "a final", 0),
    ("a ends, twin meets, triplet meets", {"a": SAME, "twin": SAME, "triplet": SAME}, "a twin, a triplet", 0),
    ("a is-refused, twin pauses, triplet ends", {"a": SAME, "twin": SAME, "triplet": SAME}, "twin triplet", 2),
    ("a pauses, b ends", {"a": {**SAME, "compression": {"enabled": True, "teachers": ["b/seed0"]}}, "b": TAUGHT},
     "a b", 0),
], ids=["ensemble", "teacher", "fine-tuned", "teacher that fails", "training shared", "pilot shared", "training done",
        "training failed", "cycle"])
def test_which_runs_wait_for_which(toys, conduct, settings, order, status):
    """Runs that meet are side by side; the others must have ended before those that wait for them."""
    made = toys(dict(item.split() for item in conduct.split(", ")), **settings)
    assert run("--jobs", "4") == status
    assert len([event for event in made.events if event.startswith("start")]) == len(conduct.split(", "))
    for first, second in (pair.split() for pair in order.split(", ") if pair):
        assert made.events.index(f"end {first}/seed0") < made.events.index(f"start {second}/seed0")


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_termination_ends_the_runs_and_says_how_to_go_on(toys):
    made = toys({"a": "sleeps", "b": "sleeps"})
    started = start("--jobs", "2", before=f"sweep.RUNNER, sweep.REPORT_EVERY = {sweep.RUNNER}, 0.1")
    until(lambda: len(made.events) == 2)
    assert any("b/seed0  running  --system" in line for line in started.stderr)  # the last line of its log
    processes = [int(line.split()[-1]) for line in Path("events.txt").read_text().splitlines()]
    started.send_signal(signal.SIGTERM)
    _, said = started.communicate(timeout=60)
    assert started.returncode == 130 and said.endswith("interrupted; run the same command again to resume\n")
    assert not any(map(psutil.pid_exists, processes)) and len(made.events) == 2


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
@pytest.mark.filterwarnings("ignore")
def test_a_killed_ray_worker_is_made_up_for(toys, capsys):
    """On a real Ray; the first attempt of one run kills the worker that it runs under, that of another dies itself."""
    pytest.importorskip("ray", reason="Ray is not installed (pip install -e '.[cluster]')")
    made = toys({"a": "kills-its-parent ends", "b": "dies ends", "bad": "is-refused", "doomed": "dies"})
    assert run("--ray", "local", "--retries", "1") == 2
    said = capsys.readouterr().out
    assert "a/seed0  done" in said and "b/seed0  done" in said
    assert "bad/seed0  failed  last line: error: no such thing  log: " in said and "doomed/seed0  failed" in said
    assert [made.events.count(f"start {name}/seed0") for name in ("a", "b", "bad", "doomed")] == [2, 2, 1, 2]


def test_a_run_waits_for_another_process_that_works_on_it():
    code = ("from task1a.files import Busy; from task1a.pipeline import runner, sweep\n"
            "answers = iter([Busy('not yet'), 0]); sweep.BUSY_EVERY = 0.1\n"
            "def main():\n    answer = next(answers)\n    if answer: raise answer\n    return 7\n"
            "runner.main = main; print(sweep.run_one())")
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                             env={**os.environ, "PYTHONPATH": str(PROJECT)})
    assert child.stdout.read() == "not yet\n7\n"
    child.communicate()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_real_runs_whose_driver_is_killed_and_a_sweep_that_starts_none(toys, toy_system, toy_data, capsys, monkeypatch):
    """Two that share their training and one over the size limit, two at once."""
    toy = yaml.safe_load(toy_system.read_text(encoding="utf-8"))
    plain = {"base": "toy.yaml", "compression": {"enabled": False}, "training": {"calibrate": False}}
    toys({"toy": "", "plain": "", "large": ""}, toy=toy, plain=plain, large={**plain, "model": {"tau": 4}})
    arguments = ["--data-root", str(toy_data[0]), "--eval-root", str(toy_data[1]), "--device", "cpu", "--jobs", "2",
                 "training.epochs=2", "compression.epochs=1"]
    driver = start(*arguments)
    logs = [Path(f"runs/{name}/seed0/log.txt") for name in ("toy", "large")]
    until(lambda: any(log.exists() and "[features]" in log.read_text() for log in logs))
    driver.kill()
    driver.communicate()
    for folder in Path("runs").glob("*/seed0"):
        with exclusive(folder / ".lock", ""):
            assert not (folder / "evaluation.json").exists()

    monkeypatch.setattr(sweep, "RUNNER", RUNNER)
    assert run(*arguments) == 1
    first = capsys.readouterr().out
    assert re.search(r"^toy/seed0  done  accuracy \d+\.\d %$", first, re.MULTILINE)
    assert re.search(r"^large/seed0  falls short  accuracy \d+\.\d %  the model is over the size limit: ", first,
                     re.MULTILINE)
    assert "has the same training" in Path("runs/plain/seed0/log.txt").read_text(encoding="utf-8")
    monkeypatch.setattr(sweep, "RUNNER", ("-c", "raise SystemExit(9)"))
    assert run(*arguments) == 1 and capsys.readouterr().out == first
    monkeypatch.setattr(sweep, "RUNNER", RUNNER)
    assert run(*arguments, "--systems", "toy", "training.momentum=0.5") == 2  # its finished model stays
    assert "training.momentum was 0.9, now 0.5. Nothing was changed." in capsys.readouterr().out
    monkeypatch.setattr(sweep, "RUNNER", ("-c", "raise SystemExit(9)"))
    assert run(*arguments, "--systems", "toy") == 0
    Path("runs/toy/seed0/complexity.json").unlink()  # its evaluation is there, and it is not finished
    assert run(*arguments, "--systems", "toy", "--retries", "0") == 2
