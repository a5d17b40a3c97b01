import io
import json
import re
import subprocess
import sys

import pandas as pd
import pytest

from evaluation.markdown import section
from evaluation.metrics import evaluate
from evaluation.per_device import format_table, main, notes, summary
from task1a.errors import run_command

TABLE = """\
Scene    | Logloss |       A       B      S1      S4 | Accuracy
-------- | ------- | ------- ------- ------- ------- | --------
bus      |   0.693 |   1.040       -   0.693   0.000 |    75.0%
park     |  12.708 |   0.693  36.044   1.386       - |    33.3%
tram     |   0.693 |       -       -       -   0.693 |   100.0%
-------- | ------- | ------- ------- ------- ------- | --------
Logloss  |   5.199 |   0.924  36.044   1.040   0.347 |
Accuracy |         |   75.0%    0.0%   50.0%  100.0% |    69.4%

Devices  | Logloss | Accuracy
-------- | ------- | --------
real     |   9.704 |    50.0%
seen     |   6.816 |    50.0%
unseen   |   0.347 |   100.0%
"""

NOTES = """\

expected calibration error 25.0 %
log loss with probabilities clipped to [2.2e-16, 1 - 2.2e-16]
1 clip with probability 0 for the true scene: audio/park-oslo-2-1-b.wav
"""

SUMMARY = """\
device   accuracy  95 % interval  log loss    95 % interval
a           75.0%              -     0.924                -
b            0.0%              -    36.044                -
s1          50.0%              -     1.040                -
s4         100.0%              -     0.347                -
overall     69.4%  12.3 to 100.0     5.199  0.000 to 14.570
"""


@pytest.fixture
def data_root(tmp_path, reference):
    """A development set whose test split is ``reference``; trained on devices a, b and s1."""
    root = tmp_path / "tiny-development"
    setup = root / "evaluation_setup"
    setup.mkdir(parents=True)
    simulated = reference.device.isin(["s1", "s4"]).map({True: "yes", False: "no"})
    test = reference.assign(identifier="oslo-1", source_label=reference.device, simulated=simulated)
    test = test.drop(columns="device")
    train = test.loc[[0, 3, 4]].assign(filename=["audio/t0.wav", "audio/t1.wav", "audio/t2.wav"], identifier="rome-9")
    write(root / "meta.csv", train, mode="w")
    write(root / "meta.csv", test, mode="a")
    write(setup / "fold1_train.csv", train[["filename", "scene_label"]])
    write(setup / "fold1_test.csv", test[["filename"]])
    write(setup / "fold1_evaluate.csv", test[["filename", "scene_label"]])
    return root


def write(path, table, mode="w"):
    table.to_csv(path, sep="\t", index=False, header=mode == "w", mode=mode, lineterminator="\n")
    return str(path)


def test_table_and_summary(reference, predictions):
    results = evaluate(reference, predictions, seen_devices=["a", "b", "s1"])
    assert format_table(results) == TABLE
    results["intervals"]["overall"] = {"accuracy": (12.3, 100.0), "logloss": (0.0, 14.57)}
    assert summary(results) == SUMMARY


def test_names_cannot_steer_a_terminal(reference, predictions):
    names = {"bus": "\x1b[2Jbus", "tram": "tram\u202e", "s4": "s\x9b4", "audio/park-oslo-2-1-b.wav": "audio/\x07.wav"}
    results = evaluate(reference.replace(names), predictions.replace(names).rename(columns=names))
    text = format_table(results) + summary(results) + "\n".join(notes(results))
    text += section("\x1b", [list(names.values())], "<<<<", ["\x07"])
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)
    for name in (r"\x1b[2Jbus |", r"tram\u202e |", r" S\x9b4 ", r"s\x9b4  ", r"audio/\x07.wav", r"## \x1b"):
        assert name in text


def test_long_names_keep_the_columns_in_line(reference, predictions):
    renamed = reference.replace({"device": {"s4": "headphones"}})
    lines = format_table(evaluate(renamed, predictions)).splitlines()
    assert lines[0] == "Scene    | Logloss |       A       B HEADPHONES      S1 | Accuracy"
    assert lines[4] == "tram     |   0.693 |       -       -      0.693       - |   100.0%"
    assert lines[-2:] == ["seen     |       - |        -", "unseen   |       - |        -"]


