import hashlib
import os

import pytest

from task1a.errors import FallsShort, InputError, run_command
from task1a.run_folder import digest, read_json, replacing, write_json, write_text


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    write_text(path, "first\n")
    with pytest.raises(RuntimeError), replacing(path) as part:
        part.write_text("half")
        raise RuntimeError
    assert path.read_bytes() == b"first\n"
    assert os.listdir(path.parent) == ["file.txt"]


def test_line_ends_and_letters_are_kept(tmp_path):
    write_text(tmp_path / "a", "ä\r\nb\n")
    assert (tmp_path / "a").read_bytes() == "ä\r\nb\n".encode()


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_files_are_readable_for_whom_the_umask_lets(tmp_path):
    write_text(tmp_path / "new", "")
    (tmp_path / "plain").write_text("")
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_json_round_trip_refuses_what_json_has_not(tmp_path):
    write_json(tmp_path / "a.json", {"ä": [1, 2.5, None]})
    assert read_json(tmp_path / "a.json") == {"ä": [1, 2.5, None]}
    with pytest.raises(ValueError):
        write_json(tmp_path / "b.json", float("nan"))
    assert not (tmp_path / "b.json").exists()


def test_digest_is_sha256(tmp_path):
    content = b"x" * 3_000_000
    (tmp_path / "a").write_bytes(content)
    assert digest(tmp_path / "a") == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("raised, status, said", [
    (InputError("a: wrong"), 2, "error: a: wrong\n"),
    (FileNotFoundError(2, "No such file", "b"), 2, "error: [Errno 2] No such file: 'b'\n"),
    (FallsShort("too large"), 1, "falls short: too large\n"),
    (KeyboardInterrupt(), 130, "interrupted; the same command goes on from here\n"),
])
def test_a_command_ends_with_a_status_and_one_line(capsys, raised, status, said):
    def main():
        raise raised

    assert run_command(main) == status
    assert capsys.readouterr().err == said
