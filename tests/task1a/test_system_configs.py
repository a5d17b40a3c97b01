"""The shipped systems: parameter counts, the sizes that they come to once compressed, and the whole chain of each."""
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from submission import metadata as meta_yaml
from submission.rules import TASK1A_2021
from submission.validate import validate
from task1a import config, config_file, model_file
from task1a.challenge import WARN_ABOVE_BYTES, size_verdict
from task1a.complexity import measure
from task1a.complexity.__main__ import main as print_size
from task1a.compression import packed
from task1a.compression.packed import Packing
from task1a.errors import run_command
from task1a.features.audio import read_clip
from task1a.features.log_mel import log_mel
from task1a.files import read_json
from task1a.model_file import ModelSpec
from task1a.models import cost
from task1a.pipeline import runner
from task1a.predict import clips
from task1a.training import compress

FOLDER = Path(__file__).resolve().parents[2] / "system_configs"
SYSTEMS = {path.stem: config_file.load(path) for path in sorted(FOLDER.glob("*.yaml"))}
COMPRESSED = [name for name, system in SYSTEMS.items() if system.compression.enabled and not system.ensemble]
PUBLISHED = {("bcresnet_asc", 1): 8_055, ("bcresnet_asc", 8): 314_970, ("bcresnet", 8): 317_098}
CP_RESNET_MONO = 896_980  # 898,580 with the two input channels of the publication

TOY = ["data.source=tau_layout", "data.workers=1", "features.n_fft=1024", "features.window=1024", "features.hop=960",
       "features.clip_seconds=1.0", "training.epochs=1", "training.warmup_epochs=0",
       "training.validation_fraction=0.25", "compression.epochs=1", "compression.warmup_epochs=0"]
# the smallest of which something is left in the network, and likewise the 17 frames above
MEL_BINS = {"bcresnet_asc": 32, "bcresnet": 64, "cp_resnet": 32}
KINDS = ("bcresnet_8", "cp_resnet_64", "bcresnet_asc_1_freqnorm", "bcresnet_asc_1_pcen", "best_61k",
         "bcresnet_asc_8_compressed_kd_gradual", "bcresnet_asc_8_compressed_kd_iterative")
"""systems that have every network, front end and normalization, a schedule of pruning each, and an ensemble"""
LABEL = "Lastname_INST_task1a_1"
WRITTEN = {
    "data": {"config.yaml", "data.json"},
    "features": {"features.json"},
    "train": {"environment.json", "train/model.safetensors", "train/checkpoint.pt", "train/history.csv"},
    "compress": {"compress/packed.safetensors", "compress/packed.safetensors.xz", "compress/checkpoint.pt",
                 "compress/history.csv"},
    "complexity": {"complexity.json"},
    "predict": {"predictions/test.csv", "predictions/evaluation.csv"},
    "evaluate": {"evaluation.json", "report.html"},
    "package": {f"submission/{LABEL}/{LABEL}.output.csv", f"submission/{LABEL}/{LABEL}.meta.yaml",
                f"submission/{LABEL}.report.md", "submission/Lastname_INST_task1.zip"},
}


def untrained(system: config.Config, folder: Path) -> Path:
    """The vanilla model of a system, its norms drawn at random so that no value is 0 which training would move."""
    torch.manual_seed(0)
    spec = ModelSpec(system.model, system.features, TASK1A_2021.labels)
    model = spec.build()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for values in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
                nn.init.uniform_(values, 0.5, 1.5)
    model_file.save(folder / "model.safetensors", packed.stored_state(model), spec)
    return folder / "model.safetensors"


@pytest.fixture(scope="module")
def compressed(tmp_path_factory):
    """Writes the packed model of a system, pruned and quantized but not trained on, once for systems of one size."""
    made = {}

    def write(system: config.Config) -> Path:
        settings = system.compression
        packing = Packing(settings.weight_scales)
        key = (system.model, system.features, packing, settings.ratio, settings.target_bytes, settings.scope)
        if key not in made:
            folder = tmp_path_factory.mktemp("compressed")
            model, spec = compress.load_prepared(untrained(system, folder), packing)
            compress.prune_to(model, compress.choose_ratio(model, packing, settings), settings.scope)
            made[key] = folder / "packed.safetensors"
            model_file.save(made[key], packed.pack(model, packing), spec)
        return made[key]

    return write


