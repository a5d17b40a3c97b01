"""Sweeps: what runs when, what becomes of runs that fail, die or are left behind, and what is shown of them.

Most of it is tested with a stand-in for the runner, whose runs take a tenth of a second and behave as they are told.
"""
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Timer

import pytest
import yaml
from filelock import FileLock

from task1a import runner
from task1a.errors import CommandParser, FallsShort, InputError
from task1a.run_folder import write_json
from task1a.sweep import child, command, plan
from task1a.sweep.places import RUNNER, SOURCES
from task1a.sweep.progress import View, duration, seconds_left, summary
from task1a.sweep.schedule import last_line

STAND_IN = '''
"""Goes through four epochs, one line each in the run folder; conduct.json says how the runs of a system behave."""
import json, os, signal, sys, time
from pathlib import Path
from filelock import FileLock, Timeout
from task1a.sweep.child import BUSY, end_with_starter

end_with_starter()
system = Path(sys.argv[sys.argv.index("--system") + 1]).stem
seed = sys.argv[sys.argv.index("--seed") + 1]
folder = Path(sys.argv[sys.argv.index("--runs") + 1]) / system / f"seed{seed}"
conduct = json.loads(Path("conduct.json").read_text()).get(system, {})
epochs = folder / "epochs.txt"

def note(what):
    with open("events.txt", "a") as events:
        events.write(f"{what} {system}/seed{seed}\\n")

try:
    with FileLock(folder / ".lock").acquire(timeout=0):
        note("start")
        first = not epochs.exists()
        while not epochs.exists() or len(epochs.read_text()) < 4:
            with open(epochs, "a") as file:
                file.write("e")
            time.sleep(conduct.get("seconds", 0.02))
            if conduct.get("dies") == "always" or first and len(epochs.read_text()) == 2 and "dies" in conduct:
                os.kill(os.getppid() if conduct["dies"] == "worker" else os.getpid(), signal.SIGKILL)
                time.sleep(60)
        note("end")
        print(conduct.get("says", "all is well"))
        sys.exit(conduct.get("status", 0))
except Timeout:
    sys.exit(BUSY)
'''


