"""Files that appear complete or not at all, and the strict reader of YAML."""
import datetime
import errno
import hashlib
import os
import re
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from task1a import files
from task1a.errors import InputError
from task1a.files import Busy, YAMLError, exclusive, parse_yaml, read_yaml


def test_what_is_written_is_plain_yaml_to_every_reader():
    text = "a: 1\nb: [x, 'y', 2.5, null, true]\nc:\n  d: 2020-01-02\n"
    assert parse_yaml(text) == yaml.safe_load(text) == {
        "a": 1, "b": ["x", "y", 2.5, None, True], "c": {"d": datetime.date(2020, 1, 2)}}
    assert parse_yaml(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n") == {"a": 1, "b": 2}


@pytest.mark.parametrize("content, problem, line", [
    ("a: 1\na: 2", "repeated key 'a'", 2),
    ("a: {b: 1, 'b': 2}", "repeated key 'b'", 1),
    ("a: &x 1\nb: *x", "references (*)", 2),
    ("a: &a [*a]", "references (*)", 1),
    ("a: 1\x85b: 2", r"the line separator '\x85'", 1),
    ("a: 1\nb: 2\u2028c: 3", r"the line separator '\u2028'", 2),
    ("a: 1\u2029b: 2", r"the line separator '\u2029'", 1),
    ("[" * 60 + "]" * 60, "more than 50 levels", 1),
    ("[" * 100_000, "more than 50 levels", 1),
    ("- " * 100_000, "more than 50 levels", 1),
    ("a: [", "expected", 1),
    ("a: \x07", "special characters", None),
    ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor", 1),
    ("a: 1\nb: 2020-13-45", "no valid timestamp: '2020-13-45'", 2),
    ("a: " + "9" * 5000, "no valid int: '999", 1),
    ("a: !!bool maybe", "no valid bool: 'maybe'", 1),
    ("a: 1\nb: [2, !!timestamp x]", "no valid timestamp: 'x'", 2),
    ("a: !!int ''", "no valid int: ''", 1),
    ("a: !!float ''", "no valid float: ''", 1),
    ("!!int x: 1", "no valid int: 'x'", 1),
    ("a: !!set [1]", "expected a mapping node", 1),
    ("a: !!omap {b: 1}", "expected a sequence", 1),
    ("a: !!binary Ä", "failed to", 1),
    ('a: "\\ud800"', r"no valid str: '\ud800'", 1),
    (b"a: \xff", "not UTF-8 text", None),
    ("a: \ud800", "not UTF-8 text", None),
    ("{[a]: 1}", "unhashable key", 1),
    ("--- a\n--- b", "another document", 2),
])
def test_what_is_not_plain_yaml_is_refused_with_its_line(content, problem, line):
    started = time.monotonic()
    with pytest.raises(YAMLError) as error:
        parse_yaml(content)
    assert problem in error.value.problem and error.value.line == line
    assert "\n" not in str(error.value) and len(str(error.value)) < 400
    assert time.monotonic() - started < 10


def test_an_alias_bomb_costs_nothing(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]" for k in range(1, 10)]
    (tmp_path / "bomb.yaml").write_text("\n".join(lines), encoding="utf-8")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match="bomb.yaml: not valid YAML: line 2: references"):
        read_yaml(tmp_path / "bomb.yaml")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_a_huge_file_is_not_read(tmp_path):
    with open(tmp_path / "huge.yaml", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match="huge.yaml: 1,099,511,627,776 bytes; a YAML file has at most 1,048,576"):
        read_yaml(tmp_path / "huge.yaml")


def test_a_file_appears_complete_or_not_at_all(tmp_path):
    path = tmp_path / "below" / "a.txt"
    files.write_text(path, "first\n")
    with pytest.raises(ZeroDivisionError), files.replacing(path) as part:
        part.write_text("half")
        raise ZeroDivisionError
    assert path.read_bytes() == b"first\n" and [other.name for other in path.parent.iterdir()] == ["a.txt"]
    assert files.digest(path) == hashlib.sha256(b"first\n").hexdigest()


def test_every_writer_has_its_part(tmp_path):
    """Of two writers at a time, each has a file of its own, and a planted link has no name that is used."""
    with files.replacing(tmp_path / "a") as first, files.replacing(tmp_path / "a") as second:
        assert first != second and first.parent == second.parent == tmp_path
        first.write_text("first")
        second.write_text("second")
        with files.replacing(tmp_path / "b") as third:
            names = {re.sub("[0-9a-f]{16}", "*", part.name) for part in (first, second, third)}
            assert names == {".task1a-*.part"}
            third.write_text("x")
    assert (tmp_path / "a").read_text() == "first"
    for age, name in ((3500, ".task1a-1.part"), (3700, ".task1a-2.part"), (9999, ".other.part")):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age, time.time() - age))
    files.write_text(tmp_path / "a", "")
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", ".task1a-1.part", ".other.part"}
    files.remove_parts(tmp_path.parent)
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", ".other.part"}


