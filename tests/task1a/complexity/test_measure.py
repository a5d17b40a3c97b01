import json
import os
import sys

import pytest
import torch
from safetensors.torch import save_file

from task1a import model_file
from task1a.challenge import size_verdict
from task1a.complexity import measure
from task1a.complexity.__main__ import format_report, main
from task1a.complexity.model_files import stored_tensors
from task1a.complexity.tensors import TensorSize
from task1a.config import BCResNetASCConfig, FeatureConfig
from task1a.errors import run_command
from task1a.model_file import ModelSpec

LABELS = tuple("abcdefghij")
HALF, BYTE = torch.float16, torch.int8


def stored(path, tau=1.0, **zeroed):
    """A model file in which nothing is zero, as after training, but the first ``zeroed`` values of some tensors."""
    spec = ModelSpec(BCResNetASCConfig(tau=tau), FeatureConfig(), LABELS)
    tensors = {name: torch.rand(value.shape) + 0.5 for name, value in spec.build().state_dict().items()
               if value.is_floating_point()}
    for name, count in zeroed.items():
        tensors[name].view(-1)[:count] = 0
    model_file.save(path, tensors, spec)
    return path


def sizes(total):
    return total["parameters"], total["non_zero"], total["bytes"]


def test_operations_count_every_pass(tmp_path):
    paths = [stored(tmp_path / "m.safetensors"), stored(tmp_path / "n.safetensors", tau=2)]
    once = [measure.measure([path])["multiply_accumulates"] for path in paths]
    counted = measure.measure(paths, passes=[3, 1])
    assert counted["multiply_accumulates"] == 3 * once[0] + once[1]
    assert counted["policies"] == measure.measure(paths)["policies"]


def test_asc_1_by_hand(tmp_path):
    counted = measure.measure([stored(tmp_path / "m.safetensors")])
    paper, rules = counted["policies"]["paper"], counted["policies"]["dcase2021"]
    assert sizes(paper) == (8_055, 8_055, 4 * 8_055)
    assert rules["parameters"] == 8_055 + 1_830  # running mean and variance of as many norm values
    assert (rules["bytes"], rules["kB"], rules["KiB"]) == (39_540, 39.54, 39_540 / 1024)
    assert rules["by_bits"] == {"32": {key: value for key, value in rules.items() if key != "by_bits"}}
    assert counted["multiply_accumulates"] == 19_562_940
    assert counted["models"] == [{
        "file": "m.safetensors", "file_bytes": (tmp_path / "m.safetensors").stat().st_size, "xz_bytes": None,
        "multiply_accumulates": 19_562_940, "trainable_parameters": 8_055, "input_shape": [1, 256, 334], "excluded": {},
        "device_models": {}}]
    assert counted["within_limit"] and (counted["limit_bytes"], counted["warning_bytes"]) == (131_072, 128_000)


def test_asc_8_is_over_the_limit(tmp_path, capsys):
    path = stored(tmp_path / "m.safetensors", tau=8.0)
    assert main([str(path)]) == 1
    said = capsys.readouterr().out
    size = 4 * (314_970 + 14_640)
    assert f"{size:,} B" in said and f"over the limit by {size - 131_072:,} B" in said
    assert "509,416,920" in said


def test_zeros_do_not_count_and_statistics_only_under_the_rules_of_the_challenge(tmp_path):
    path = stored(tmp_path / "m.safetensors", **{"head.weight": 249, "stem.1.running_mean": 5})
    counted = measure.measure([path])
    assert counted["policies"]["paper"]["non_zero"] == 8_055 - 249
    assert counted["policies"]["dcase2021"]["non_zero"] == 8_055 + 1_830 - 249 - 5
    assert counted["policies"]["dcase2021"]["parameters"] == 8_055 + 1_830
    tensors = {tensor["name"]: tensor for tensor in counted["tensors"]}
    assert tensors["head.weight"] == {"model": 0, "name": "head.weight", "shape": [10, 25, 1, 1], "dtype": "float32",
                                      "bits": 32, "values": 250, "non_zero": 1, "bytes": 4, "statistics": False}
    assert tensors["stem.1.running_mean"]["statistics"]


