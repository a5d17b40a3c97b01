"""The inference package: installed apart from this project, it predicts as the runs do."""
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from submission.inference2025 import check as package_check
from submission.inference2025 import interface as inference
from submission.inference2025 import package as inference_package
from submission.inference2025.interface import load_stored
from submission.inference2025.stored import StoredConv2d
from submission.rules import EDITIONS, INFERENCE_SUFFIX
from submission.validate import validate
from task1a import config, config_file, model_file
from task1a.challenge import LABELS
from task1a.compression import packed
from task1a.compression.packed import Packing, stored_state
from task1a.config import BCResNetASCConfig, CompressionConfig, Config, FeatureConfig, TrainingConfig
from task1a.errors import InputError
from task1a.features.audio import read_clip
from task1a.features.log_mel import log_mel
from task1a.model_file import ModelSpec
from task1a.pipeline.run import Run
from task1a.predict.clips import predict as predict_clips

FEATURES = FeatureConfig(n_mels=32, n_fft=1024, window=1024, hop=800, clip_seconds=1.0)
LABEL = "Lastname_U-Graz_task1_1"
PACKAGE, MODULE = "Lastname_U_Graz_task1", "Lastname_U_Graz_task1_1"
RULES = EDITIONS["2025"]


def compressed(path, seed, scales="tensor", **settings):
    """Write a packed model with random weights and statistics, a third of the weights pruned."""
    torch.manual_seed(seed)
    packing = Packing(scales)
    spec = ModelSpec(BCResNetASCConfig(**{"tau": 0.4, **settings}), FEATURES, LABELS)
    model = spec.build()
    for name, value in model.state_dict().items():
        if "running" in name or "norm" in name:
            value.copy_(torch.rand(value.shape) + 0.5)
    packed.prepare(model, packing)
    for mask in packed.pruning(model)[1].values():
        mask.view(-1)[::3] = False
    model_file.save(path, packed.pack(model, packing), replace(spec, packing=packing))
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A general model and a run with models of its own for a and s1."""
    root = tmp_path_factory.mktemp("runs")
    base = Config("general", features=FEATURES, model=BCResNetASCConfig(tau=0.4),
                  compression=CompressionConfig(enabled=True))
    system = replace(base, system="tuned", device_models=("a", "s1"), training=TrainingConfig(init_from="general"))
    for seed, settings in enumerate((base, system, system.for_device("a"), system.for_device("s1"))):
        run = Run(root / settings.system / "seed0", settings)
        run.packed.parent.mkdir(parents=True)
        run.config_file.write_text(config_file.to_yaml(settings), encoding="utf-8")
        if settings != system:
            compressed(run.packed, seed)
        run.test_predictions.parent.mkdir()
        rows = [[f"audio/{number}.wav", "bus", *np.eye(10)[1]] for number in range(3)]
        pd.DataFrame(rows, columns=["filename", "scene_label", *LABELS]).to_csv(run.test_predictions, sep="\t",
                                                                               index=False)
    return root


@pytest.fixture(scope="module")
def rendered_once(runs, tmp_path_factory):
    return inference_package.render({LABEL: runs / "tuned" / "seed0"}, tmp_path_factory.mktemp("rendered"))


@pytest.fixture
def package(rendered_once, tmp_path):
    return shutil.copytree(rendered_once, tmp_path / "out" / rendered_once.name)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for number in range(9):
        noise = np.random.default_rng(number).normal(0, 0.1, 44100)
        soundfile.write(folder / f"{number}.wav", noise, 44100, subtype="PCM_24")
    return sorted(folder.glob("*.wav"))


def test_exactly_these_files_are_written(package):
    files = {path.relative_to(package).as_posix() for path in package.rglob("*") if path.is_file()}
    models = {f"{PACKAGE}/ckpts/{MODULE}/{name}.safetensors" for name in ("general", "a", "s1")}
    assert files == {
        ".task1a", "README.md", "pyproject.toml", f"{PACKAGE}/__init__.py", f"{PACKAGE}/{MODULE}.py",
        f"{PACKAGE}/resources/__init__.py", f"{PACKAGE}/resources/dummy.wav", f"{PACKAGE}/resources/test.csv",
        f"{PACKAGE}/task1a/__init__.py", *models,
        *(f"{PACKAGE}/task1a/{name}" for name in inference_package.copied_modules())}
    assert (package / PACKAGE / "resources" / "test.csv").read_text() == (
        "filename\naudio/0.wav\naudio/1.wav\naudio/2.wav\n")
    assert not [name for name in files if "training" in name or "prune" in name]


_EVALUATION = """
import importlib, json, sys, torch
for name in ("task1a", "submission", "evaluation"):
    sys.modules[name] = None  # importing it fails
