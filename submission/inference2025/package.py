"""The inference package of the 2025 edition: an installable package that the organisers call to
predict.

Layout, functions and limits are those of the organisers' template
(https://github.com/CPJKU/dcase2025_task1_inference)::

    <team>_task1_inference/
        pyproject.toml  README.md
        <team>_task1/
            <label>.py         load_model, load_inputs, get_model_for_device and predict of a system
            ckpts/<label>/     its model files: general.safetensors, <device>.safetensors
            resources/         dummy.wav, test.csv
            task1a/            a copy of the modules of this project that predict

A label becomes the name of a module with ``_`` in place of ``-``.
"""
import ast
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import jinja2
import numpy as np
import soundfile

from submission.metadata import policy_bytes
from submission.rules import FOLDER, INFERENCE_MARK, INFERENCE_SUFFIX
from task1a.complexity.measure import measure
from task1a.errors import InputError, shown
from task1a.files import copy, write_text
from task1a.pipeline.run import Run
from task1a.predict import predictions

_PROJECT = Path(__file__).resolve().parents[2]
_TEMPLATES = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent),
                                keep_trailing_newline=True, undefined=jinja2.StrictUndefined)


def render(runs: Mapping[str, Path], out: Path) -> Path:
    """Write the inference package of a team.

    Args:
        runs: run folder of each system, by label.
        out: folder in which the package's folder is written, replacing an older one.

    Returns:
        The package's folder.

    Raises:
        InputError: a run has no usable model, is an ensemble or averages several passes; a label is
            no name of a module; or the folder exists and is not an older package.
    """
    systems = {label: find_models(label, Run(folder)) for label, folder in runs.items()}
    team = next(iter(runs)).rpartition("_")[0]
    package = team.replace("-", "_")
    target = Path(out) / f"{team.removesuffix(f'_{FOLDER}')}{INFERENCE_SUFFIX}"
    if target.exists() and (not (target / INFERENCE_MARK).is_file() or (target / ".git").exists()):
        raise InputError(f"{target}: is a git repository or was not written by this command; move it, or "
                         "give another --out")

    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".inference-", dir=out) as folder:
        root = Path(folder) / target.name
        inside = root / package
        write_text(root / INFERENCE_MARK,
                   "Written by python -m submission.package, which replaces this folder.\n")
        write_code(inside, package, team)
        table = []
        for label, files in systems.items():
            module = label.replace("-", "_")
            for name, path in files.items():
                copy(path, inside / "ckpts" / module / f"{name}.safetensors")
                table.append({"label": label, "device": name, **sizes(path)})
            template = _TEMPLATES.get_template("module.py.jinja")
            write_text(inside / f"{module}.py",
                       template.render(label=label, package=package, module=module))
        label, files = next(iter(systems.items()))
        write_resources(inside / "resources", Run(runs[label]), next(iter(files.values())))
        for name in ("README.md", "pyproject.toml"):
            write_text(root / name, _TEMPLATES.get_template(f"{name}.jinja").render(
                team=team, package=package, labels=list(systems), table=table))
        shutil.rmtree(target, ignore_errors=True)
        root.rename(target)
    return target


def find_models(label: str, run: Run) -> dict[str, Path]:
    """Return the model files of a system by the devices whose clips they predict.

    Raises:
        InputError: the interface of the edition cannot express the system, or a model is missing.
    """
    from submission.inference2025.interface import GENERAL  # imports torch, which takes seconds

    if run.config.ensemble or max(run.system.passes) > 1:
        raise InputError(f"{run.folder}: a system of this edition predicts with one model and one pass "
                         "per clip, so neither ensembles nor evaluation.time_rolls can be submitted")
    if not label.replace("-", "_").isidentifier():
        raise InputError(f"{shown(label)} cannot be the name of a Python module; the author's last name "
                         "and the abbreviation of the institute must consist of letters, digits and -")
    models = dict(zip((GENERAL, *run.system.devices), run.system.files, strict=True))
    for path in models.values():
        if not path.is_file():
            raise InputError(f"{path}: no such model; finish the run first")
    return models


def write_code(inside: Path, package: str, team: str) -> None:
    """Copy the modules that predict, with their imports changed to those of the package."""
    for name, path in copied_modules().items():
        text = re.sub(r"^(\s*from) (task1a|submission\.inference2025)\b", rf"\1 {package}.task1a",
                      path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        write_text(inside / "task1a" / name, text)
    for name in ("__init__.py", "task1a/__init__.py", "resources/__init__.py"):
        write_text(inside / name, f'"""Part of the inference package of {team}."""\n')


def write_resources(folder: Path, run: Run, model: Path) -> None:
    """Write what the organisers' script measures a model with: a recording, and the test clips."""
    from task1a import model_file

    spec = model_file.stated_spec(model)
    assert spec is not None  # the model was counted before
    seconds = spec.features.clip_seconds
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, round(44_100 * seconds))
    soundfile.write(folder / "dummy.wav", noise, 44_100, subtype="PCM_24")
    test = predictions.read(run.test_predictions)[["filename"]]
    write_text(folder / "test.csv", test.to_csv(sep="\t", index=False, lineterminator="\n"))


def sizes(path: Path) -> dict[str, int]:
    """Return the size of a model file of this project.

    Returns:
        ``bytes``: of all stored values, zeros too; ``parameter_bytes``: without running statistics,
        as the organisers' script counts; ``macs``: multiply-accumulates for a clip.
    """
    size = measure([path])
    policies = size["policies"]
    return {"bytes": policy_bytes(policies["dcase2021"]),
            "parameter_bytes": policy_bytes(policies["paper"]), "macs": size["multiply_accumulates"]}


def copied_modules() -> dict[str, Path]:
    """Return the modules that predicting needs: :mod:`submission.inference2025.interface` and
    everything that it imports.

    Returns:
        The files, by their paths in the package's folder ``task1a``.
    """
    files = {}
    waiting = ["submission.inference2025.interface"]
    while waiting:
        module = waiting.pop()
        path = _PROJECT.joinpath(*module.split(".")).with_suffix(".py")
        name = module.removeprefix("submission.inference2025.").removeprefix("task1a.").replace(".", "/")
        if "." not in module or f"{name}.py" in files or not path.is_file():
            continue  # no module of this project, but a package or a name in a module
        files[f"{name}.py"] = path
        for folder in PurePosixPath(name).parents[:-1]:
            files[f"{folder}/__init__.py"] = _PROJECT / "task1a" / folder / "__init__.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or not node.module:
                continue
            imported = node.module
            if imported.split(".")[0] in ("task1a", "submission"):
                waiting.append(imported)
                waiting += [f"{imported}.{alias.name}" for alias in node.names]
    return files