BASELINE = {
    # layer: shape of the weights; of the three convolutions followed by a batch norm of as many channels
    "conv2d_3": (16, 1, 7, 7), "conv2d_4": (16, 16, 7, 7), "conv2d_5": (32, 16, 7, 7), "dense_2": (100, 64),
    "dense_3": (10, 100),
}


def baseline(norms):
    """The network of the organisers' baseline, its weights in half precision, its batch norms, if any, in float32."""
    tensors = {}
    for layer, shape in BASELINE.items():
        tensors |= {f"{layer}.weight": torch.ones(shape, dtype=HALF), f"{layer}.bias": torch.ones(shape[0], dtype=HALF)}
        if layer.startswith("conv") and norms:
            tensors |= {f"{layer}.norm.{name}": torch.ones(shape[0])
                        for name in ("weight", "bias", "running_mean", "running_var")}
    return tensors


@pytest.mark.parametrize("name", ["m.safetensors", "m.pt"])
def test_the_published_sizes_of_the_organisers_baseline(tmp_path, name, capsys):
    save = save_file if name.endswith("safetensors") else torch.save
    save(baseline(norms=True), tmp_path / name)
    assert main([str(tmp_path / name)]) == 0
    assert "size under dcase2021: 93,004 B (93.00 kB, 90.82 KiB) of 131,072 B" in capsys.readouterr().out
    counted = measure.measure([tmp_path / name])["policies"]
    assert sizes(counted["dcase2021"]) == (46_246, 46_246, 93_004)
    assert sizes(counted["paper"])[:2] == (46_118, 46_118)  # the trainable ones

    save(baseline(norms=False), tmp_path / name)  # as in TFLite, where they are part of the convolutions
    assert sizes(measure.measure([tmp_path / name])["policies"]["dcase2021"]) == (45_990, 45_990, 91_980)


def test_the_published_size_of_the_compressed_system(tmp_path, network, capsys):
    tensors, left = {}, 33_035  # weights that pruning 0.89 of 300,320 leaves
    for name, value in network(tau=8.0).state_dict().items():
        if value.ndim == 4:
            tensors[f"{name}_scale"] = torch.tensor(0.5)
            tensors[name] = (torch.arange(value.numel()) < left).to(BYTE).view(value.shape)
            left = max(0, left - value.numel())
        elif value.is_floating_point():
            tensors[name] = torch.ones(value.shape, dtype=HALF)
    save_file(tensors, tmp_path / "m.safetensors")
    assert main([str(tmp_path / "m.safetensors")]) == 0
    counted = measure.measure([tmp_path / "m.safetensors"])["policies"]
    assert {bits: sizes(total) for bits, total in counted["paper"]["by_bits"].items()} == {
        "8": (300_320, 33_035, 33_035), "16": (14_650, 14_650, 29_300), "32": (33, 33, 132)}
    assert counted["paper"]["bytes"] == 62_467 and round(counted["paper"]["KiB"], 1) == 61.0
    assert sizes(counted["dcase2021"]["by_bits"]["16"]) == (29_290, 29_290, 58_580)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    start = rows.index(["paper", "315,003", "47,718", "62,467", "62.47", "61.00"])
    assert [row[:4] for row in rows[start + 1:start + 4]] == [
        ["8", "bit", "300,320", "33,035"], ["16", "bit", "14,650", "14,650"], ["32", "bit", "33", "33"]]


