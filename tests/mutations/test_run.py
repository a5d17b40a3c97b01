"""The list of breaks fits the code, and the script that makes them tells those that are noticed from the others."""
import ast
import runpy
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

SCRIPT = Path(__file__).with_name("run.py")
REPOSITORY = SCRIPT.parents[2]
MUTATIONS = runpy.run_path(str(SCRIPT))["read_mutations"]()


def test_every_break_changes_one_place_of_the_code_and_leaves_it_python():
    for mutation in MUTATIONS:
        text = (REPOSITORY / mutation.file).read_text(encoding="utf-8")
        assert text.count(mutation.old) == 1 and mutation.new != mutation.old, mutation
        ast.parse(mutation.broken(text))
    assert len(MUTATIONS) > 100


def test_names_are_unique_and_tests_are_there():
    names = Counter(mutation.name for mutation in MUTATIONS)
    assert [name for name, count in names.items() if count > 1] == []
    assert {test for mutation in MUTATIONS for test in mutation.tests if not (REPOSITORY / test).is_file()} == set()


@pytest.fixture
def run(tmp_path):
    """Runs the script on a project of two functions, one of which is tested."""
    folder = tmp_path / "tests" / "mutations"
    folder.mkdir(parents=True)
    shutil.copy(SCRIPT, folder)
    (tmp_path / "task1a").mkdir()
    (tmp_path / "task1a" / "__init__.py").write_text("def one():\n    return 1\ndef two():\n    return 2\n")
    (tmp_path / "tests" / "test_one.py").write_text("import task1a\ndef test_one():\n    assert task1a.one() == 1\n")
    breaks = {"known": {"old": "return 1", "new": "return 3"}, "unknown": {"old": "return 2", "new": "return 3"},
              "gone": {"old": "return 4", "new": "return 3"}, "twice": {"old": "return", "new": "assert"}}
    (folder / "mutations.yaml").write_text(
        yaml.safe_dump({"task1a/__init__.py": {"tests": ["tests/test_one.py"], "breaks": breaks}}))

    def script(*arguments):
        return subprocess.run([sys.executable, str(folder / "run.py"), *arguments], capture_output=True, text=True)
    return script


def test_what_is_noticed_and_what_survives_is_told(run):
    finished = run("known", "unknown")
    assert finished.stdout.splitlines() == ["known    tests/test_one.py::test_one", "unknown  SURVIVED",
                                            "1 of 2 noticed"]
    assert finished.returncode == 1 and run("known").returncode == 0


@pytest.mark.parametrize("which, message", [
    ("gone", "gone: stands 0 times in task1a/__init__.py, not once: 'return 4'"),
    ("twice", "twice: stands 2 times"), ("forgotten", "no such break: forgotten")])
def test_a_break_that_cannot_be_made_is_told(run, which, message):
    finished = run(which)
    assert finished.returncode == 2 and message in finished.stderr and "noticed" not in finished.stdout


def test_tests_that_fail_without_a_break_are_told(run, tmp_path):
    (tmp_path / "tests" / "test_one.py").write_text("def test_one():\n    assert False\n")
    finished = run("known")
    assert finished.returncode == 2 and "without a break, too, a test fails: tests/test_one.py" in finished.stderr
