"""The command ``task1a``, which starts every other command."""
import re
from pathlib import Path

import pytest

import task1a
from task1a.__main__ import COMMANDS, main
from task1a.errors import CommandParser, InputError

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def program(monkeypatch):
    monkeypatch.setattr(CommandParser, "program", None)
    monkeypatch.setattr(CommandParser, "example", "")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0 and shown.startswith(f"usage: task1a {name} ")
    assert f"Example: task1a {name} {COMMANDS[name].example}".rstrip() in re.sub(r"(?<=\w)- ", "-", shown)


def test_examples_are_complete(monkeypatch, tmp_path):
    """Each example is understood: it fails, if at all, for a file that is missing, not for its arguments."""
    for name, command in COMMANDS.items():
        if name not in ("run", "systems", "download"):
            with pytest.raises((InputError, OSError)) as error:
                main([name, *command.example.split()])
            assert "--help" not in str(error.value), name


def test_overview_names_every_command(capsys):
    assert main([]) == main(["--help"]) == 0
    assert set(re.findall(r"^  (\w+) ", capsys.readouterr().out, re.MULTILINE)) == set(COMMANDS)
    with pytest.raises(InputError, match="task1a trian: no such command; the commands are run, sweep"):
        main(["trian"])


def test_version_is_stated_once(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"task1a {task1a.__version__}\n"
    for name, pattern in (("pyproject.toml", r'^version = "(.+)"$'), ("CITATION.cff", r"^version: (.+)$")):
        text = (REPOSITORY / name).read_text(encoding="utf-8")
        assert re.findall(pattern, text, re.MULTILINE) == [task1a.__version__]


def test_systems_are_listed_with_their_descriptions(capsys):
    assert main(["systems"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == sorted(
        path.stem for path in (REPOSITORY / "system_configs").glob("*.yaml"))
    assert "cp_resnet_64                             CP-ResNet with 64 channels (Table 2, CP-ResNet c=64)" in lines