def test_command_prints_the_table_and_writes_the_scores(tmp_path, data_root, predictions, capsys):
    path = write(tmp_path / "test.csv", predictions)
    scores = tmp_path / "out" / "evaluation.json"
    assert main([path, "--data-root", str(data_root), "--json", str(scores)]) == 0
    assert capsys.readouterr().out == TABLE + NOTES
    written = json.loads(scores.read_text(encoding="utf-8"))
    assert list(written)[:3] == ["data", "labels", "devices"] and written.keys() > {"overall", "intervals", "left_out"}
    assert written["data"] == {"name": "tiny-development", "demo": False, "clips": 8}
    assert written["left_out"] == []
    assert written["device_groups"]["unseen"] == {"logloss": pytest.approx(0.34657359), "accuracy": 100}


def test_other_formats_have_the_scores_by_device(tmp_path, data_root, predictions, capsys):
    (data_root / "DEMO_DATA.txt").touch()
    command = [write(tmp_path / "test.csv", predictions), "--data-root", str(data_root), "--format"]
    main([*command, "markdown"])
    text = capsys.readouterr().out
    head = next(line for line in text.splitlines() if line.startswith("|"))
    assert [cell.strip() for cell in head.strip("|").split("|")] == [
        "device", "accuracy", "95 % interval", "log loss", "95 % interval"]
    assert "- demo data: figures say nothing about real recordings" in text and "- 1 clip with probability 0" in text
    main([*command, "csv"])
    told = capsys.readouterr()
    table = pd.read_csv(io.StringIO(told.out), index_col="device")
    assert list(table) == ["accuracy", "accuracy_low", "accuracy_high", "logloss", "logloss_low", "logloss_high"]
    assert table.accuracy.to_dict() == pytest.approx({"a": 75, "b": 0, "s1": 50, "s4": 100, "overall": 625 / 9})
    assert told.err == "demo data: figures say nothing about real recordings\n"


def test_command_marks_demo_data(tmp_path, data_root, predictions, capsys):
    (data_root / "DEMO_DATA.txt").touch()
    main([write(tmp_path / "test.csv", predictions), "--data-root", str(data_root), "--json", str(tmp_path / "scores")])
    assert capsys.readouterr().out == f"demo data: figures say nothing about real recordings\n\n{TABLE}{NOTES}"
    assert json.loads((tmp_path / "scores").read_text(encoding="utf-8"))["data"]["demo"] is True


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda table: table[:5], "missing 3 of 8 clips of the reference"),
    (lambda table: table[["filename"]], "no column 'scene_label'"),
    (lambda table: table[["filename", "scene_label"]], "no column of probabilities for 3 scene labels"),
])
def test_command_refuses_partial_and_unlabelled_predictions(tmp_path, data_root, predictions, capsys, spoil, message):
    path = write(tmp_path / "test.csv", spoil(predictions))
    scores = tmp_path / "evaluation.json"
    assert run_command(lambda: main([path, "--data-root", str(data_root), "--json", str(scores)])) == 2
    output = capsys.readouterr()
    assert message in output.err and output.err.count("\n") == 1 and not output.out
    assert not scores.exists()


@pytest.mark.parametrize("name", ["test.csv", "link.csv", "tiny-development/meta.csv", "tiny-development"])
def test_scores_never_replace_an_input(tmp_path, data_root, predictions, capsys, name):
    path = write(tmp_path / "test.csv", predictions)
    (tmp_path / "link.csv").symlink_to("test.csv")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*.csv")}
    command = [path, "--data-root", str(data_root), "--json", str(tmp_path / name)]
    assert run_command(lambda: main(command)) == 2
    assert capsys.readouterr().err.startswith(f"error: --json {tmp_path / name}: is ")
    assert before == {file: file.read_bytes() for file in tmp_path.rglob("*.csv")}


def test_module_runs_as_a_command(tmp_path, data_root, predictions):
    command = [sys.executable, "-m", "evaluation.per_device", "--data-root", str(data_root)]
    good = subprocess.run([*command, write(tmp_path / "test.csv", predictions)], capture_output=True, text=True)
    assert (good.returncode, good.stdout, good.stderr) == (0, TABLE + NOTES, "")
    bad = subprocess.run([*command, str(tmp_path / "none.csv")], capture_output=True, text=True)
    assert bad.returncode == 2 and bad.stderr.startswith("error: ") and "no such file" in bad.stderr
