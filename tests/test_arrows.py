"""Which module may import which: the arrows between the rooms of the project, as a table; and what commands import."""
import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

BOTTOM = {"task1a", "challenge", "errors", "files", "machine", "workers"}
"""modules that import nothing but each other; the package itself holds the version"""

ARROWS = {
    # a room: the rooms of the project that it may import, besides itself and the bottom
    "challenge": set(),
    "machine": set(),
    "errors": set(),
    "files": set(),
    "workers": set(),
    "config": set(),
    "config_file": {"config"},
    "system": set(),
    "models": set(),
    "compression": set(),
    "data": set(),
    "features": {"config", "data"},
    "safetensors_file": set(),
    "model_file": {"config", "models", "compression", "safetensors_file"},
    "complexity": {"model_file", "safetensors_file", "pipeline.run", "system"},
    "predict.predictions": {"data"},
    "predict": {"model_file", "predict.predictions", "data", "features", "system", "pipeline.run"},
    "training": {"config", "models", "compression", "model_file", "predict", "data"},
    "pipeline.run": {"config", "config_file", "system"},
    "export": {"config", "compression", "model_file", "data", "features", "predict", "pipeline.run", "complexity",
               "evaluation"},
    "embed": {"evaluation", "model_file", "data", "features", "predict", "pipeline.run"},
    "evaluation": {"config", "config_file", "pipeline.run", "data", "predict.predictions"},
    "submission": {"config", "evaluation", "pipeline.run", "predict.predictions", "submission.validation.against_run",
                   "submission.inference2025"},
    # compares a package with the run that it was made of, and so lies above both
    "submission.validation.against_run": {"submission", "evaluation", "pipeline.run", "predict.predictions", "data",
                                          "complexity"},
    # copies models and the modules that load them, and so lies above both
    "submission.inference2025": {"submission", "pipeline.run", "predict.predictions", "data", "complexity",
                                 "model_file", "features", "compression"},
    "pipeline": {"config", "config_file", "pipeline.run", "data", "features", "training", "model_file", "complexity",
                 "predict", "predict.predictions", "evaluation", "submission"},
    "sweep": {"pipeline"},
    "systems": {"config", "config_file"},
    "__main__": set(),
}


def room(module: str) -> str:
    """The room of a module: the part of its name that has a row in the table."""
    name = module.removeprefix("task1a.")
    while name not in ARROWS and "." in name:
        name = name.rpartition(".")[0]
    return name


def imports(path: Path) -> set[str]:
    """Modules of the project that a file imports, also within its functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                is_module = (REPOSITORY / module.replace(".", "/")).with_suffix(".py").is_file()
                is_package = (REPOSITORY / module.replace(".", "/")).is_dir()
                found.add(module if is_module or is_package else node.module)
    return {name for name in found if name.split(".")[0] in ("task1a", "evaluation", "submission")}


FILES = [path for folder in ("task1a", "evaluation", "submission") for path in (REPOSITORY / folder).rglob("*.py")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_arrows_run_one_way(path):
    module = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
    own = room(module)
    if module in ("task1a", "evaluation", "submission"):
        allowed = {"predict", "pipeline.run", "pipeline"} if module == "task1a" else set()
    else:
        allowed = ARROWS[own] | {own} | (BOTTOM if own != "challenge" else set())
    for imported in imports(path):
        assert room(imported) in allowed, f"{module} must not import {imported}"


def test_the_table_has_no_circles():
    def above(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path, name))
        for lower in ARROWS[name]:
            # imported only where --run or an edition asks for them
            if not (name == "submission" and lower.startswith("submission.")):
                above(lower, (*path, name))

    for name in ARROWS:
        above(name, ())


def commands() -> list[list[str]]:
    """The arguments of Python that start each of the commands."""
    found = [["task1a.py"]]
    for path in FILES:
        if '__name__ == "__main__"' in path.read_text(encoding="utf-8"):
            module = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
            found.append(["-m", module.removesuffix(".__main__")])
    return found


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_commands_answer_help_without_heavy_libraries(command):
    heavy = {"torch", "pandas", "scipy", "sklearn", "matplotlib", "dcase_util", "sed_eval", "onnxruntime", "ray"}
    shown = subprocess.run([sys.executable, "-X", "importtime", *command, "--help"], cwd=REPOSITORY, text=True,
                           capture_output=True, check=True)
    assert shown.stdout.startswith("usage: ")
    assert not heavy & set(re.findall(r"\| +(\w+)$", shown.stderr, re.MULTILINE))


@pytest.mark.parametrize("command", ["task1a.complexity nowhere.pt", "task1a.export nowhere.safetensors x.onnx"])
def test_a_model_that_does_not_exist_is_told_without_torch(command):
    told = subprocess.run([sys.executable, "-X", "importtime", "-m", *command.split()], cwd=REPOSITORY, text=True,
                          capture_output=True)
    assert told.returncode == 2 and "error: nowhere" in told.stderr and "no such model file" in told.stderr
    assert not re.search(r"\| +torch$", told.stderr, re.MULTILINE)
