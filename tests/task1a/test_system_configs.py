"""The shipped systems: parameter counts, and the sizes that they come to once compressed."""
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import nn

from submission import meta_yaml
from submission.rules import TASK1A_2021
from task1a import complexity, config, model_file, models
from task1a.complexity import LIMIT
from task1a.compression import packed
from task1a.compression.packed import Packing
from task1a.model_file import ModelSpec
from task1a.training import distill

FOLDER = Path(__file__).resolve().parents[2] / "system_configs"
SYSTEMS = {path.stem: config.load(path) for path in sorted(FOLDER.glob("*.yaml"))}
COMPRESSED = [name for name, system in SYSTEMS.items() if system.compression.enabled and not system.ensemble]
PUBLISHED = {("bcresnet_asc", 1): 8_055, ("bcresnet_asc", 8): 314_970, ("bcresnet", 8): 317_098}
CP_RESNET_MONO = 896_980  # 898,580 with the two input channels of the publication


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


def compressed(system: config.Config, folder: Path) -> Path:
    """The packed model of a system, pruned and quantized but not trained on."""
    settings = system.compression
    packing = Packing(settings.weight_scales, settings.fold_batch_norms)
    model, spec = distill.prepared(untrained(system, folder), packing)
    distill.prune_to(model, distill.wanted_ratio(model, packing, settings), settings.scope)
    model_file.save(folder / f"{system.system}.safetensors", packed.pack(model, packing), spec)
    return folder / f"{system.system}.safetensors"


@pytest.mark.parametrize("name", SYSTEMS)
@torch.no_grad()
def test_every_system_predicts_with_as_many_parameters_as_are_stated(name):
    system = SYSTEMS[name]
    spec = ModelSpec(system.model, system.features, TASK1A_2021.labels)
    model = spec.build().eval()
    assert model(torch.randn(2, *spec.input_shape[:2], 40)).shape == (2, 10)
    if system.model.name == "cp_resnet":
        assert models.parameter_count(model) == CP_RESNET_MONO
    elif system.model.tau in (1, 8):
        assert models.parameter_count(model) == PUBLISHED[system.model.name, system.model.tau]


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
        asdict(SYSTEMS[name]), {"demo": False},
        {"policies": {"dcase2021": size}, "limit_policy": "dcase2021", "multiply_accumulates": 1},
        {"overall": {"logloss": 1.0, "accuracy": 50.0}, "class_wise": {}, "device_wise": {}})
    description = meta_yaml.build("A_B_task1a_1", {}, [records], TASK1A_2021)["system"]["description"]
    assert (description["machine_learning_method"], description["acoustic_features"]) == (method, features)


@pytest.mark.parametrize("name", COMPRESSED)
def test_every_compressed_system_is_within_the_limit(name, tmp_path):
    counted = complexity.measure([compressed(SYSTEMS[name], tmp_path)])
    assert counted["within_limit"], complexity.verdict(counted)
    if SYSTEMS[name].model.tau == 8:
        by_bits = counted["policies"]["paper"]["by_bits"]
        assert (by_bits["8"]["non_zero"], by_bits["16"]["non_zero"]) == (33_035, 14_650)
        assert counted["policies"]["paper"]["KiB"] == pytest.approx(61.0, abs=0.05)


def test_the_ensemble_of_two_is_within_the_limit_and_leaves_little_of_it(tmp_path):
    members = SYSTEMS["bcresnet_asc_5_ensemble"].ensemble
    counted = complexity.measure([compressed(SYSTEMS[name], tmp_path) for name in members])
    assert len(counted["models"]) == 2 and counted["within_limit"]
    assert 0.99 * LIMIT.doubtful_above < counted["policies"]["dcase2021"]["bytes"] <= LIMIT.doubtful_above


def test_the_commands_report_of_the_winning_entry(tmp_path, capsys):
    path = compressed(SYSTEMS["bcresnet_asc_8_compressed_kd"], tmp_path)
    assert complexity.main([str(path)]) == 0
    said = capsys.readouterr().out
    paper = said[said.index("\npaper"):]
    for line in ("8 bit 300,320 33,035 33,035", "16 bit 14,650 14,650 29,300"):
        assert line in " ".join(paper.split()), paper
    assert "within the limit" in said and "multiply-accumulates" in said