def stated_parameters(system: config.Config) -> int | None:
    """Trainable values of a network as published, or as its file says; None where nothing is said."""
    model = system.model
    return CP_RESNET_MONO if model.name == "cp_resnet" else PUBLISHED.get((model.name, model.tau))


@pytest.mark.parametrize("name", SYSTEMS)
@torch.no_grad()
def test_every_system_predicts_with_as_many_parameters_as_are_stated(name):
    system = SYSTEMS[name]
    spec = ModelSpec(system.model, system.features, TASK1A_2021.labels)
    model = spec.build().eval()
    assert model(torch.randn(2, *spec.input_shape[:2], 40)).shape == (2, 10)
    assert stated_parameters(system) in (None, cost.parameter_count(model))


@pytest.mark.parametrize("name, method, features", [
    ("bcresnet_asc_8_resnorm", "BC-ResNet-ASC", "log-mel energies"),
    ("bcresnet_asc_1_freqnorm", "BC-ResNet-ASC", "log-mel energies"),
    ("bcresnet_asc_1_pcen", "BC-ResNet-ASC", "mel energies, PCEN"),
    ("bcresnet_8", "BC-ResNet", "log-mel energies"),
    ("cp_resnet_64", "CP-ResNet", "log-mel energies"),
])
def test_the_metadata_names_network_and_features(name, method, features):
    size = {"parameters": 1, "non_zero": 1, "bytes": 4, "by_bits": {}}
    records = meta_yaml.Records(
        Path("run"), asdict(SYSTEMS[name]), {"demo": False},
        {"policies": {"dcase2021": size}, "limit_policy": "dcase2021", "multiply_accumulates": 1},
        {"overall": {"logloss": 1.0, "accuracy": 50.0}, "class_wise": {}, "device_wise": {}})
    description = meta_yaml.build("A_B_task1a_1", {}, [records], TASK1A_2021)["system"]["description"]
    assert (description["machine_learning_method"], description["acoustic_features"]) == (method, features)


@pytest.mark.parametrize("name", COMPRESSED)
def test_every_compressed_system_is_within_the_limit(name, compressed):
    counted = measure.measure([compressed(SYSTEMS[name])])
    assert counted["within_limit"], size_verdict(counted)
    if SYSTEMS[name].model.tau == 8:
        by_bits = counted["policies"]["paper"]["by_bits"]
        assert (by_bits["8"]["non_zero"], by_bits["16"]["non_zero"]) == (33_035, 14_650)
        assert counted["policies"]["paper"]["KiB"] == pytest.approx(61.0, abs=0.05)


def test_the_ensemble_of_two_is_within_the_limit_and_leaves_little_of_it(compressed):
    members = SYSTEMS["bcresnet_asc_5_ensemble"].ensemble
    counted = measure.measure([compressed(SYSTEMS[name]) for name in members])
    assert len(counted["models"]) == 2 and counted["within_limit"]
    assert 0.99 * WARN_ABOVE_BYTES < counted["policies"]["dcase2021"]["bytes"] <= WARN_ABOVE_BYTES


def test_the_best_small_system_is_smaller_than_the_winning_entry_however_it_is_counted(compressed):
    """Each of three networks keeps 2,351 of 21,380 convolution weights, and has 3,670 other values and 33 scales."""
    counted = measure.measure([compressed(SYSTEMS[name]) for name in SYSTEMS["best_61k"].ensemble])
    by_bits = counted["policies"]["dcase2021"]["by_bits"]
    assert [by_bits[bits]["non_zero"] for bits in ("8", "16")] == [3 * 2_351, 3 * 3_670]
    assert by_bits["32"]["parameters"] == 3 * 33
    assert counted["policies"]["dcase2021"]["bytes"] <= 3 * (2_351 + 3_670 * 2 + 33 * 4) < 61.0 * 1024


