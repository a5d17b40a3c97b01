"""The command as people and other programs use it."""
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from submission import validate as command
from submission.rules import EDITIONS
from submission.validate import main
from task1a.errors import run_command

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def small(monkeypatch):
    """The command with evaluation sets of twelve clips."""
    monkeypatch.setattr(command, "EDITIONS", {year: replace(rules, clips=12) for year, rules in EDITIONS.items()})


def spoilt(package):
    """An error, a reason, a warning."""
    tree = yaml.safe_load(package.members[package.meta])
    tree["submission"]["authors"][0]["email"] = "me@example.com"
    tree["system"]["complexity"]["model_size"] = 127.0
    output = package.members[package.output].replace(b"\taudio", b"").replace(b"audio/3.wav\t", b"audio/3.wav\t\t")
    return package.members | {package.meta: yaml.safe_dump(tree).encode(), package.output: output}


@pytest.mark.parametrize("year", EDITIONS)
def test_valid(small, golden, write_zip, tmp_path, capsys, year):
    path = write_zip(tmp_path / "p.zip", golden(year).members)
    edition = [] if year == "2021" else ["--edition", year]
    assert main([str(path), *edition]) == 0
    assert capsys.readouterr().out == f"valid, and submittable to {EDITIONS[year].name}\n"
    assert main([str(path), "--json", *edition]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "package": str(path), "edition": year, "verdict": "valid",
        "counts": {"error": 0, "not_submittable": 0, "warning": 0}, "findings": []}


def test_what_is_told(small, golden, write_zip, tmp_path, capsys):
    path = write_zip(tmp_path / "p.zip", spoilt(golden()))
    assert main([str(path)]) == 1
    stem = "Kim_QTI_task1a_1"
    assert capsys.readouterr().out.splitlines() == [
        f"error: {stem}.output.csv, line 5: found 13 columns, expected 12",
        f"NOT SUBMITTABLE: {stem}.meta.yaml, submission.authors: found 'me@example.com', an author of the example, "
        "expected authors of your own (--authors FILE)",
        f"warning: {stem}.meta.yaml, system.complexity.model_size: found 130,048 bytes, expected at most 128,000 "
        "bytes, to be within the limit however its unit is read",
        "invalid package: 1 error"]
    assert main([str(path), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert list(told) == ["package", "edition", "verdict", "counts", "findings"]
    assert told["verdict"] == "invalid"
    assert told["counts"] == {"error": 1, "not_submittable": 1, "warning": 1}
    assert told["findings"][0] == {"level": "error", "file": f"{stem}.output.csv", "where": "line 5",
                                   "found": "13 columns", "expected": "12"}


def test_what_is_not_submittable_is_no_success_and_a_warning_is_none(small, golden, write_zip, tmp_path, capsys):
    package = golden()
    example = package.members[package.meta].replace(b"b.kim@qti.test", b"me@example.net")
    assert main([str(write_zip(tmp_path / "p.zip", package.members | {package.meta: example})), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["verdict"] == "not_submittable"
    doubtful = package.members[package.meta].replace(b"model_size: 31.5", b"model_size: 127")
    assert main([str(write_zip(tmp_path / "p.zip", package.members | {package.meta: doubtful}))]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "valid, and submittable to DCASE 2021 Task 1A"


def test_text_is_cut_and_json_is_not(small, golden, write_zip, tmp_path, capsys):
    package = golden()
    output = package.members[package.output] + b"audio/0.wav\tbus\n" * 70
    path = write_zip(tmp_path / "p.zip", package.members | {package.output: output})
    assert main([str(path)]) == 1
    *lines, more, verdict = capsys.readouterr().out.splitlines()
    assert len(lines) == 50
    assert more == "error: ... and 90 more, which submission.validate --json lists"
    assert verdict == "invalid package: 140 errors"
    main([str(path), "--json"])
    assert len(json.loads(capsys.readouterr().out)["findings"]) == 140


@pytest.mark.parametrize(("arguments", "told"), [
    (["none.zip"], "none.zip: no such zip or folder"),
    ([], "the following arguments are required: ZIP|FOLDER"),
    (["p.zip", "--edition", "2020"], "argument --edition: invalid choice: '2020'"),
    (["p.zip", "--edition", "2026"], "argument --edition: DCASE 2026 has no scene classification task; its Task 1 is "
                                     '"Heterogeneous Audio Classification". Choose from 2021, 2022, 2023, 2024, 2025'),
    (["p.zip", "--run"], "argument --run: expected one argument"),
])
def test_what_cannot_be_done_is_one_line(capsys, arguments, told):
    assert run_command(lambda: main(arguments)) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {told}")
    assert error.count("\n") == 1


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch, capsys):
    def refuse(*arguments):
        raise PermissionError(13, "Permission denied", str(tmp_path / "p.zip"))

    (tmp_path / "p.zip").write_bytes(b"")
    monkeypatch.setattr("submission.validation.archive.BoundedFile", refuse)
    assert run_command(lambda: main([str(tmp_path / "p.zip")])) == 2
    assert "Permission denied" in capsys.readouterr().err


def test_validating_needs_no_heavy_libraries(golden, write_zip, tmp_path):
    path = write_zip(tmp_path / "p.zip", golden().members)
    heavy = {"torch", "pandas", "scipy", "sklearn", "matplotlib", "dcase_util"}
    code = ("import sys; from submission import validate; validate.main(sys.argv[1:])\n"
            f"print(sorted({heavy} & sys.modules.keys()))")
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=REPOSITORY, capture_output=True, text=True,
                          check=True)
    assert done.stdout.splitlines()[-1] == "[]"
