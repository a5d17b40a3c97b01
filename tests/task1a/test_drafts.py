"""A finished run is never lost: what is refused, what is replaced in one step, and what a kill leaves."""
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import yaml

from submission.rules import EDITIONS
from task1a.config import Config
from task1a.errors import InputError
from task1a.files import read_json, write_json
from task1a.pipeline import runner, stages
from task1a.pipeline.run import Run

pytestmark = pytest.mark.usefixtures("blank_figures")
TASK1A = Path(__file__).resolve().parents[2] / "task1a.py"
RUN = Path("runs/toy/seed0")


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder but locks, by name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*")
            if path.is_file() and path.name != ".lock"}


def another_set(toy_data, folder: Path) -> str:
    """A copy of the development set of which one training clip is another."""
    shutil.copytree(toy_data[0], folder)
    first, second = pd.read_csv(folder / "evaluation_setup" / "fold1_train.csv", sep="\t").filename[:2]
    shutil.copy(folder / second, folder / first)
    return str(folder)


@pytest.mark.parametrize("changes, message", [
    (["training.epochs=2", "data.workers=2"],
     "train: the finished model there would be replaced by another: training.epochs was 3, now 2. Nothing"),
    (["--stage", "data,features,train", "model.tau=0.5", "features.hop=400"],
     "features.hop was 800, now 400; model.tau was 0.4, now 0.5. Nothing was changed."),
    (["--stage", "compress", "compression.ratio=0.7"], "compress: the finished model there would be replaced by "
     "another: compression.ratio was 0.5, now 0.7. .* with --force --stage compress,complexity,predict,evaluate,pack"),
    (["training.precision=bf16-mixed", "training.momentum=0.5", "training.batch_size=8", "training.mixup_alpha=0",
      "training.roll_seconds=0"], "training.momentum was 0.9, now 0.5; training.precision .*; and 1 more. Nothing"),
    (["another set"], "^runs/toy/seed0/train: the finished model there would be replaced by another: data.root was .*, "
     "now .*another. Nothing was changed. Keep it and give the new run a folder of its own with --name NAME or --runs "
     "DIR, or replace it with --force$"),
])
def test_another_training_is_refused(again, arguments, toy_data, changes, message):
    before = contents(again / "runs")
    if changes == ["another set"]:
        changes = ["--data-root", another_set(toy_data, again / "another")]
    for _ in range(2):
        with pytest.raises(InputError, match=message):
            runner.main([*arguments, *changes])
    assert contents(again / "runs") == before


@pytest.mark.parametrize("stage", ["train", "compress"])
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text("{", encoding="utf-8")])
def test_a_model_without_its_record_is_refused(again, arguments, stage, damage):
    damage(RUN / "stages" / f"{stage}.json")
    before = contents(again / "runs")
    with pytest.raises(InputError, match=f"{stage}.json, the record of its inputs, is missing, "
                                         "damaged or of another version. Nothing was"):
        runner.main(arguments)
    assert contents(again / "runs") == before


def test_a_finished_run_without_its_checkpoints_is_left_alone(again, arguments):
    for stage in ("train", "compress"):
        (RUN / stage / "checkpoint.pt").unlink()
    before = contents(RUN)
    assert runner.main(arguments) == 0 and contents(RUN) == before
    with pytest.raises(InputError, match="training.calibrate was True, now False. Nothing was changed"):
        runner.main([*arguments, "training.calibrate=false"])  # it would have to be trained again
    assert contents(RUN) == before


def test_a_name_gives_a_folder_of_its_own(again, arguments, capsys):
    before = contents(RUN)
    given = [*arguments, "--name", "toy_input", "model.residual_norm=input", "training.epochs=2"]
    runner.main([*given, "--stage", "data,features,train,compress,complexity,predict,evaluate"])
    assert "\ntoy_input, seed 0, on the" in capsys.readouterr().out
    other = Path("runs/toy_input/seed0")
    assert (other / "evaluation.json").is_file() and contents(RUN) == before
    assert "system: toy\n" in (other / "config.yaml").read_text(encoding="utf-8")
    for name in ("../toy", "a/b", "", ".hidden"):
        with pytest.raises(InputError, match="--name .* may have letters"):
            runner.main([*arguments, "--name", name])


@pytest.mark.parametrize("config, folder, names", [
    ({"ensemble": ("a", "b")}, "both", ("a", "b")), ({"ensemble": ("a", "b")}, "tried", ("tried_a", "tried_b")),
    ({"device_models": ("s1",), "training": {"init_from": "a"}}, "both", ("a", "both_s1")),
    ({"device_models": ("s1",), "training": {"init_from": "a"}}, "tried", ("a", "tried_s1")), ({}, "tried", ("tried",)),
])
def test_model_names_of_a_named_run(config, folder, names):
    training = Config("x").training.__class__(**config.pop("training", {}))
    run = Run(Path("runs") / folder / "seed3", Config("both", training=training, **config))
    assert run.model_names == names
    assert [model.folder for model in run.models] == [Path("runs") / name / "seed3" for name in names]


