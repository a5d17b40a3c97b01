"""What a command says and returns, whatever happens in it."""
import os
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


@pytest.mark.parametrize(("text", "shown"), [
    ("caf\udce9 Ä 日 e\u0301", r"caf\xe9 Ä 日 e" + "\u0301"),
    ("\x1b[2J\r\n\t\x00\x7f\x9b", r"\x1b[2J\r\n\t\x00\x7f\x9b"),
    ("\u202egnp\u2066\u2028", r"\u202egnp\u2066\u2028"),
    ("\ud800\udce9", r"\ud800\udce9"),
    (Path("a\u202fb\u200d.wav"), "a\u202fb\u200d.wav"),
])
def test_printable(text, shown):
    assert errors.printable(text) == shown


def command(code: str, redirection: str = "", **environment: str) -> tuple[int, str, str]:
    """Status and output of a command whose ``main`` is ``code``, started by a shell with a redirection."""
    program = f"import sys\nfrom task1a.errors import *\nfrom task1a.errors import run_command\n{code}\n"
    done = subprocess.run(["sh", "-c", f'"$0" -c "$1" {redirection}', sys.executable, program], capture_output=True,
                          env=os.environ | environment, text=True, errors="backslashreplace", timeout=60)
    return done.returncode, done.stdout, done.stderr


MAIN = r"""
def main():
    print("\u00c4\udce9\u65e5")
    sys.stderr.write("\u00e9\n")
    with open("/dev/null", "rb") as file:  # gets the number of a closed stream, unless that is occupied
        assert file.fileno() > 2 and sys.stdin.read() == ""
    raise InputError("a\x1bb\nc", "\u00f6")
sys.exit(run_command(main))"""


@pytest.mark.skipif(os.name == "nt", reason="of a POSIX shell")
@pytest.mark.parametrize("environment", [
    {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}, {"PYTHONIOENCODING": "latin-1"},
    {"PYTHONIOENCODING": "cp1252:strict"}, {"PYTHONOPTIMIZE": "2"}, {"PYTHONUNBUFFERED": "1"}])
@pytest.mark.parametrize("closed", ["</dev/null", "<&-", "<&- >&-", "<&- 2>&-", "<&- >&- 2>&-"])
def test_streams_of_every_kind(environment, closed):
    status, out, err = command(MAIN, closed, **environment)
    assert status == 2
    assert out == "" if ">&-" in closed.split() else r"\udce9" in out
    assert err == "" if "2>&-" in closed else r"error: a\x1bb\nc" in err


@pytest.mark.skipif(os.name == "nt", reason="of a POSIX locale")
@pytest.mark.parametrize(("utf8", "status", "said"), [("0", 2, r"'\\xfc', which this locale \(ascii\) .* PYTHONUTF8=1"),
                                                      ("1", 2, "No such file or directory: 'Z\u00fcrich'")])
def test_a_file_name_beyond_the_locale(utf8, status, said):
    found = command("sys.exit(run_command(lambda: len(open('Z\\u00fcrich').read())))", LC_ALL="C",
                    PYTHONCOERCECLOCALE="0", PYTHONUTF8=utf8)
    assert found[0] == status and re.search(said, found[2]) and found[2].count("\n") == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no full device")
def test_a_full_disk_under_the_output():
    assert command("sys.exit(run_command(lambda: print('x') or 0))", ">/dev/full") == (
        2, "", "error: [Errno 28] No space left on device\n")
    assert command("def main():\n print('x')\n raise FallsShort('y')\nsys.exit(run_command(main))", ">/dev/full",
                   PYTHONUNBUFFERED="") == (1, "", "falls short: y\n")
    assert command("def main():\n raise InputError('y')\nsys.exit(run_command(main))", "2>/dev/full")[0] == 2


def test_a_defect_without_a_temporary_folder(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(errors.tempfile, "tempdir", str(tmp_path / "missing"))
    assert run_command(raising(KeyError("x"))) == 3
    assert capsys.readouterr().err.startswith("Traceback")


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize(("ignored", "sent", "status", "said"), [
    ("", "INT", 130, "interrupted; "), ("", "TERM", 143, "interrupted by SIGTERM; "),
    ("", "HUP", 129, "interrupted by SIGHUP; "), ("trap '' HUP; ", "HUP", 7, "")])
def test_signals_end_a_command_in_one_line(ignored, sent, status, said):
    code = ("import os, signal, sys, time\nfrom task1a.errors import run_command\n"
            f"def main():\n try:\n  os.kill(os.getpid(), signal.SIG{sent})\n  time.sleep(0.1)\n"
            " finally:\n  print('cleaned')\n return 7\nsys.exit(run_command(main))")
    done = subprocess.run(["sh", "-c", f'{ignored}exec "$0" -c "$1"', sys.executable, code], text=True,
                          capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (status, "cleaned\n")
    assert done.stderr == (f"{said}run the same command again to resume\n" if said else "")


def test_counted():
    assert [errors.counted(number, "clip") for number in (0, 1, 2000)] == ["0 clips", "1 clip", "2,000 clips"]
    assert errors.counted(2, "city", "cities") == "2 cities" and errors.counted(1, "city", "cities") == "1 city"


def test_a_reader_that_ends_is_no_error():
    code = "from task1a.errors import run_command; raise SystemExit(run_command(lambda: print('x' * 10 ** 6) or 0))"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    child.stdout.read(10)
    child.stdout.close()
    assert (child.stderr.read(), child.wait()) == ("", 141)
    child.stderr.close()