class Sweep:
    """Small systems, a table of them, and the stand-in that they run with, in the present folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stand_in = folder / "stand_in.py"
        self.stand_in.write_text(STAND_IN)

    def write(self, conduct: dict[str, dict], **settings: dict) -> None:
        """A system for each key, which all differ in their training unless ``settings`` says otherwise."""
        (self.folder / "tables").mkdir(exist_ok=True)
        for number, name in enumerate(conduct, 1):
            own = settings.get(name, {"model": {"tau": number}})
            (self.folder / f"{name}.yaml").write_text(yaml.safe_dump({"data": {"source": "demo"}, **own}))
        rows = [{"system": name, "label": name} for name in conduct]
        (self.folder / "tables" / "table.yaml").write_text(yaml.safe_dump({"title": "Toys", "rows": rows}))
        (self.folder / "conduct.json").write_text(json.dumps(conduct))

    def run(self, *arguments: str) -> int:
        return command.main(["tables/table.yaml", *arguments], (str(self.stand_in),))

    def start(self, *arguments: str) -> subprocess.Popen:
        """The same in a process of its own."""
        code = ("import sys; from task1a.errors import run_command; from task1a.sweep import command; "
                f"sys.exit(run_command(lambda: command.main(sys.argv[1:], ({str(self.stand_in)!r},))))")
        return subprocess.Popen([sys.executable, "-c", code, "tables/table.yaml", *arguments], text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                env={**os.environ, "PYTHONPATH": str(SOURCES)})

    def tasks(self, *names: str, seeds: str = "0", options: Sequence[str] = ()) -> list[plan.Task]:
        parser = CommandParser()
        runner.add_run_options(parser)
        return plan.tasks([self.folder / f"{name}.yaml" for name in names], plan.seeds(seeds),
                          parser.parse_intermixed_args(options))

    @property
    def events(self) -> list[str]:
        path = self.folder / "events.txt"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def toys(tmp_path, monkeypatch) -> Sweep:
    monkeypatch.chdir(tmp_path)
    return Sweep(tmp_path)


def until(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def free(folder: Path) -> bool:
    with FileLock(folder / ".lock").acquire(timeout=20):
        return True


@pytest.mark.parametrize("text, numbers", [
    ("0", [0]), ("0-2", [0, 1, 2]), ("0,3,5", [0, 3, 5]), ("4-5,0, 5", [4, 5, 0]), ("7-7", [7])])
def test_seeds(text, numbers):
    assert plan.seeds(text) == numbers


@pytest.mark.parametrize("text", ["", "2-0", "-1", "0-", "1,,2", "a", "0..2", "0-99999", "²"])
def test_wrong_seeds(text):
    with pytest.raises(InputError, match="must be written 0-2 or 0,3,5"):
        plan.seeds(text)


@pytest.mark.parametrize("table, message", [
    ("title: nothing", "no key 'rows'"),
    ("{title: t, rows: [{system: aa, label: A}]}", "aa.yaml: no such configuration; did you mean a.yaml"),
])
def test_wrong_tables_start_nothing(toys, table, message):
    toys.write({"a": {}})
    Path("tables/table.yaml").write_text(table)
    with pytest.raises(InputError, match=message) as error:
        toys.run()
    assert "\n" not in str(error.value) and not Path("runs").exists()


@pytest.mark.parametrize("arguments, message", [
    (["seed=1"], "seeds by --seeds"),
    (["data.source=tau_layout"], "no data set: give its folder with --data-root"),
    (["data.source=tau_layout", "--data-root", "nowhere"], "nowhere: no such folder"),
    (["training.epoch=1"], "did you mean 'training.epochs'"),
    (["--jobs", "0"], "--jobs: must be 1 or more"),
    (["--gpus-per-run", "0.25"], "give its address with --ray"),
    (["--gpus-per-run", "1.5", "--ray", "auto"], "must be a part of one, or whole"),
    (["--force"], "unrecognized arguments: --force"),
    (["--systems", "b*"], r"^--systems b\*: matches no row; there are a$"),
    (["--data-root", "fold{seed}", "data.source=tau_layout", "--seeds", "0-1"], "^fold1: no such folder$"),
])
def test_wrong_arguments_start_nothing(toys, arguments, message):
    toys.write({"a": {}})
    Path("fold0").mkdir()
    with pytest.raises(InputError, match=message):
        toys.run(*arguments)
    assert not Path("runs").exists()


def test_a_pattern_picks_rows(toys):
    toys.write({"slim": {}, "wide": {}, "wide_a": {}, "wide_b": {}})
    assert toys.run("--systems", "wide_*") == 0
    assert toys.events == [f"{what} wide_{name}/seed0" for name in "ab" for what in ("start", "end")]


def test_each_seed_may_have_a_data_set_of_its_own(toys):
    toys.write({"a": {}}, a={"data": {"source": "tau_layout"}})
    folds = [{name: Path(f"fold{seed}/{name}") for name in ("development", "evaluation")} for seed in (0, 7)]
    for path in (path for fold in folds for path in fold.values()):
        path.mkdir(parents=True)
    tasks = toys.tasks("a", seeds="0,7", options=["--data-root", "fold{seed}/development",
                                                  "--eval-root", "fold{seed}/evaluation"])
    assert [task.run.sets for task in tasks] == folds
    assert [runner.asked_for(task.arguments)[0].sets for task in tasks] == folds


def test_one_that_fails_does_not_stop_the_others(toys, capsys):
    toys.write({"good": {}, "bad": {"status": 2, "says": "error: no such thing"}, "last": {}})
    with pytest.raises(InputError, match=r"^1 of 3 runs failed, named above with their logs"):
        toys.run()
    said = capsys.readouterr().out
    assert re.search(r"^bad/seed0  failed  no such thing  log: .*bad.seed0.log\.txt$", said, re.MULTILINE)
    assert "Toys" in said and "2 done, 1 failed" in said
    assert toys.events.count("start bad/seed0") == 1 and "end last/seed0" in toys.events


def test_one_that_falls_short_is_told(toys, capsys):
    toys.write({"good": {}, "large": {"status": 1, "says": "falls short: over the limit"}})
    with pytest.raises(FallsShort, match="^1 of 2 runs, named above$"):
        toys.run()
    assert "large/seed0  falls short  over the limit\n" in capsys.readouterr().out


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_one_that_dies_goes_on_where_it_was_until_it_has_died_too_often(toys, capsys):
    toys.write({"killed": {"dies": "once"}, "doomed": {"dies": "always"}})
    with pytest.raises(InputError, match="1 of 2 runs failed"):
        toys.run("--retries", "1")
    said = capsys.readouterr().out
    assert "killed/seed0  done" in said and Path("runs/killed/seed0/epochs.txt").read_text() == "eeee"
    assert "doomed/seed0  failed  ended by SIGKILL, attempt 2  log: " in said
    assert [toys.events.count(f"start {name}/seed0") for name in ("killed", "doomed")] == [2, 2]


def test_a_traceback_is_no_finding(toys, capsys):
    toys.write({"crashed": {"status": 1, "says": "RuntimeError: out of memory"}})
    with pytest.raises(InputError):
        toys.run("--retries", "0")
    said = capsys.readouterr().out
    assert "failed  ended with status 1, attempt 1; it said last: RuntimeError: out of memory" in said


def test_side_by_side_only_what_does_not_share_its_training(toys):
    slow = {"seconds": 0.15}
    shared = {"model": {"tau": 9}}
    toys.write({"one": slow, "other": slow, "twin": slow}, one=shared, twin={**shared, "compression": {"epochs": 3}})
    assert toys.run("--jobs", "3") == 0
    assert set(toys.events[:2]) == {"start one/seed0", "start other/seed0"}
    assert toys.events.index("start twin/seed0") > toys.events.index("end one/seed0")


def test_ensembles_and_pupils_come_after_those_they_need(toys):
    toys.write({"both": {}, "pupil": {}, "a": {"seconds": 0.1}, "b": {}}, both={"ensemble": ["a", "b"]},
               pupil={"model": {"tau": 9}, "compression": {"enabled": True, "teachers": ["b/seed0"]}})
    assert toys.run("--jobs", "4") == 0
    starts, ends = ({name: toys.events.index(f"{what} {name}/seed0") for name in ("a", "b", "both", "pupil")}
                    for what in ("start", "end"))
    assert starts["both"] > max(ends["a"], ends["b"]) and starts["pupil"] > ends["b"]


def test_runs_that_wait_for_each_other_do_not_wait_for_ever(toys):
    taught = {name: {"model": {"tau": tau}, "compression": {"enabled": True, "teachers": [f"{teacher}/seed0"]}}
              for name, teacher, tau in (("a", "b", 1), ("b", "a", 2))}
    toys.write({"a": {}, "b": {}}, **taught)
    assert toys.run() == 0 and len(toys.events) == 4


def test_a_run_that_is_worked_on_elsewhere_is_waited_for(toys, capsys):
    toys.write({"a": {}, "b": {}})
    Path("runs/a/seed0").mkdir(parents=True)
    lock = FileLock("runs/a/seed0/.lock", thread_local=False)
    lock.acquire()
    Timer(1.5, lock.release).start()
    assert toys.run() == 0
    assert toys.events == [f"{what} {name}/seed0" for name in "ba" for what in ("start", "end")]


def test_a_process_says_by_its_status_that_its_run_is_worked_on(toys, monkeypatch):
    toys.write({"a": {}})
    Path("runs/a/seed0").mkdir(parents=True)
    monkeypatch.setattr(sys, "argv", ["child", "--system", "a.yaml"])
    with FileLock("runs/a/seed0/.lock"):
        assert child.main() == child.BUSY


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_killed_driver_leaves_nothing_running_and_the_same_command_goes_on(toys):
    toys.write({"a": {"seconds": 0.1}, "b": {"seconds": 30}})
    started = toys.start("--jobs", "2")
    until(lambda: "end a/seed0" in toys.events and "start b/seed0" in toys.events)
    started.kill()
    started.wait()
    assert free(Path("runs/b/seed0")) and "end b/seed0" not in toys.events
    toys.write({"a": {}, "b": {}})
    assert toys.run("--jobs", "2") == 0
    assert Path("runs/b/seed0/epochs.txt").read_text() == "eeee"


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_termination_ends_the_runs_and_says_how_to_go_on(toys):
    toys.write({"a": {"seconds": 30}})
    started = toys.start()
    until(lambda: "start a/seed0" in toys.events)
    started.send_signal(signal.SIGTERM)
    _, error = started.communicate(timeout=30)
    assert (started.returncode, error) == (130, "interrupted; the same command goes on from here\n")
    assert free(Path("runs/a/seed0")) and "end a/seed0" not in toys.events


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
@pytest.mark.filterwarnings("ignore")
def test_a_killed_ray_worker_is_made_up_for(toys, capsys):
    """On a real Ray with room for two runs; the first run of the first system kills the worker that it runs under."""
    pytest.importorskip("ray", reason="Ray is not installed (pip install -e '.[cluster]')")
    toys.write({"a": {"dies": "worker"}, "b": {"seconds": 0.2}, "bad": {"status": 2, "says": "error: no such thing"}})
    with pytest.raises(InputError, match="1 of 3 runs failed"):
        toys.run("--ray", "local", "--jobs", "2")
    said = capsys.readouterr().out
    assert "a/seed0  done" in said and "b/seed0  done" in said and "bad/seed0  failed  no such thing" in said
    assert toys.events.count("start a/seed0") == 2 and Path("runs/a/seed0/epochs.txt").read_text() == "eeee"
    assert toys.events.index("start b/seed0") < toys.events.index("end a/seed0")


def test_ray_that_does_not_answer_is_one_line(toys, monkeypatch):
    toys.write({"a": {}})
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"--ray needs Ray: pip install -e '.\[cluster\]'"):
        toys.run("--ray", "auto")


def history(task: plan.Task, *seconds: float, stage: str = "train", accuracy: float | str = 50) -> None:
    path = {"train": task.run.folder.history, "compress": task.run.folder.compress_history}[stage]
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = "".join(f"{number},0.1,1,{accuracy},1,{value}\n" for number, value in enumerate(seconds, 1))
    path.write_text("epoch,learning_rate,train_loss,validation_accuracy,validation_log_loss,seconds\n" + rows)


def ended(task: plan.Task, stage: str) -> None:
    write_json(task.run.folder.record(stage), {})


RECIPE = {"training": {"epochs": 10, "warmup_epochs": 0}, "compression": {"enabled": True, "epochs": 4}}


def test_time_left_by_hand(toys):
    toys.write({"a": {}, "b": {}}, a=RECIPE, b={**RECIPE, "model": {"tau": 2}})
    tasks = toys.tasks("a", "b", seeds="0-1")
    done, other, waiting, unknown = tasks  # a/seed0, b/seed0, a/seed1, b/seed1
    assert seconds_left(tasks, 2) == (0, 4)
    done.state = "done"
    history(done, *[2.0] * 10)
    history(done, *[3.0] * 4, stage="compress")
    ended(done, "train")
    assert seconds_left(tasks, 1) == (10 * 2 + 4 * 3, 2)
    other.state = "running"
    history(other, 5, 5, 50, 5)
    # six epochs of 5 s to train, then four to compress, of whose length nothing else is known; the last as the second
    assert seconds_left(tasks, 1) == ((6 + 4) * 5 + 32 + (10 + 4) * 5, 0)
    assert seconds_left(tasks, 2) == ((50 + 32 + 70) / 2, 0)
    assert seconds_left(tasks, 3) == (70, 0)
    ended(other, "train")
    history(other, 7, stage="compress")
    assert seconds_left(tasks[:3], 1) == (3 * 7 + 32, 0)


def test_what_runs_share_is_counted_once(toys):
    toys.write({"a": {}, "twin": {}, "both": {}}, a=RECIPE, twin=RECIPE, both={"ensemble": ["a", "twin"]})
    a, twin, both = toys.tasks("a", "twin", "both")
    a.state = "running"
    history(a, 2.0)
    history(a, stage="compress")
    tasks = [a, twin, both]
    assert seconds_left(tasks, 1) == ((9 + 4) * 2, 1)  # of the twin's compression nothing is known
    twin.state = "running"
    history(twin, 3.0, stage="compress")
    ended(twin, "train")
    assert seconds_left(tasks, 1) == ((9 + 4) * 2 + 3 * 3, 0)
    assert seconds_left(toys.tasks("a", options=["--stage", "complexity"]), 1) == (0, 0)


def test_durations():
    assert [duration(seconds) for seconds in (4, 89, 90, 3500, 3600, 9000, 200_000)] == [
        "4 s", "89 s", "2 min", "58 min", "1 h 00 min", "2 h 30 min", "2.3 days"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_it_is_redrawn_in_place_and_fits(toys, monkeypatch):
    toys.write({"a": {}, "b": {}}, a=RECIPE, b={**RECIPE, "model": {"tau": 2}})
    tasks = toys.tasks("a", "b", seeds="0-9")
    tasks[3].state, tasks[3].attempts, tasks[3].died = "running", 2, "ended by SIGKILL"
    history(tasks[3], 60, 60, accuracy=51.26)
    monkeypatch.setattr("task1a.sweep.progress.get_terminal_size", lambda: os.terminal_size((70, 8)))
    stream = Terminal()
    view = View("Toys", tasks, stream)
    view.show(1)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 7 and max(map(len, lines)) < 70
    assert lines[0].startswith("Toys: 1 running, 19 waiting; about 2 h 18 min left, ")
    assert lines[1] == "b/seed1  running  train 2/10  validation accuracy 51.3 %  (attempt 2:"
    assert lines[-1] == "and 15 more"
    view.show(1)
    assert len(stream.getvalue().splitlines()) == 7  # not yet due
    view._due = 0
    view.show(1)
    assert stream.getvalue().count("\x1b[7F\x1b[J") == 1


def test_elsewhere_it_is_a_line_for_each_change(toys):
    toys.write({"a": {}, "b": {}}, a=RECIPE, b={**RECIPE, "model": {"tau": 2}})
    tasks = toys.tasks("a", "b")
    stream = io.StringIO()
    view = View("Toys", tasks, stream)
    view.show(1)
    tasks[0].state = "running"
    history(tasks[0], 1, accuracy="")
    view.show(1)
    view.show(1)
    tasks[0].state, tasks[0].note = "failed", "no such thing"
    view.close()
    clock = r"\d\d:\d\d:\d\d "
    assert re.fullmatch(
        clock + "Toys: 2 waiting; time left not known yet\n" + clock + "a/seed0  running  train 1/10\n"
        r"Toys\na/seed0  failed  no such thing  log: .*log\.txt\nb/seed0  waiting\n"
        "1 failed, 1 waiting; time left not known yet\n", stream.getvalue())
    assert summary(tasks[:1], 1) == "1 failed"


def test_the_last_line(tmp_path):
    path = tmp_path / "log.txt"
    assert last_line(path) == ""
    path.write_text("first\n 30%\r 60%\r100%\n\n", newline="")
    assert last_line(path) == "100%"
    path.write_text("x" * 10_000 + "\nlast ü", encoding="utf-8")
    assert last_line(path) == "last ü"


def test_real_runs_and_a_second_sweep_that_starts_none(toys, toy_system, toy_data, capsys):
    """Two that share their training and one over the size limit; one worker process for each."""
    toys.write({"toy": {}, "plain": {}, "large": {}})
    toy = {**yaml.safe_load(toy_system.read_text(encoding="utf-8"))}
    settings = {"toy": {"training": {**toy["training"], "epochs": 2}, "compression": {"enabled": True, "epochs": 1}},
                "plain": {"compression": {"enabled": False}}, "large": {"model": {"tau": 4}}}
    for name, base in (("toy", toy), ("plain", {"base": "toy.yaml"}), ("large", {"base": "plain.yaml"})):
        Path(f"{name}.yaml").write_text(yaml.safe_dump({**base, **settings[name]}))
    arguments = ["tables/table.yaml", "--data-root", str(toy_data[0]), "--eval-root", str(toy_data[1]), "--device",
                 "cpu", "--jobs", "2"]
    with pytest.raises(FallsShort):
        command.main(arguments, RUNNER)
    first = capsys.readouterr().out
    assert re.search(r"^toy/seed0  done  accuracy \d+\.\d %$", first, re.MULTILINE)
    assert re.search(r"^large/seed0  falls short  accuracy \d+\.\d %  the model is over the size limit: ", first,
                     re.MULTILINE)
    assert "the same training was done in" in Path("runs/plain/seed0/log.txt").read_text(encoding="utf-8")

    nothing = ("-c", "raise SystemExit(9)")
    with pytest.raises(FallsShort):
        command.main(arguments, nothing)
    second = capsys.readouterr().out
    assert second == first[-len(second):]
    with pytest.raises(InputError, match="2 of 3 runs failed"):  # the third has no package
        command.main([*arguments, "--retries", "0", "compression.ratio=0.6"], nothing)