@pytest.mark.skipif(os.name == "nt", reason="links of POSIX")
def test_a_planted_link_is_not_followed(tmp_path, monkeypatch):
    (tmp_path / "outside").write_text("mine")
    monkeypatch.setattr(files.secrets, "token_hex", lambda _: "0" * 16)
    os.symlink("outside", tmp_path / f".task1a-{'0' * 16}.part")
    with pytest.raises(FileExistsError):
        files.write_text(tmp_path / "a", "x")
    os.symlink("outside", tmp_path / "a")
    files.write_text(tmp_path / "a", "x")
    assert (tmp_path / "outside").read_text() == "mine" and not (tmp_path / "a").is_symlink()


@pytest.mark.parametrize("write", [lambda path: files.write_text(path, "x"), files.remove])
def test_a_folder_in_the_place_of_a_file_is_named(write, tmp_path):
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(InputError, match="a.txt: is a folder where a file belongs; remove it"):
        write(tmp_path / "a.txt")
    files.remove(tmp_path / "missing.txt")


def test_line_ends_and_letters_are_kept(tmp_path):
    files.write_text(tmp_path / "a", "ä\r\nb\n")
    assert (tmp_path / "a").read_bytes() == "ä\r\nb\n".encode()


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_files_are_readable_for_whom_the_umask_lets(tmp_path):
    files.write_text(tmp_path / "new", "")
    (tmp_path / "plain").write_text("")
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_json_round_trip_refuses_what_json_has_not(tmp_path):
    files.write_json(tmp_path / "a.json", {"ä": [1, 2.5, None]})
    assert files.read_json(tmp_path / "a.json") == {"ä": [1, 2.5, None]}
    with pytest.raises(ValueError):
        files.write_json(tmp_path / "b.json", float("nan"))
    assert not (tmp_path / "b.json").exists()


@pytest.mark.skipif(os.name == "nt", reason="devices and links of POSIX")
def test_output_follows_a_link_and_keeps_a_device(tmp_path):
    os.symlink("target", tmp_path / "link")
    files.write_output(tmp_path / "link", "a")
    files.write_output(tmp_path / "link", "b")
    assert os.readlink(tmp_path / "link") == "target" and (tmp_path / "target").read_text() == "b"
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    files.write_output(tmp_path / "pipe", "c")
    assert os.read(reader, 9) == b"c" and (tmp_path / "pipe").is_fifo()
    os.close(reader)
    files.check_outputs({"--csv": Path("/dev/null"), "--json": Path("/dev/null")}, [Path("/dev/null")])


HOLD = """
import sys
from pathlib import Path
from task1a.files import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_ends_with_its_process(tmp_path, capsys):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "below" / "lock")], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as other:
        assert other.stdout.readline().strip() == b"held"
        with pytest.raises(Busy, match="below: another process is working there"), exclusive(tmp_path / "below/lock"):
            pass
        threading.Timer(0.5, other.kill).start()
        with exclusive(tmp_path / "below" / "lock", "waiting for it"):
            (tmp_path / "below" / "lock").unlink()
            assert other.wait(10) and capsys.readouterr().err == "waiting for it\n"
            with exclusive(tmp_path / "below" / "lock"), pytest.raises(Busy), exclusive(tmp_path / "below" / "lock"):
                pass
    with exclusive(tmp_path / "below" / "lock"):
        pass


@pytest.mark.skipif(os.name == "nt", reason="errors of POSIX")
@pytest.mark.parametrize(("call", "number", "message"), [
    ("fcntl.flock", errno.ENOLCK, "its file system offers no locks .*; choose a folder on a local disk"),
    ("fcntl.flock", errno.ENOSYS, "its file system offers no locks"),
    ("fcntl.flock", errno.EOPNOTSUPP, "its file system offers no locks"),
    ("fcntl.flock", errno.EWOULDBLOCK, "another process"),
    ("os.open", errno.EACCES, "lock: cannot be opened for writing .Permission denied.; choose a folder"),
    ("os.open", errno.EROFS, "cannot be opened for writing .Read-only file system"),
])
def test_a_lock_that_cannot_be_had(tmp_path, monkeypatch, call, number, message):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(call, fail)
    with pytest.raises(InputError, match=message) as raised, exclusive(tmp_path / "lock"):
        pass
    assert isinstance(raised.value, Busy) == (number == errno.EWOULDBLOCK)