def test_models_of_an_ensemble_add_up(tmp_path, capsys):
    paths = [stored(tmp_path / "a.safetensors"), stored(tmp_path / "b.safetensors", **{"head.weight": 10})]
    counted = measure.measure(paths)
    assert sizes(counted["policies"]["dcase2021"]) == (2 * 9_885, 2 * 9_885 - 10, 2 * 39_540 - 40)
    assert counted["multiply_accumulates"] == 2 * 19_562_940
    assert [model["file"] for model in counted["models"]] == ["a.safetensors", "b.safetensors"]
    assert [t["non_zero"] for t in counted["tensors"] if t["name"] == "head.weight"] == [250, 240]
    assert [t["model"] for t in counted["tensors"]] == 126 * [0] + 126 * [1]

    torch.save({"w": torch.ones(26_000), "n.running_mean": torch.zeros(3), "n.num_batches_tracked": torch.tensor(9)},
               tmp_path / "c.pt")
    assert main([str(paths[0]), str(tmp_path / "c.pt")]) == 1  # 39,540 B and 104,000 B
    said = capsys.readouterr().out
    assert "model 1: a.safetensors\n" in said and "model 2: c.pt\n" in said
    assert "a.safetensors: " in said and "B on disk, 39,540 B counted\n" in said
    assert "104,000 B counted\n  not counted: step counters (num_batches_tracked), 1 values, 8 B\n" in said
    assert "for an input of 1 x 256 x 334: 19,562,940" in said and "together" not in said
    assert "143,540 B" in said and "over the limit by 12,468 B" in said
    counted = measure.measure([paths[0], tmp_path / "c.pt"])
    assert counted["multiply_accumulates"] is None
    assert [list(model["excluded"]) for model in counted["models"]] == [[], ["step counters (num_batches_tracked)"]]


def test_the_small_encoding_counts_the_same(tmp_path):
    path = stored(tmp_path / "m.safetensors")
    small = model_file.save_xz(path)
    plain, packed = measure.measure([path]), measure.measure([small])
    assert packed["policies"] == plain["policies"] and packed["multiply_accumulates"] == 19_562_940
    assert packed["models"][0]["file_bytes"] == small.stat().st_size < plain["models"][0]["file_bytes"]
    assert plain["models"][0]["xz_bytes"] == small.stat().st_size
    assert (f"{path.stat().st_size:,} B on disk ({small.stat().st_size:,} B as m.safetensors.xz), 39,540 B counted"
            in format_report(plain))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such file names")
def test_a_file_name_that_is_no_text(tmp_path, capsys):
    path = stored(tmp_path / os.fsdecode(b"m\xff\n.safetensors"))
    assert main([str(path)]) == 0
    assert "\nm??.safetensors: " in capsys.readouterr().out


@pytest.mark.parametrize("size, within, said", [
    (128_000, True, "within the limit"), (128_001, True, "but above 128,000 B"),
    (131_072, True, "but above 128,000 B"), (131_073, False, "over the limit by 1 B"),
])
def test_the_verdict_at_its_edges(size, within, said):
    total = measure.totals([TensorSize("w", (size,), "int8", 8, size, size)])
    assert total["bytes"] == size
    counted = {"policies": {"dcase2021": total}, "limit_policy": "dcase2021", "limit_bytes": 131_072,
               "warning_bytes": 128_000, "within_limit": within}
    assert said in size_verdict(counted)


def test_the_command_prints_what_it_counts(tmp_path, capsys):
    path = stored(tmp_path / "m.safetensors")
    assert main([str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == measure.measure([path])
    main([str(path)])
    table = capsys.readouterr().out
    for tensor in stored_tensors(path):
        assert f"{tensor.name} " in table
    assert "39,540 B (39.54 kB, 38.61 KiB) of 131,072 B: within the limit" in table


@pytest.mark.parametrize("arguments", [[], ["gone.pt"], ["notes.txt"], ["damaged.safetensors"], ["ok.pt", "gone.pt"]])
def test_what_cannot_be_counted_is_told_in_one_line(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("no model")
    (tmp_path / "damaged.safetensors").write_bytes(b"12345678")
    torch.save({"w": torch.ones(3)}, tmp_path / "ok.pt")
    assert run_command(lambda: main(arguments)) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith("error: ") and err.count("\n") == 1