def test_the_system_for_2025_is_the_largest_within_its_limits(compressed):
    """128,000 B with zeros, 30 million multiply-accumulates, for each model."""
    names = ("bcresnet_asc_4_2025", "bcresnet_asc_4_2025_devices")
    system, devices = (SYSTEMS[name] for name in names)
    assert devices.training.init_from == names[0] and devices.device_models == ("a", "b", "c", "s1", "s2", "s3")
    assert (system.model, system.features) == (devices.model, devices.features)

    def size(tau):
        wider = replace(system, model=replace(system.model, tau=tau))
        counted = measure.measure([compressed(wider)])
        stored = counted["policies"]["dcase2021"]["by_bits"].items()
        return sum(int(bits) // 8 * part["parameters"] for bits, part in stored), counted["multiply_accumulates"]

    stored, operations = size(system.model.tau)
    assert stored == 124_592 and operations == 20_267_444
    assert size(system.model.tau + 0.1)[0] > 128_000


def test_the_commands_report_of_the_winning_entry(compressed, capsys):
    path = compressed(SYSTEMS["bcresnet_asc_8_compressed_kd"])
    assert print_size([str(path)]) == 0
    said = capsys.readouterr().out
    paper = said[said.index("\npaper"):]
    for line in ("8 bit 300,320 33,035 33,035", "16 bit 14,650 14,650 29,300"):
        assert line in " ".join(paper.split()), paper
    assert "within the limit" in said and "multiply-accumulates" in said


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """One folder for the runs of all systems, which take vanilla models and members of ensembles from each other."""
    return tmp_path_factory.mktemp("systems") / "runs"


def expected_files(system: config.Config, fits: bool) -> set[str]:
    """What the chain leaves in the run folder of a system."""
    left_out = {"train": system.ensemble, "compress": system.ensemble or not system.compression.enabled,
                "package": not fits}
    stages = [stage for stage in WRITTEN if not left_out.get(stage)]
    calibration = {"compress/calibration.json"} if system.training.calibrate and not system.ensemble else set()
    return calibration.union(*(WRITTEN[stage] for stage in stages), (f"stages/{stage}.json" for stage in stages))


def stored_bytes(path: Path) -> int:
    return sum(int(value.count_nonzero()) * value.element_size() for value in load_file(path).values())


def probabilities(path: Path, recordings: list[Path]) -> np.ndarray:
    """What a model file says of recordings."""
    model, spec = model_file.load(path)
    features = np.stack([log_mel(read_clip(recording, spec.features), spec.features) for recording in recordings])
    stored = features.astype(np.float16).astype(np.float32)
    outputs = clips.logits(model, lambda indices: stored[indices], len(recordings), 64, torch.device("cpu"))
    return torch.softmax(outputs.double(), 1).numpy()


@pytest.mark.usefixtures("blank_figures")
@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in KINDS else pytest.mark.slow)
                                  for name, system in SYSTEMS.items() if not system.device_models])
def test_every_system_goes_through_the_whole_chain(name, runs, toy_data, capsys):
    """The files are those of the run folder; the counted model is the one that predicts; over the limit is no zip.

    Systems with models for single devices need an evaluation set that names the devices; test_runner.py has one.
    """
    system, folder = SYSTEMS[name], runs / name / "seed0"
    status = run_command(lambda: runner.main([
        "--system", str(FOLDER / f"{name}.yaml"), "--data-root", str(toy_data[0]), "--eval-root", str(toy_data[1]),
        "--runs", str(runs), "--name", name, "--device", "cpu", f"data.cache_dir={runs.parent / 'cache'}", *TOY,
        f"features.n_mels={MEL_BINS[system.model.name]}"]))

    parts = {member: SYSTEMS[member] for member in system.ensemble} or {name: system}
    files = [runs / part / "seed0" / ("compress/packed.safetensors" if of_part.compression.enabled else
                                      "train/model.safetensors") for part, of_part in parts.items()]
    size = sum(map(stored_bytes, files))
    fits = size <= 131_072
    assert status == (0 if fits else 1), capsys.readouterr().err

    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*")
            if path.is_file() and path.name != ".lock"} == expected_files(system, fits)

    counted = read_json(folder / "complexity.json")
    assert (counted["policies"]["dcase2021"]["bytes"], counted["within_limit"]) == (size, fits)
    for model, of_part in enumerate(parts.values()):
        values = sum(tensor["values"] for tensor in counted["tensors"] if tensor["model"] == model
                     and not tensor["statistics"] and not tensor["name"].endswith(".weight_scale"))
        assert stated_parameters(of_part) in (None, values)

    written = pd.read_csv(folder / "predictions" / "evaluation.csv", sep="\t")[:4]
    recordings = [toy_data[1] / clip for clip in written.filename]
    expected = np.mean([probabilities(path, recordings) for path in files], axis=0)
    np.testing.assert_allclose(written.iloc[:, 2:], expected, rtol=1e-3, atol=1e-6)
    if fits:
        assert {finding.level for finding in validate(folder / "submission" / "Lastname_INST_task1.zip")} == {
            "not_submittable"}