def test_a_forced_run_replaces_everything_at_once(again, arguments, capsys):
    shutil.rmtree(RUN / "submission")  # a run without a package, and with files of others
    (RUN / "notes.txt").write_text("mine")
    before = contents(RUN)
    given = [*arguments, "training.epochs=2", "compression.epochs=1", "compression.enabled=false",
             "training.calibrate=false"]
    runner.main([*given, "--force", "--stage", "data,features,train,complexity,predict,evaluate"])
    after = contents(RUN)
    assert before.keys() - after.keys() == {"compress/packed.safetensors", "compress/packed.safetensors.xz",
                                            "compress/calibration.json"} and after.keys() <= before.keys()
    assert after["train/model.safetensors"] != before["train/model.safetensors"]
    runner.main([*given, "--runs", "others", "--stage", "data,features,train,complexity,predict,evaluate"])
    for name in ("train/model.safetensors", "predictions/test.csv", "evaluation.json", "complexity.json"):
        assert after[name] == (Path("others/toy/seed0") / name).read_bytes(), name
    assert not list(Path("runs").glob(".draft*"))


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("end", ["SIGKILL", pytest.param("SIGINT", marks=pytest.mark.slow),
                                 pytest.param("SIGTERM", marks=pytest.mark.slow), "full disk"])
def test_a_forced_run_that_ends_early_loses_nothing(again, start, arguments, end, capsys):
    """In the first epoch everything old is there, byte for byte; the same command goes on and replaces it."""
    before = contents(RUN)
    command = [TASK1A, *arguments, "training.epochs=4", "--force", "--stage", "data,features,train,compress"]
    if end == "full disk":
        limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))"
        ended = start(*command, before=limit).wait()
    else:
        ended = start(*command).when(lambda: list(Path("runs").glob(".draft-*/toy/seed0/train/history.csv")),
                                     getattr(signal, end))
    said, error = ended.stdout, ended.stderr
    assert ended.returncode == {"SIGKILL": -9, "SIGINT": 130, "SIGTERM": 143, "full disk": 2}[end], error
    assert contents(RUN) == before
    if end != "SIGKILL":
        assert "runs/toy/seed0 is as it was; what is done of its replacement is kept in runs/.draft-" in said
    if end == "full disk":
        assert "File too large" in error and error.count("\n") == 1
    if end in ("SIGINT", "SIGTERM"):
        return
    assert runner.main(arguments) == 0 and capsys.readouterr().out.count("] up to date") == 8  # the old run is whole
    finished = start(*command).wait()
    assert finished.returncode == 0 and "of this command, which was interrupted" in finished.stdout, finished.stderr
    after = contents(RUN)
    assert len(pd.read_csv(RUN / "train" / "history.csv")) == 4 and not list(Path("runs").glob(".draft*"))
    assert {name for name in before if before[name] != after.get(name)} >= {"train/model.safetensors", "config.yaml"}


@pytest.mark.parametrize("links", [True, False])
def test_a_replacement_that_is_killed_is_finished_by_the_next_command(again, arguments, monkeypatch, links):
    if not links:  # as on a file system without hard links
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("no links")))
    replaced, replace = [], os.replace

    def killed(source, target):
        if ".draft-" in str(source) and ".draft-" not in str(target):
            if len(replaced) == 3:
                raise KeyboardInterrupt
            replaced.append(target)
        return replace(source, target)

    given = [*arguments, "training.epochs=2", "--stage", "data,features,train"]
    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        runner.main([*given, "--force"])
    monkeypatch.setattr(os, "replace", replace)
    assert len(replaced) == 3
    draft, = Path("runs").glob(".draft-*/toy/seed0")
    planted = [*read_json(draft / "complete.json"), "../../../escaped.txt", "notes/escaped.txt"]
    write_json(draft / "complete.json", planted)
    assert runner.main(given) == 0  # everything is up to date
    after = contents(RUN)
    assert len(pd.read_csv(RUN / "train" / "history.csv")) == 2
    assert not {"evaluation.json", "report.html", "compress/packed.safetensors"} & after.keys()
    assert not list(Path("runs").glob(".draft*"))


@pytest.mark.parametrize("name", ["../../../OUT.txt", "train/../../../OUT.txt", "/tmp/OUT.txt", "notes/OUT.txt",
                                  "train\\\\..\\\\OUT.txt"])
def test_a_record_names_files_of_its_run_only(again, name):
    """The model of another run with the same training is copied by the names in its record."""
    record = read_json(RUN / "stages" / "train.json")
    write_json(RUN / "stages" / "train.json", {**record, "outputs": {**record["outputs"], name: "0" * 64}})
    assert Run(RUN).read_stage("train") is None and Run(RUN).read_stage("compress")


