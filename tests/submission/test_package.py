import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from submission import package as packaging
from submission.package import main, package
from submission.validate import main as validate_main
from submission.validate import validate
from task1a.errors import InputError, run_command

TEAM = "Muller-Los_UGraz"
REPOSITORY = Path(__file__).parents[2]


def files_below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_full_size_package_has_the_official_hierarchy_and_is_submittable(full, capsys):
    _, out, report = full
    assert report.zip == out / f"{TEAM}_task1.zip"
    assert report.findings == ()
    names = [f"{TEAM}_task1a_{n}/{TEAM}_task1a_{n}.{kind}" for n in (1, 2) for kind in ("meta.yaml", "output.csv")]
    assert files_below(out) == sorted([*names, f"{TEAM}_task1.zip"])
    with zipfile.ZipFile(report.zip) as archive:
        assert archive.namelist() == [f"{TEAM}_task1/task1/{name}" for name in names]  # forward slashes, sorted
        for name in names:
            assert archive.read(f"{TEAM}_task1/task1/{name}") == (out / name).read_bytes()
    for path in (report.zip, out):
        assert validate_main([str(path)]) == 0
    assert capsys.readouterr().out == "valid, and submittable to DCASE 2021 Task 1A\n" * 2


def test_output_csv_as_other_readers_see_it(full, said):
    runs, out, _ = full
    path = out / f"{TEAM}_task1a_2" / f"{TEAM}_task1a_2.output.csv"
    table = pd.read_csv(path, sep="\t")
    given = pd.read_csv(runs[1] / "predictions" / "evaluation.csv", sep="\t")
    assert tuple(table.columns) == ("filename", "scene_label", *said.labels)
    assert list(table.filename) == [f"audio/{index}.wav" for index in range(7920)]
    values = table[list(said.labels)].to_numpy()
    np.testing.assert_array_equal(values.astype(np.float32), given[list(said.labels)].to_numpy().astype(np.float32))
    assert list(table.scene_label) == [said.labels[index] for index in values.argmax(1)]
    assert b"\r" not in path.read_bytes()


def test_output_csv_in_the_official_container(full, said):
    containers = pytest.importorskip("dcase_util.containers")
    _, out, _ = full
    meta = containers.MetaDataContainer().load(str(out / f"{TEAM}_task1a_1" / f"{TEAM}_task1a_1.output.csv"))
    assert len(meta) == 7920
    assert meta.unique_scene_labels == sorted(said.labels)


def test_same_runs_same_bytes(full, authors, tmp_path):
    runs, _, report = full
    moved = [shutil.copytree(run, tmp_path / "elsewhere" / run.name) for run in runs]
    for run in moved:
        os.utime(run / "config.yaml", (0, 0))
    assert package(moved, authors, tmp_path / "out").zip.read_bytes() == report.zip.read_bytes()


def test_other_data_is_packaged_but_not_submittable(tmp_path, make_run, capsys):
    labels = ("birdsong", "office", "train")
    run = make_run(tmp_path / "run", labels=labels, devices=("a", "s1"), clips=5, demo=True)
    assert main([str(run), "--out", str(run / "submission")]) == 0
    told = capsys.readouterr().out
    assert files_below(run / "submission") == ["Lastname_INST_task1.zip",
                                               "Lastname_INST_task1a_1/Lastname_INST_task1a_1.meta.yaml",
                                               "Lastname_INST_task1a_1/Lastname_INST_task1a_1.output.csv"]
    reasons = [line for line in told.splitlines() if line.startswith("NOT SUBMITTABLE: ")]
    for reason in ("birdsong office train", "5 files, 0 of them not of the evaluation set, 7,915 of it missing",
                   "the devices a s1", "trained on demo data", "an author of the example"):
        assert sum(reason in line for line in reasons) == 1, reason
    assert len(reasons) == 5
    assert "error: " not in told
    [path] = run.rglob("*.meta.yaml")
    meta = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert meta["submission"]["name"] == "BC-ResNet-ASC-1 (demo data)"
    assert list(meta["results"]["development_dataset"]["class_wise"]) == list(labels)
    assert validate_main([str(run / "submission" / "Lastname_INST_task1.zip")]) == 1


@pytest.mark.parametrize(("size", "made", "levels"), [(128_000, True, []), (128_001, True, ["warning"]),
                                                      (131_072, True, ["warning"]), (131_073, False, ["error"])])
def test_size_limit(tmp_path, make_run, authors, small_rules, size, made, levels):
    report = package([make_run(tmp_path / "run", clips=12, size=size)], authors, tmp_path / "out", small_rules)
    assert [finding.level for finding in report.findings] == levels
    assert all("model_size" in finding.where for finding in report.findings)
    assert (report.zip is not None) == made
    assert bool(files_below(tmp_path / "out")) == made


