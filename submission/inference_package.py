"""The inference package of the 2025 edition: an installable package that the organisers call to predict.

Layout, functions and limits are those of the organisers' template (https://github.com/CPJKU/dcase2025_task1_inference)::

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
from collections.abc import Iterator, Mapping
from pathlib import Path

import jinja2
import numpy as np
import soundfile

from submission.findings import Finding
from submission.rules import FOLDER, INFERENCE_MARK, INFERENCE_SUFFIX, Rules
from task1a import model_file, predictions
from task1a.complexity import measure
from task1a.data.recording import open_recording
from task1a.errors import InputError, shown
from task1a.files import copy, write_text
from task1a.inference import GENERAL
from task1a.run import Run

FUNCTIONS = {
    "load_model": ("model_file_path",),
    "load_inputs": ("file_paths", "device_ids", "model"),
    "get_model_for_device": ("model", "device_id"),
    "predict": ("file_paths", "device_ids", "model_file_path"),
}
"""functions that the organisers call, and their first arguments"""

COPIED = (
    "compat.py", "compression/__init__.py", "compression/fold.py", "compression/packed.py", "compression/quantize.py",
    "compression/stored.py", "config.py", "data/__init__.py", "data/recording.py", "data/sound.py",
    "errors.py", "features/__init__.py", "features/audio.py", "features/log_mel.py", "files.py", "inference.py",
    "machine.py", "model_file.py", "models/__init__.py", "models/bcresnet.py",
    "models/bcresnet_asc.py", "models/cp_resnet.py", "models/front_end.py", "models/inference_form.py",
    "models/kernels.py", "models/mixstyle.py", "models/normalization.py", "safetensors_file.py")
"""modules of ``task1a`` that predicting needs"""

_SOURCE = Path(model_file.__file__).parent
_TEMPLATES = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), keep_trailing_newline=True,
                                undefined=jinja2.StrictUndefined)
_MAX_PYTHON_BYTES = 1 << 20


def render(runs: Mapping[str, Path], out: Path) -> Path:
    """Write the inference package of a team.

    Args:
        runs: run folder of each system, by label.
        out: folder in which the package's folder is written, replacing an older one.

    Returns:
        The package's folder.

    Raises:
        InputError: a run has no usable model, is an ensemble or averages several passes; a label is no name of a
            module; or the folder exists and is not an older package.
    """
    systems = {}
    for label, folder in runs.items():
        run = Run(folder)
        if run.config.ensemble or max(run.passes) > 1:
            raise InputError(f"{folder}: a system of this edition predicts with one model and one pass per clip, so "
                             "neither ensembles nor evaluation.time_rolls can be submitted")
        if not label.replace("-", "_").isidentifier():
            raise InputError(f"{shown(label)} cannot be the name of a Python module; the author's last name and the "
                             "abbreviation of the institute must consist of letters, digits and -")
        systems[label] = dict(zip((GENERAL, *run.config.device_models), (part.model for part in run.parts),
                                  strict=True))
    team = next(iter(runs)).rpartition("_")[0]
    package, target = team.replace("-", "_"), Path(out) / f"{team.removesuffix(f'_{FOLDER}')}{INFERENCE_SUFFIX}"
    if target.exists() and (not (target / INFERENCE_MARK).is_file() or (target / ".git").exists()):
        raise InputError(f"{target}: is a git repository or was not written by this command; move it, or give another "
                         "--out")

    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".inference-", dir=out) as folder:
        root = Path(folder) / target.name
        inside = root / package
        write_text(root / INFERENCE_MARK, "Written by python -m submission.package, which replaces this folder.\n")
        for module in COPIED:
            text = (_SOURCE / module).read_text(encoding="utf-8")
            text = re.sub(r"^(\s*)(from|import) task1a\b", rf"\1\2 {package}.task1a", text, flags=re.MULTILINE)
            write_text(inside / "task1a" / module, text)
        for name in ("__init__.py", "task1a/__init__.py", "resources/__init__.py"):
            write_text(inside / name, f'"""Part of the inference package of {team}."""\n')

        table = []
        for label, files in systems.items():
            module = label.replace("-", "_")
            for name, path in files.items():
                if not path.is_file():
                    raise InputError(f"{path}: no such model; finish the run first")
                copy(path, inside / "ckpts" / module / f"{name}.safetensors")
                table.append({"label": label, "device": name, **sizes(path)})
            write_text(inside / f"{module}.py", _TEMPLATES.get_template("inference_module.py.jinja").render(
                label=label, package=package, module=module))

        first = next(iter(systems))
        seconds = model_file.stated_spec(systems[first][GENERAL]).features.clip_seconds
        noise = np.random.default_rng(0).uniform(-0.1, 0.1, round(44_100 * seconds))
        soundfile.write(inside / "resources" / "dummy.wav", noise, 44_100, subtype="PCM_24")
        test = predictions.read(Run(runs[first]).test_predictions)
        write_text(inside / "resources" / "test.csv", test[["filename"]].to_csv(sep="\t", index=False,
                                                                              lineterminator="\n"))
        for name in ("README.md", "pyproject.toml"):
            write_text(root / name, _TEMPLATES.get_template(f"inference_{name}.jinja").render(
                team=team, package=package, labels=list(systems), table=table))
        shutil.rmtree(target, ignore_errors=True)
        root.rename(target)
    return target


def sizes(path: Path) -> dict[str, int]:
    """Size of a model file of this project.

    Returns:
        ``bytes``: of all stored values, zeros too; ``parameter_bytes``: without running statistics, as the organisers'
        script counts; ``macs``: multiply-accumulates for a clip.
    """
    counted = measure([path])
    stored = {name: sum(int(bits) * part["parameters"] // 8 for bits, part in policy["by_bits"].items())
              for name, policy in counted["policies"].items()}
    return {"bytes": stored["dcase2021"], "parameter_bytes": stored["paper"], "macs": counted["multiply_accumulates"]}


def check(folder: Path, rules: Rules) -> list[Finding]:
    """Check an inference package without executing any of its code.

    Args:
        folder: folder of the package, or the folder that contains it.
        rules: the edition.
    """
    root = Path(folder)
    inside = sorted(path for path in root.glob(f"*{INFERENCE_SUFFIX}") if path.is_dir())
    if inside and not root.name.endswith(INFERENCE_SUFFIX):
        root = inside[0]
    return list(_findings(root, rules))


def _findings(root: Path, rules: Rules) -> Iterator[Finding]:
    links = sorted(path for path in root.rglob("*") if path.is_symlink())
    for path in links:
        yield Finding("error", path.relative_to(root).as_posix(), "", "a link", "regular files only")
    if links:
        return
    if not any((root / name).is_file() for name in ("pyproject.toml", "setup.py")):
        yield Finding("error", root.name, "", "no pyproject.toml or setup.py", "a package that pip can install")
    packages = sorted(path for path in root.glob(f"*_{FOLDER}") if path.is_dir())
    if len(packages) != 1:
        yield Finding("error", root.name, "", f"{len(packages)} folders named Lastname_Institute_{FOLDER}", "one")
        return

    package = packages[0]
    modules = sorted(package.glob(f"{package.name}_*.py"))
    names = f"{package.name}_1.py to {package.name}_{rules.systems}.py"
    if not modules:
        yield Finding("error", package.name, "", "no module of a system", names)
    for path in modules:
        if re.fullmatch(rf"{re.escape(package.name)}_[1-{rules.systems}]\.py", path.name):
            yield from _check_module(path)
            yield from _check_models(package / "ckpts" / path.stem, rules)
        else:
            yield Finding("error", path.name, "", "a module with this number", names)
    dummy = package / "resources" / "dummy.wav"
    try:
        with open_recording(dummy):
            pass
    except (InputError, OSError) as error:
        yield Finding("error", "resources/dummy.wav", "", getattr(error, "strerror", None) or str(error),
                      "a recording, with which the organisers' script measures the models")


def _check_module(path: Path) -> Iterator[Finding]:
    """Check that a module defines or imports the functions that the organisers call."""
    if path.stat().st_size > _MAX_PYTHON_BYTES:
        yield Finding("error", path.name, "", f"{path.stat().st_size:,} bytes", f"at most {_MAX_PYTHON_BYTES:,}")
        return
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        where = f"line {error.lineno}" if getattr(error, "lineno", None) else ""
        yield Finding("error", path.name, where, "no valid Python", "a module that can be imported")
        return
    defined, imported = {}, set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            defined[node.name] = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
        elif isinstance(node, ast.ImportFrom | ast.Import):
            imported |= {alias.asname or alias.name for alias in node.names}
    for name, arguments in FUNCTIONS.items():
        if name in defined and tuple(defined[name][:len(arguments)]) != arguments:
            yield Finding("error", path.name, name, f"the arguments {shown(', '.join(defined[name]))}",
                          f"{', '.join(arguments)}, in this order")
        elif name not in defined and name not in imported:
            yield Finding("error", path.name, name, "no such function", "one that the organisers can call")


def _check_models(folder: Path, rules: Rules) -> Iterator[Finding]:
    """Check size and labels of the model files of a system."""
    where = f"ckpts/{folder.name}"
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        yield Finding("warning", where, "", "no model files of this project", "*.safetensors, whose size is counted "
                      "here; count other files with python -m task1a.complexity")
        return
    if GENERAL not in [path.stem for path in files]:
        yield Finding("error", where, "", f"no {GENERAL}.safetensors", "a model for the clips of unknown devices")
    other_labels = set()
    for path in files:
        name = f"{where}/{path.name}"
        try:
            _, spec = model_file.read(path)
            size = sizes(path)
        except InputError as error:
            reason = str(error).removeprefix(f"{path}: ")
            yield Finding("error", name, "", shown(reason), "a model file of this project")
            continue
        for limit in rules.limits:
            value = size["bytes"] if limit.unit == "bytes" else size["macs"]
            if value > limit.max:
                yield Finding("error", name, "", f"{value:,} {limit.unit}", f"at most {limit.max:,} {limit.unit}")
        if spec.labels != rules.labels and spec.labels not in other_labels:
            other_labels.add(spec.labels)
            yield Finding("not_submittable", name, "", f"the labels {shown(' '.join(spec.labels))}",
                          f"those of {rules.name}: {' '.join(rules.labels)}")
        if spec.features.clip_seconds != rules.clip_seconds:
            yield Finding("error", name, "", f"clips of {spec.features.clip_seconds:g} s", f"{rules.clip_seconds:g} s")