def test_results_stay_until_the_new_ones_are_made(again, arguments, monkeypatch, capsys):
    before = contents(RUN)
    monkeypatch.setattr("evaluation.metrics.evaluate", lambda *_, **__: (_ for _ in ()).throw(InputError("no")))
    with pytest.raises(InputError, match="^no$"):
        runner.main([*arguments, "evaluation.time_rolls=2"])
    assert contents(RUN) == before and not list(Path("runs").glob(".draft*"))


def test_an_interrupted_training_of_other_settings_is_refused(again, arguments):
    (RUN / "train" / "model.safetensors").unlink()
    record = read_json(RUN / "stages" / "train.json")
    write_json(RUN / "stages" / "train.json", {**record, "outputs": None})
    before = contents(RUN)
    with pytest.raises(InputError, match="the interrupted training there would be replaced .* training.epochs was 3"):
        runner.main([*arguments, "training.epochs=2"])
    assert contents(RUN) == before
    runner.main([*arguments, "--stage", "train"])  # goes on with the same settings
    assert contents(RUN)["train/checkpoint.pt"] == before["train/checkpoint.pt"]


def test_an_evaluation_set_that_comes_later_keeps_the_model(again, arguments, capsys):
    without = [*arguments[:4], *arguments[6:], "--runs", "later", "training.epochs=1", "compression.epochs=1"]
    runner.main(without)
    model = Path("later/toy/seed0/compress/packed.safetensors").read_bytes()
    runner.main([*arguments, "--runs", "later", "training.epochs=1", "compression.epochs=1"])
    said = capsys.readouterr().out
    assert Path("later/toy/seed0/compress/packed.safetensors").read_bytes() == model
    assert list(Path("later/toy/seed0/submission").glob("*.zip")) and said.count("[train] up to date") == 1


def test_a_refused_command_leaves_no_folder(again, arguments):
    with pytest.raises(InputError, match="meta.csv: no such file"):
        runner.main([*arguments, "--runs", "new", "--data-root", "nowhere"])
    assert not Path("new").exists()


PLAN = {
    "teacher": ({"compression": {"teachers": ["vanilla", "toy/seed7"]}}, "compression.teachers: .*no such model"),
    "initial model": ({"training": {"init_from": "nobody"}}, "training.init_from: .* train nobody/seed0 first"),
    "general model": ({"device_models": ["b"], "training": {"init_from": "nobody"}}, "training.init_from: .*nobody"),
    "device": ({"training": {"devices": ["s9", "a"]}}, "no training clips of s9; the devices are a, b, c, s1, s2, s3"),
    "validation": ({"training": {"validation_fraction": 0.01}}, "cannot be divided into 100 parts"),
    "authors": ({"submission": {"authors": "authors.yaml"}}, "authors.yaml, authors"),
    "device of the evaluation set": ({"device_models": ["b"], "training": {"init_from": "toy"}}, "device_id"),
    "member": ({"ensemble": ["toy", "bad"]}, "no training clips of s9"),
}


@pytest.mark.parametrize("settings, message", PLAN.values(), ids=PLAN)
def test_mistakes_are_found_before_anything_is_computed(again, system, arguments, settings, message, capsys):
    system("bad", training={"devices": ["s9"]})
    Path("authors.yaml").write_text("authors: [{firstname: A}]\n", encoding="utf-8")
    before = contents(Path("runs"))
    with pytest.raises(InputError, match=message):
        runner.main(["--system", system("planned", **settings), *arguments[2:]])
    assert "running" not in capsys.readouterr().out and contents(Path("runs")) == before


def test_the_general_model_of_device_models_is_trained_first(again, system, arguments, toy_data, capsys):
    general = system("general", training={"epochs": 1}, compression={"epochs": 1})
    tuned = system("tuned", device_models=["b"], training={"init_from": "general", "epochs": 1},
                   compression={"epochs": 1})
    assert yaml.safe_load(Path(general).read_text())["training"]["epochs"] == 1
    given = ["--system", tuned, "--data-root", str(toy_data[0])]
    runner.main(given)
    said = capsys.readouterr().out
    assert said.startswith("general model general/seed0\n") and "\nmember tuned_b/seed0\n" in said
    model = Path("runs/general/seed0/train/model.safetensors").stat().st_mtime_ns
    runner.main(given)
    assert "general model" not in capsys.readouterr().out  # it is there, and taken as it is
    assert Path("runs/general/seed0/train/model.safetensors").stat().st_mtime_ns == model


@pytest.mark.parametrize("year", ["2022", "2024", "2025"])
def test_an_evaluation_set_of_another_edition_is_not_packaged_for_2021(year):
    clips = pd.DataFrame({"filename": range(EDITIONS[year].clips)})
    dataset = SimpleNamespace(roots={"evaluation": Path("x")}, evaluation_clips=clips)
    run = SimpleNamespace(home=RUN, config=None)
    workspace = SimpleNamespace(dataset=lambda config: dataset)
    assert f"--edition {year}" in stages.no_submission(workspace, run)
    dataset.evaluation_clips = clips[:EDITIONS["2021"].clips]
    assert stages.no_submission(workspace, run) is None