sys.path.insert(0, sys.argv[1])
api = importlib.import_module(sys.argv[2])
files, devices = json.loads(sys.argv[3])
logits, labels = api.predict(file_paths=files, device_ids=devices, model_file_path=None, use_cuda=False)
model = api.load_model()
inputs = api.load_inputs(files, devices, model)
together = model(torch.cat(inputs), devices)
sizes, apart = {}, []
for clip, device in zip(inputs, devices):
    network = api.get_model_for_device(model, device)
    apart += network(clip).tolist()
    sizes[device] = sum(value.numel() * value.element_size() for value in network.parameters())
only_a = api.predict(files, devices, sys.argv[4])[0]
print(json.dumps({"logits": [row.tolist() for row in logits], "labels": labels, "sizes": sizes,
                  "together": together.tolist(), "apart": apart,
                  "inputs": [list(inputs[0].shape), str(inputs[0].dtype)], "a": [row.tolist() for row in only_a]}))
"""


def test_it_predicts_as_the_runs_without_this_project(package, runs, clips):
    devices = ["a", "s1", "unknown", "b", "a", "s1", "s9", "unknown", "a"]
    files = [str(path) for path in clips]
    of_a = runs / "tuned_a" / "seed0" / "compress" / "packed.safetensors"
    arguments = [str(package), f"{PACKAGE}.{MODULE}", json.dumps([files, devices]), str(of_a)]
    finished = subprocess.run([sys.executable, "-c", _EVALUATION, *arguments], capture_output=True, text=True,
                              cwd=clips[0].parent)
    assert finished.returncode == 0, finished.stderr
    answer = json.loads(finished.stdout)

    def expected(system):
        energies = np.stack([log_mel(read_clip(path, FEATURES), FEATURES) for path in clips]).astype(np.float16)
        return predict_clips(runs / system / "seed0" / "compress" / "packed.safetensors", files,
                               lambda indices: energies[indices].astype(np.float32), 4, torch.device("cpu"))

    tables = {system: expected(system).iloc[:, 2:].to_numpy() for system in ("general", "tuned_a", "tuned_s1")}
    probabilities = torch.softmax(torch.tensor(answer["logits"], dtype=torch.float64), dim=1).numpy()
    for row, device in enumerate(devices):
        system = {"a": "tuned_a", "s1": "tuned_s1"}.get(device, "general")
        np.testing.assert_allclose(probabilities[row], tables[system][row], atol=1e-6)
    np.testing.assert_allclose(torch.softmax(torch.tensor(answer["a"], dtype=torch.float64), dim=1).numpy(),
                               tables["tuned_a"], atol=1e-6)
    # with the tensors in their stored types, in both ways of the organisers
    for way in ("together", "apart"):
        np.testing.assert_allclose(answer[way], answer["logits"], atol=1e-5)
    assert answer["labels"] == list(LABELS)
    assert answer["inputs"] == [[1, 1, 32, FEATURES.frames], "torch.float16"]
    # int8 weights, float32 scales and half-precision norms, as stored; running statistics are buffers
    stored, _ = model_file.read(of_a)
    assert answer["sizes"]["a"] == answer["sizes"]["unknown"] == sum(
        value.numel() * value.element_size() for name, value in stored.items() if "running" not in name)
    assert inference_package.sizes(of_a)["parameter_bytes"] == answer["sizes"]["a"]
    assert inference_package.sizes(of_a)["bytes"] == sum(value.numel() * value.element_size()
                                                         for value in stored.values())

@pytest.mark.parametrize("settings", [{}, {"scales": "channel"}, {"front_end": "pcen"}, {"front_end": "freqnorm"},
                                      {"residual_norm": "none"}])
def test_a_model_in_its_stored_types_computes_as_the_unpacked_one(tmp_path, settings):
    path = compressed(tmp_path / "model.safetensors", 1, **settings)
    x = torch.randn(3, 1, 32, FEATURES.frames, generator=torch.Generator().manual_seed(0)) - 5
    stored, _ = load_stored(path)
    assert torch.equal(stored(x), model_file.load(path)[0](x))
    assert not [layer for layer in stored.modules() if isinstance(layer, torch.nn.Conv2d | torch.nn.BatchNorm2d)]
    assert any(isinstance(layer, StoredConv2d) for layer in stored.modules())
    assert {(name.endswith("scale"), value.dtype) for name, value in stored.named_parameters()} == {
        (True, torch.float32), (False, torch.float16), (False, torch.int8)}


def test_a_vanilla_model_is_handed_in_as_it_is(tmp_path):
    spec = ModelSpec(BCResNetASCConfig(tau=0.4), FEATURES, LABELS)
    path = tmp_path / "model.safetensors"
    model_file.save(path, stored_state(spec.build()), spec)
    model = inference.load_model(path)
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    assert model(torch.zeros(2, 1, 32, FEATURES.frames), ["a", "unknown"]).shape == (2, 10)


def test_a_damaged_recording_is_named(package, runs, tmp_path):
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    model = inference.load_model(package / PACKAGE / "ckpts" / MODULE)
    with pytest.raises(InputError, match="broken.wav: "):
        inference.load_inputs([str(tmp_path / "broken.wav")], ["a"], model)
    with pytest.raises(InputError, match="2 files, but 1 device ids"):
        inference.load_inputs(["x", "y"], ["a"], model)


@pytest.mark.parametrize(("change", "message"), [
    ({"device_models": (), "ensemble": ("x", "y")}, "neither ensembles"),
    ({"device_models": (), "evaluation": config.EvaluationConfig(time_rolls=2)}, "neither ensembles"),
])
def test_what_the_interface_cannot_express_is_refused(runs, tmp_path, change, message):
    folder = tmp_path / "odd" / "seed0"
    shutil.copytree(runs / "general" / "seed0", folder)
    settings = replace(Run(folder).config, system="odd", **change)
    (folder / "config.yaml").write_text(config_file.to_yaml(settings), encoding="utf-8")
    for name in ("x", "y"):
        shutil.copytree(runs / "general" / "seed0", tmp_path / name / "seed0")
    with pytest.raises(InputError, match=message):
        inference_package.render({LABEL: folder}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_older_package_is_replaced_and_no_other_folder(package, runs, tmp_path):
    (package / "note.txt").write_text("")
    inference_package.render({LABEL: runs / "general" / "seed0"}, tmp_path / "out")
    assert not (package / "note.txt").exists()
    assert [path.name for path in (package / PACKAGE / "ckpts" / MODULE).iterdir()] == ["general.safetensors"]
    (package / ".git").mkdir()
    with pytest.raises(InputError, match="is a git repository"):
        inference_package.render({LABEL: runs / "general" / "seed0"}, tmp_path / "out")
    (package / ".git").rmdir()
    (package / ".task1a").unlink()
    with pytest.raises(InputError, match="was not written by this command"):
        inference_package.render({LABEL: runs / "general" / "seed0"}, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [package.name]


def test_a_package_that_is_right_has_no_findings(package):
    assert package_check.check(package, RULES) == []
    assert package_check.check(package.parent, RULES) == []


def _unlink(name):
    return lambda root: (root / name).unlink()


def _replace(name, old, new):
    def change(root):
        text = (root / name).read_text(encoding="utf-8")
        assert old in text
        (root / name).write_text(text.replace(old, new), encoding="utf-8")
    return change


def _large(root):
    compressed(root / f"{PACKAGE}/ckpts/{MODULE}/a.safetensors", 0, tau=6.0)


def _ten_seconds(root):
    spec = ModelSpec(BCResNetASCConfig(tau=0.4), replace(FEATURES, clip_seconds=10.0), LABELS)
    model_file.save(root / f"{PACKAGE}/ckpts/{MODULE}/a.safetensors", stored_state(spec.build()), spec)


def _other_labels(root):
    spec = ModelSpec(BCResNetASCConfig(tau=0.4), FEATURES, LABELS[::-1])
    model_file.save(root / f"{PACKAGE}/ckpts/{MODULE}/a.safetensors", stored_state(spec.build()), spec)


def _link(root):
    (root / PACKAGE / "secret").symlink_to("/etc/hostname")


def _folder(name):
    return lambda root: (root / name).mkdir()


def _pipe(name):
    def change(root):
        (root / name).unlink(missing_ok=True)
        os.mkfifo(root / name)
    return change


def _write(name, content):
    return lambda root: (root / name).write_bytes(content)


def _sparse(name, size):
    """A file of any size that takes no room."""
    def change(root):
        with (root / name).open("wb") as file:
            file.truncate(size)
    return change


def _copies(number):
    def change(root):
        for index in range(number):
            shutil.copy(root / MODELS / "a.safetensors", root / MODELS / f"x{index}.safetensors")
    return change


def _without_models(root):
    for path in (root / MODELS).iterdir():
        path.write_bytes(b"")


def _deep(root):
    for _ in range(300):
        root = root / "x"
        root.mkdir()


MODULE_FILE, MODELS = f"{PACKAGE}/{MODULE}.py", f"{PACKAGE}/ckpts/{MODULE}"


@pytest.mark.parametrize(("change", "file", "found"), [
    (_unlink("pyproject.toml"), f"Lastname_U-Graz{INFERENCE_SUFFIX}", "no pyproject.toml"),
    (_unlink(MODULE_FILE), PACKAGE, "no module of a system"),
    (lambda root: (root / MODULE_FILE).rename(root / PACKAGE / f"{PACKAGE}_5.py"), f"{PACKAGE}_5.py", "this number"),
    (lambda root: (root / PACKAGE).rename(root / "code"), f"Lastname_U-Graz{INFERENCE_SUFFIX}", "'code'"),
    (_replace(MODULE_FILE, "def load_model", "def load"), f"{MODULE}.py", "no such function"),
    (_replace(MODULE_FILE, "get_model_for_device, load_inputs", "load_inputs"), f"{MODULE}.py", "no such function"),
    (_replace(MODULE_FILE, "file_paths, device_ids, model_file_path=None", "device_ids, file_paths"), f"{MODULE}.py",
     "the arguments 'device_ids, file_paths, use_cuda'"),
    (_replace(MODULE_FILE, "return", "return ("), f"{MODULE}.py", "no valid Python"),
    (_unlink(f"{MODELS}/general.safetensors"), f"ckpts/{MODULE}", "no general.safetensors"),
    (lambda root: (root / MODELS / "a.safetensors").write_bytes(b"x" * 100), f"ckpts/{MODULE}/a.safetensors",
     "not a readable safetensors file"),
    (_large, f"ckpts/{MODULE}/a.safetensors", "bytes"),
    (_ten_seconds, f"ckpts/{MODULE}/a.safetensors", "clips of 10 s"),
    (_other_labels, f"ckpts/{MODULE}/a.safetensors", "the labels"),
    (_unlink(f"{PACKAGE}/resources/dummy.wav"), "resources/dummy.wav", "No such file"),
    (_link, f"{PACKAGE}/secret", "a link"),
    (_pipe(MODULE_FILE), MODULE_FILE, "a link or special file"),
    (_pipe("pyproject.toml"), "pyproject.toml", "a link or special file"),
    (_folder(f"{PACKAGE}/{PACKAGE}_2.py"), f"{PACKAGE}_2.py", "a folder"),
    (_write(MODULE_FILE, b"# caf\xe9"), f"{MODULE}.py", "no valid Python"),
    (_write(f"{PACKAGE}/net.py", b"1\n2\n'caf\xe9'"), "net.py", "text that is not utf-8"),
    (_write(f"{PACKAGE}/net.py", b"# coding: punycode\n"), "net.py", "no valid Python"),
    (_write(f"{PACKAGE}/net.py", b"[]," * 90_000), f"{PACKAGE}/net.py", "270,000 bytes"),
    (lambda root: [_write(f"{PACKAGE}/{index}.py", b"\n" * 240_000)(root) for index in range(9)], PACKAGE,
     "bytes of Python"),
    (_sparse(f"{MODELS}/a.safetensors", 907 << 20), f"ckpts/{MODULE}/a.safetensors", "951,058,432 bytes"),
    (_copies(8), f"ckpts/{MODULE}", "11 models"),
    (_copies(1000), f"Lastname_U-Graz{INFERENCE_SUFFIX}", "1,001 files"),
    (_without_models, PACKAGE, "no model"),
    (_deep, "/".join("x" * 21), "a folder this deep"),
])
def test_what_is_wrong_is_named(package, change, file, found):
    change(package)
    findings = package_check.check(package, RULES)
    assert [finding.file for finding in findings] == [file], findings
    assert found in findings[0].found


SETUP = """from setuptools import find_packages, setup
raise SystemExit("executed")
setup(name="{name}", packages=find_packages(), package_data={{"{data}": ["resources/*.wav", "ckpts/*.ckpt"]}})
"""


def other_team(root, package="Kim_QTI_task1", name=None, data=None, changes=None):
    """A package as the organisers' template has it, of another program."""
    functions = "".join(f"def {function}({', '.join(arguments)}):\n    raise SystemExit('executed')\n"
                        for function, arguments in package_check.FUNCTIONS.items())
    files = {"setup.py": SETUP.format(name=name or package, data=data or package), f"{package}/__init__.py": "",
             f"{package}/{package}_1.py": functions, f"{package}/ckpts/a.ckpt": "x", f"{package}/models/net.py": "",
             f"{package}/models/__init__.py": "", f"{package}/resources/test.csv": "", **(changes or {})}
    for path, text in files.items():
        if text is not None:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text, encoding="latin-1")
    (root / package / "resources").mkdir(exist_ok=True)
    soundfile.write(root / package / "resources" / "dummy.wav", np.zeros(44100), 44100)
    return root


