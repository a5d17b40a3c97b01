import json

import pytest
import torch

from task1a import complexity, model_file
from task1a.config import FeatureConfig, ModelConfig
from task1a.model_file import ModelSpec

LABELS = tuple("abcdefghij")


def stored(path, tau=1.0):
    spec = ModelSpec(ModelConfig(tau=tau), FeatureConfig(), LABELS)
    torch.manual_seed(0)
    model = spec.build()
    with torch.no_grad():  # nothing is zero by accident, as it is not after training
        for value in (*model.parameters(), *model.buffers()):
            if value.is_floating_point():
                value.copy_(torch.where(value == 0, 1.0, value))
    model_file.save(path, model, spec)
    return path


def test_asc_1_by_hand(tmp_path):
    counted = complexity.measure(stored(tmp_path / "m.safetensors"))
    paper, rules = counted["policies"]["paper"], counted["policies"]["dcase2021"]
    assert (paper["parameters"], paper["non_zero"], paper["bytes"]) == (8_055, 8_055, 4 * 8_055)
    assert rules["parameters"] == 8_055 + 1_830  # running mean and variance of as many norm values
    assert (rules["bytes"], rules["kB"], rules["KiB"]) == (39_540, 39.54, 39_540 / 1024)
    assert counted["by_bits"] == {"32": rules}
    assert counted["multiply_accumulates"] == 19_562_940
    assert counted["within_limit"] and (counted["limit_bytes"], counted["warning_bytes"]) == (131_072, 128_000)


def test_asc_8_is_over_the_limit(tmp_path, capsys):
    path = stored(tmp_path / "m.safetensors", tau=8.0)
    assert complexity.main([str(path)]) == 1
    said = capsys.readouterr().out
    size = 4 * (314_970 + 14_640)
    assert f"{size:,} B" in said and f"over the limit by {size - 131_072:,} B" in said
    assert "509,416,920" in said


def test_zeros_do_not_count_and_statistics_only_under_the_rules_of_the_challenge(tmp_path):
    path = stored(tmp_path / "m.safetensors")
    model, spec = model_file.load(path)
    with torch.no_grad():
        model.head.weight[:] = 0
        model.head.weight[3, 7] = -0.5
        model.stem[1].running_mean[:5] = 0
    model_file.save(path, model, spec)
    counted = complexity.measure(path)
    assert counted["policies"]["paper"]["non_zero"] == 8_055 - 250 + 1
    assert counted["policies"]["dcase2021"]["non_zero"] == 8_055 + 1_830 - 250 + 1 - 5
    assert counted["policies"]["dcase2021"]["parameters"] == 8_055 + 1_830
    tensors = {tensor["name"]: tensor for tensor in counted["tensors"]}
    assert tensors["head.weight"] == {"name": "head.weight", "shape": [10, 25, 1, 1], "dtype": "float32", "bits": 32,
                                      "values": 250, "non_zero": 1, "bytes": 4, "statistics": False}
    assert tensors["stem.1.running_mean"]["statistics"]


@pytest.mark.parametrize("size, within, said", [
    (128_000, True, "within the limit"), (128_001, True, "but above 128,000 B"),
    (131_072, True, "but above 128,000 B"), (131_073, False, "over the limit by 1 B"),
])
def test_the_verdict_at_its_edges(size, within, said):
    total = complexity.totals([complexity.TensorSize("w", (size,), "int8", 8, size, size, False)])
    assert total["bytes"] == size
    counted = {"policies": {"dcase2021": total}, "limit_policy": "dcase2021", "limit_bytes": 131_072,
               "warning_bytes": 128_000, "within_limit": within}
    assert complexity.verdict(counted).endswith(said) or said in complexity.verdict(counted)


def test_the_command_prints_what_it_counts(tmp_path, capsys):
    path = stored(tmp_path / "m.safetensors")
    assert complexity.main([str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == complexity.measure(path)
    complexity.main([str(path)])
    table = capsys.readouterr().out
    for tensor in complexity.stored_tensors(path):
        assert f"{tensor.name} " in table
    assert "39,540 B (39.54 kB, 38.61 KiB) of 131,072 B: within the limit" in table
