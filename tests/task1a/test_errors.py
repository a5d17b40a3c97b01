"""What a command says and returns, whatever happens in it."""
import re
import subprocess
import sys
from pathlib import Path

import pytest

from task1a import errors
from task1a.errors import CommandParser, FallsShort, InputError, run_command


def raising(error: BaseException):
    def main() -> int:
        raise error
    return main


@pytest.mark.parametrize("error, status, said", [
    (InputError("x.yaml: no such file"), 2, "error: x.yaml: no such file"),
    (FileNotFoundError(2, "No such file or directory", "x"), 2, "error: [Errno 2] No such file or directory: 'x'"),
    (FallsShort("too large"), 1, "falls short: too large"),
    (KeyboardInterrupt(), 130, "interrupted; run the same command again to resume"),
    (MemoryError(), 2, "error: this command ran out of memory"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), 2, "error: this comm"),
])
def test_every_end_has_its_status_and_one_line(error, status, said, capsys):
    assert run_command(raising(error)) == status
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith(said)


def test_a_status_is_passed_on():
    assert run_command(lambda: 1) == 1


def test_a_defect_is_told_in_one_line_and_its_traceback_is_written_to_a_file(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(errors.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["task1a.py", "--stage", "all"])

    def main() -> int:
        with errors.during("stage train of runs/toy/seed0"), errors.during("the whole chain"):
            return 1 // 0

    assert run_command(main) == 3
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("unexpected error in the whole chain: ZeroDivisionError: integer division or modulo by ze")
    [report] = tmp_path.iterdir()
    assert f"with the traceback in {report} (--debug prints it)" in line
    text = report.read_text(encoding="utf-8")
    assert text.startswith("task1a.py --stage all\n") and "return 1 // 0" in text


def test_debug_prints_the_traceback(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(errors.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["task1a.py", "--debug"])
    assert run_command(raising(KeyError("a\nb"))) == 3
    said = capsys.readouterr().err
    assert said.startswith("Traceback")
    assert re.search(r"^unexpected error in this command: KeyError: .*above$", said, re.MULTILINE)
    assert not list(Path(tmp_path).iterdir())


def test_wrong_arguments_are_an_input_error():
    parser = CommandParser(prog="x")
    assert parser.parse_args(["--debug"]).debug
    with pytest.raises(InputError, match="^unrecognized arguments: --nothing; see x --help$"):
        parser.parse_args(["--nothing"])


def test_values_are_quoted_in_a_few_characters():
    assert errors.shown("a\nb") == r"'a\nb'"
    for value in ("x" * 10**6, [[[[[[[[["deep"] * 9] * 9]]]]]] * 9], 10**5000, {str(k): "y" * 99 for k in range(999)}):
        assert len(errors.shown(value)) < 1000


def test_a_reader_that_ends_is_no_error():
    code = "from task1a.errors import run_command; raise SystemExit(run_command(lambda: print('x' * 10 ** 6) or 0))"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    child.stdout.read(10)
    child.stdout.close()
    assert (child.stderr.read(), child.wait()) == ("", 141)
    child.stderr.close()