PYPROJECT = """[project]
name = "Kim_QTI_task1"
[tool.setuptools.packages.find]
include = ["Kim*"]
[tool.setuptools.package-data]
"*" = ["*.wav"]
"""


@pytest.mark.parametrize(("settings", "level", "told"), [
    ({}, None, ""),
    ({"package": "Kim_QTI_Task1"}, "error", "the folder 'Kim_QTI_Task1'"),
    ({"package": "Kim_QTI_TASK1"}, "error", "the folder 'Kim_QTI_TASK1'"),
    ({"package": "Kim_QTI_task1a"}, "error", "the folder 'Kim_QTI_task1a'"),
    ({"package": "Kim_QTI_X_task1"}, "warning", "an institute with _, which no label has"),
    ({"package": "Kim_QTI_X_task1", "name": "Kim_QTI-X_task1"}, None, ""),
    ({"package": "Kim_QTI_X_task1", "name": "Kim_QTIX_task1"}, "warning", "an institute with _, which no label has"),
    ({"data": "Schmid_CPJKU_task1"}, "warning",
     "files that installing leaves out: ckpts/a.ckpt, resources/dummy.wav"),
    ({"changes": {"Kim_QTI_task1/models/__init__.py": None}}, "warning",
     "files that installing leaves out: models/net.py"),
    ({"changes": {"Kim_QTI_task1/ckpts/b.pt": "x"}}, "warning", "files that installing leaves out: ckpts/b.pt"),
    ({"changes": {"setup.py": None, "pyproject.toml": PYPROJECT}}, "warning",
     "files that installing leaves out: ckpts/a.ckpt"),
    ({"data": "x", "changes": {"MANIFEST.in": "recursive-include Kim_QTI_task1 *"}}, None, ""),
    ({"changes": {"setup.py": "setup(package_data=read())"}}, None, ""),
    ({"changes": {"setup.py": SETUP + "[]," * 20_000}}, None, ""),
    ({"changes": {"Kim_QTI_task1/models/net.py": "# coding: latin-1\n# caf\xe9"}}, None, ""),
    ({"changes": {"Kim_QTI_task1/models/net.py": "x = '\\d'"}}, None, ""),
    ({"changes": {".git/" + "x/" * 30 + "y": ""}}, None, ""),
])
def test_packages_of_other_teams(tmp_path, settings, level, told):
    """One line says what is wrong, and nothing is executed."""
    root = other_team(tmp_path / "dcase2025_task1_inference", **settings)
    findings = [finding for finding in validate(root, RULES) if finding.found != "no model files of this project"]
    assert [(finding.level, finding.found) for finding in findings] == ([(level, told)] if level else [])
    assert validate(root.parent, RULES)[-1].file == validate(root, RULES)[-1].file  # found beside other folders, too