def spoil_predictions(run):
    path = run / "predictions" / "evaluation.csv"
    header, first, *rows = path.read_text().splitlines()
    path.write_text("\n".join((header, first, first, *rows)) + "\n")


def spoil_results(run):
    record = json.loads((run / "evaluation.json").read_text())
    record["overall"]["logloss"] = None
    (run / "evaluation.json").write_text(json.dumps(record))


@pytest.mark.parametrize(("spoil", "told"), [(spoil_predictions, "'audio/0.wav' again"), (spoil_results, "found null")])
def test_malformed_package_leaves_nothing_not_even_the_older_one(tmp_path, make_run, authors, capsys, spoil, told):
    run, out = make_run(tmp_path / "run", clips=4), tmp_path / "out"
    arguments = [str(run), "--authors", str(authors), "--out", str(out)]
    assert main(arguments) == 0
    label = out / f"{TEAM}_task1a_1"
    (label / "notes.txt").write_text("mine")
    (out / "report.zip").write_text("mine")
    spoil(run)
    assert main(arguments) == 1
    assert told in capsys.readouterr().out
    assert files_below(out) == [f"{TEAM}_task1a_1/notes.txt", "report.zip"]


def test_a_smaller_package_replaces_all_of_a_larger_one(tmp_path, make_run, authors):
    runs = [make_run(tmp_path / f"seed{seed}", clips=2) for seed in range(3)]
    package(runs, authors, tmp_path / "out")
    package(runs[:1], None, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"Lastname_INST_task1a_1", "Lastname_INST_task1.zip"}


@pytest.mark.parametrize("failing", ["write_text", "validate", "zip_bytes"])
def test_failure_on_the_way_leaves_nothing(tmp_path, make_run, authors, monkeypatch, failing):
    run, out = make_run(tmp_path / "run", clips=2), tmp_path / "out"
    package([run], authors, out)
    calls = []

    def fail(*arguments):
        calls.append(arguments)
        if failing != "write_text" or len(calls) == 2:  # the first of the two files is on disk by then
            raise KeyboardInterrupt
        arguments[0].parent.mkdir(exist_ok=True)
        arguments[0].write_text("x")

    monkeypatch.setattr(packaging, failing, fail)
    with pytest.raises(KeyboardInterrupt):
        package([run], authors, out)
    assert calls
    assert list(out.iterdir()) == []


@pytest.mark.parametrize(("content", "told"), [
    (None, "predictions/evaluation.csv: no such file; make it with: python task1a.py --stage predict"),
    ("", "not a prediction table"),
    ("filename\tscene_label\ta\tb\n", "holds no clip, so there is nothing to submit"),
    ("filename\tscene_label\ta\tb\naudio/0.wav\ta\t0.5\n", "line 2: expected a filename, a label and 2 numbers"),
])
def test_no_predictions_no_package(tmp_path, make_run, authors, capsys, content, told):
    run = make_run(tmp_path / "run", clips=1)
    path = run / "predictions" / "evaluation.csv"
    path.unlink() if content is None else path.write_text(content)
    assert run_command(lambda: main([str(run), "--authors", str(authors), "--out", str(tmp_path / "out")])) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert told in error.replace(os.sep, "/")
    assert not (tmp_path / "out").exists()


def test_wrong_runs(tmp_path, make_run, authors):
    run = make_run(tmp_path / "run", clips=1)
    for runs, told in (([run] * 2, "given twice"), ([tmp_path / "no"], "no such run folder"), ([], "0 runs given"),
                       ([tmp_path / str(n) for n in range(5)], "5 runs given; a team hands in 1 to 4")):
        with pytest.raises(InputError, match=told):
            package(runs, authors, tmp_path / "out")
    (run / "complexity.json").write_text("{}")
    with pytest.raises(InputError, match=r"records are incomplete \('policies'\)"):
        package([run], authors, tmp_path / "out")


def test_commands_start_without_torch():
    code = ("import sys, submission.package, submission.validate\n"
            "print([m for m in ('torch', 'dcase_util', 'pydantic', 'scipy') if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_part_is_checked_before_it_takes_its_name(tmp_path, make_run, authors, monkeypatch):
    run, out, seen = make_run(tmp_path / "run", clips=1), tmp_path / "out", []

    def look(path, rules):
        seen.append((zipfile.is_zipfile(path), files_below(out) == [path.name], (out / f"{TEAM}_task1.zip").exists()))
        return validate(path, rules)

    monkeypatch.setattr(packaging, "validate", look)
    package([run], authors, out)
    assert seen == [(True, True, False)]
