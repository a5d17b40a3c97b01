"""A package beside the runs it was made of, which are written by hand: what differs is named, and nothing else is."""
import json
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import save_file
from sklearn.metrics import log_loss

from submission.validate import main, validate
from task1a.errors import InputError

LABELS = ("airport", "bus", "metro", "metro_station", "park", "public_square", "shopping_mall", "street_pedestrian",
          "street_traffic", "tram")
DEVICES = ("a", "b", "c", "s1", "s2", "s3", "s4", "s5", "s6")
SPLITS = ("split_5", "split_10", "split_25", "split_50", "split_100")
RESULTS = "results.development_dataset"


def predictions(filenames, seed):
    """Probabilities of nine digits as a table with its labels."""
    scores = np.random.default_rng(seed).normal(0, 2, (len(filenames), len(LABELS)))
    values = np.round(np.exp(scores) / np.exp(scores).sum(1, keepdims=True), 9)
    table = pd.DataFrame(values, columns=LABELS)
    table.insert(0, "filename", filenames)
    table.insert(1, "scene_label", [LABELS[index] for index in values.argmax(1)])
    return table


def scored(table, clips):
    """Log loss by scikit-learn, and the mean of the classes' accuracies."""
    table = table.merge(clips, on="filename", suffixes=("", "_true"))

    def score(rows):
        right = rows.scene_label == rows.scene_label_true
        return {"logloss": float(log_loss(rows.scene_label_true, rows[list(LABELS)], labels=LABELS)),
                "accuracy": float(100 * right.groupby(rows.scene_label_true).mean().mean())}

    return {"overall": score(table),
            "class_wise": {label: score(rows) for label, rows in table.groupby("scene_label_true")},
            "device_wise": {device: score(rows) for device, rows in table.groupby("device")}}


def tensors(zeros):
    """6 x 5 values of one byte, some of them zero, and 7 of two bytes, one of them zero."""
    weight, bias = torch.ones(6, 5, dtype=torch.int8), torch.ones(7, dtype=torch.float16)
    weight.view(-1)[:zeros] = 0
    bias[0] = 0
    return {"weight": weight, "bias": bias}


@pytest.fixture(scope="module")
def data_set(tmp_path_factory, records):
    """A development set in the TAU layout, without its audio: its folder, the test clips (four for every class and
    device), a function that makes predictions of them and their scores, and makers of records."""
    root = tmp_path_factory.mktemp("data") / "development"
    (root / "evaluation_setup").mkdir(parents=True)
    names = [(f"audio/{label}-city-{number}-0-{device}.wav", label, f"city-{number}", device)
             for label in LABELS for number in range(5) for device in DEVICES]
    clips = pd.DataFrame(names, columns=["filename", "scene_label", "identifier", "source_label"])
    clips.to_csv(root / "meta.csv", sep="\t", index=False)
    test = clips.identifier != "city-4"
    for name, table in (("train", clips[~test][["filename", "scene_label"]]), ("test", clips[test][["filename"]]),
                        ("evaluate", clips[test][["filename", "scene_label"]])):
        table.to_csv(root / "evaluation_setup" / f"fold1_{name}.csv", sep="\t", index=False)
    truth = clips[test].rename(columns={"source_label": "device"})[["filename", "scene_label", "device"]]

    @cache
    def judged(seed):
        table = predictions(list(truth.filename), seed)
        return table, scored(table, truth)

    return root, truth, judged, records


@dataclass(frozen=True)
class Case:
    """A package and the folder of its runs."""

    members: dict[str, bytes]
    rules: object
    runs: Path
    output: str
    meta: str
    results: dict

    def tree(self):
        return yaml.safe_load(self.members[self.meta])

    def with_meta(self, tree):
        return self.members | {self.meta: yaml.safe_dump(tree).encode()}


def write_run(root, data_set, clips, seed, zeros=10, compressed=True, ensemble=(), devices=(), test_seed=0, train=0):
    """A run folder as the stages leave it, as far as it is read; returns the results."""
    data_root, _, judged, records = data_set
    for folder in ("predictions", "compress", "train"):
        (root / folder).mkdir(parents=True)
    config = {"system": root.parent.name, "ensemble": list(ensemble), "compression": {"enabled": compressed},
              "data": {"source": "tau_layout", "root": str(data_root), "cache_dir": "cache"}}
    if devices:
        config |= {"device_models": list(devices), "training": {"init_from": "general"}}
    (root / "config.yaml").write_text(yaml.safe_dump(config))
    predictions([f"audio/{index}.wav" for index in range(clips)], seed).to_csv(
        root / "predictions" / "evaluation.csv", sep="\t", index=False, lineterminator="\n", float_format="%.9g")
    test, results = judged(test_seed)
    test.to_csv(root / "predictions" / "test.csv", sep="\t", index=False, float_format="%.9g")
    if not ensemble and not devices:
        save_file(tensors(zeros), root / ("compress/packed.safetensors" if compressed else "train/model.safetensors"))
    # the records say something else, which does not count while the files are there
    (root / "evaluation.json").write_text(json.dumps(records.evaluation(LABELS, DEVICES)))
    complexity = records.complexity(20000, ensemble) | {"multiply_accumulates": None}
    (root / "complexity.json").write_text(json.dumps(complexity))
    (root / "data.json").write_text(json.dumps({
        "name": "x", "demo": False, "clips": {"train": train}, "by_device": {"train": {}}}))
    return results


@pytest.fixture
def case(tmp_path, golden, data_set):
    package = golden("2021")
    results = write_run(tmp_path / "runs" / "x" / "seed0", data_set, clips=12, seed=1)
    tree = yaml.safe_load(package.members[package.meta])
    tree["results"]["development_dataset"] = deepcopy(results)
    tree["system"]["complexity"] = {"total_parameters": 37, "total_parameters_non_zero": 26, "model_size": 32 / 1024}
    members = {package.output: (tmp_path / "runs/x/seed0/predictions/evaluation.csv").read_bytes(),
               package.meta: yaml.safe_dump(tree).encode()}
    return Case(members, package.rules, tmp_path / "runs", package.output, package.meta, results)


@pytest.fixture
def differences(tmp_path, write_zip):
    """A function that compares members with runs; what differs, as (level, where, found, expected)."""

    def compare(case, members=None, runs=("x/seed0",)):
        path = write_zip(tmp_path / "p.zip", case.members if members is None else members)
        findings = validate(path, case.rules, [case.runs / run for run in runs])
        assert validate(path, case.rules) == () or members is not None
        return [(finding.level, finding.where, finding.found, finding.expected) for finding in findings]

    return compare


def test_a_package_of_its_run(case, differences):
    assert differences(case) == []


def test_rows_in_another_order(case, differences):
    header, *rows = case.members[case.output].split(b"\n")[:-1]
    assert differences(case, case.members | {case.output: b"\n".join([header, *reversed(rows)])}) == []


def test_cells_that_the_run_did_not_predict(case, differences):
    lines = case.members[case.output].decode().split("\n")
    row = lines[4].split("\t")
    right = row[2]
    row[2] = f"{float(right) + 1e-8:.9g}"
    changed = "\n".join([*lines[:4], "\t".join(row), *lines[5:]]).encode()
    [(level, where, found, expected)] = differences(case, case.members | {case.output: changed})
    assert (level, where, found) == ("error", "line 5, airport", repr(row[2]))
    assert expected.startswith(f"{right}, as ")
    row[2:] = ["1", *["0"] * 9]
    row[1] = "airport"
    changed = "\n".join([*lines[:4], "\t".join(row), *lines[5:]]).encode()
    [(_, where, found, _)] = differences(case, case.members | {case.output: changed})
    assert where in ("line 5, scene_label", "line 5, airport")
    assert "other columns that differ" in found
    padded = case.members[case.output].replace(right.encode(), right.encode() + b"0" * ("e" not in right))
    assert differences(case, case.members | {case.output: padded}) == []


def test_clips_that_the_run_did_not_predict(case, differences):
    fewer = b"\n".join(case.members[case.output].split(b"\n")[:-2])
    assert [(level, found) for level, _, found, _ in differences(case, case.members | {case.output: fewer})][1:] == [
        ("error", "1 clips fewer, one of them 11.wav")]
    other = case.members[case.output].replace(b"audio/11.wav", b"audio/12.wav")
    assert [(level, where) for level, where, _, _ in differences(case, case.members | {case.output: other})] == [
        ("not_submittable", ""), ("error", "line 13, filename"), ("error", "")]


@pytest.mark.parametrize(("path", "change", "right"), [
    ("system.complexity.total_parameters", 1, "37"),
    ("system.complexity.total_parameters_non_zero", -1, "26"),
    ("system.complexity.model_size", 1 / 1024, "0.03125"),
    (f"{RESULTS}.overall.logloss", 1e-6, None),
    (f"{RESULTS}.overall.accuracy", -0.05, None),
    (f"{RESULTS}.class_wise.bus.logloss", 0.001, None),
    (f"{RESULTS}.class_wise.tram.accuracy", 0.01, None),
    (f"{RESULTS}.device_wise.s6.logloss", 0.001, None),
    (f"{RESULTS}.device_wise.a.accuracy", 0.1, None),
])
def test_a_figure_that_is_not_what_the_files_come_to(case, differences, path, change, right):
    tree = case.tree()
    *above, key = path.split(".")
    node = tree
    for part in above:
        node = node[part]
    node[key] += change
    [(level, where, _, expected)] = differences(case, case.with_meta(tree))
    assert (level, where) == ("error", path)
    assert expected.startswith(f"{right or f'{node[key] - change:.9g}'}, as the files of ")


def test_the_model_counts_and_not_its_record(case, differences):
    save_file(tensors(zeros=12), case.runs / "x/seed0/compress/packed.safetensors")
    assert [(where, expected.split(",")[0]) for _, where, _, expected in differences(case, dict(case.members))] == [
        ("system.complexity.total_parameters_non_zero", "24"), ("system.complexity.model_size", "0.029296875")]


def test_files_that_are_not_there(case, differences, records):
    run = case.runs / "x/seed0"
    tree = case.tree()
    tree["results"]["development_dataset"]["overall"]["logloss"] += 0.01
    tree["system"]["complexity"] = {"total_parameters": 22695, "total_parameters_non_zero": 22000,
                                    "model_size": 20000 / 1024}
    (run / "compress/packed.safetensors").unlink()
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["root"] = str(case.runs / "none")
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    (run / "evaluation.json").write_text(json.dumps(records.evaluation(LABELS, DEVICES, **case.results)))
    told = differences(case, case.with_meta(tree))
    assert [(level, where) for level, where, _, _ in told] == [
        ("warning", "system.complexity"), ("warning", RESULTS), ("error", f"{RESULTS}.overall.logloss")]
    (run / "predictions/evaluation.csv").unlink()
    with pytest.raises(InputError, match="evaluation.csv: no such file"):
        differences(case)


def test_damaged_test_clips_are_left_out(case, differences, data_set):
    run = case.runs / "x/seed0"
    table = pd.read_csv(run / "predictions/test.csv", sep="\t")
    record = json.loads((run / "evaluation.json").read_text()) | {"left_out": [table.filename[0]]}
    (run / "evaluation.json").write_text(json.dumps(record))
    table[1:].to_csv(run / "predictions/test.csv", sep="\t", index=False)
    tree = case.tree()
    tree["results"]["development_dataset"] = scored(table[1:], data_set[1])
    assert differences(case, case.with_meta(tree)) == []
    table[2:].to_csv(run / "predictions/test.csv", sep="\t", index=False)
    with pytest.raises(InputError, match="cannot be judged by .*: predictions: missing 1 of 359 clips"):
        differences(case, case.with_meta(tree))


def test_an_ensemble_is_its_members(case, differences, data_set, tmp_path):
    runs = case.runs
    write_run(runs / "one/seed0", data_set, 12, seed=5, zeros=3, compressed=False)
    write_run(runs / "two/seed0", data_set, 12, seed=6, zeros=4)
    write_run(runs / "both/seed0", data_set, 12, seed=1, ensemble=("one", "two"))
    tree = case.tree()
    tree["system"]["complexity"] = {"total_parameters": 74, "total_parameters_non_zero": 27 + 6 + 26 + 6,
                                    "model_size": (27 + 12 + 26 + 12) / 1024}
    assert differences(case, case.with_meta(tree), runs=["both/seed0"]) == []
    (runs / "two/seed0/compress/packed.safetensors").unlink()
    told = differences(case, case.with_meta(tree), runs=["both/seed0"])
    assert [level for level, _, _, _ in told] == ["warning", "error", "error", "error"]


def test_every_split_has_a_run(tmp_path, golden, data_set, write_zip):
    package = golden("2024")
    tree = yaml.safe_load(package.members[package.meta])
    members = dict(package.members)
    for seed, (split, output) in enumerate(zip(SPLITS, package.outputs, strict=True)):
        run = tmp_path / split / "x"
        tree["results"]["development_dataset"][split] = deepcopy(
            write_run(run, data_set, 12, seed, zeros=seed, test_seed=seed % 2, train=100 * int(split[6:])))
        members[output] = (run / "predictions/evaluation.csv").read_bytes()
    tree["system"]["complexity"] = {"total_parameters": 37, "total_model_size": 44, "macs": 123}
    members[package.meta] = yaml.safe_dump(tree).encode()
    path = write_zip(tmp_path / "p.zip", members)
    assert validate(path, package.rules, [tmp_path / "{split}" / "x"]) == ()
    members[package.outputs[2]] = members[package.outputs[3]]
    tree["results"]["development_dataset"]["split_50"]["overall"]["accuracy"] += 0.01
    members[package.meta] = yaml.safe_dump(tree).encode()
    write_zip(path, members)
    findings = validate(path, package.rules, [tmp_path / "{split}" / "x"])
    assert {finding.file for finding in findings if finding.where.startswith("line ")} == {
        f"{package.label}.output.split_25.csv"}
    assert any(finding.found.startswith("the same predictions in") for finding in findings)
    assert findings[-1].where == f"{RESULTS}.split_50.overall.accuracy"
    write_run(tmp_path / "split_5" / "y", data_set, 12, 1, train=501)
    for split in SPLITS[1:]:
        write_run(tmp_path / split / "y", data_set, 12, 1, train=500)
    assert "runs with 501 / 500 / 500 / 500 / 500 training clips" in [
        finding.found for finding in validate(path, package.rules, [tmp_path / "{split}" / "y"])]


def test_models_for_single_devices_and_the_general_one(tmp_path, golden, data_set, write_zip):
    package, runs = golden("2025"), tmp_path / "runs"
    general = write_run(runs / "general/seed0", data_set, 12, seed=3, zeros=1, test_seed=1)
    write_run(runs / "x_a/seed0", data_set, 12, seed=4, zeros=20)
    write_run(runs / "x_s1/seed0", data_set, 12, seed=5, zeros=2)
    specific = write_run(runs / "x/seed0", data_set, 12, seed=1, devices=["a", "s1"])
    tree = yaml.safe_load(package.members[package.meta])
    tree["results"]["development_dataset"] = {"device_specific": deepcopy(specific), "general": deepcopy(general)}
    tree["system"]["complexity"] = {"total_parameters": 37, "total_model_size": 44, "macs": 123}
    output = (runs / "x/seed0/predictions/evaluation.csv").read_bytes()

    def compared(run):
        members = package.members | {package.output: output, package.meta: yaml.safe_dump(tree).encode()}
        findings = validate(write_zip(tmp_path / "p.zip", members), package.rules, [runs / run / "seed0"])
        return [(finding.level, finding.where, finding.found) for finding in findings]

    assert general != specific and compared("x") == []
    # one model counts, as a clip is predicted by one of them, and not their sum
    tree["system"]["complexity"] |= {"total_parameters": 3 * 37, "total_model_size": 3 * 44}
    assert [where for _, where, _ in compared("x")] == ["system.complexity.total_parameters",
                                                        "system.complexity.total_model_size"]
    tree["system"]["complexity"] |= {"total_parameters": 37, "total_model_size": 44}
    tree["results"]["development_dataset"]["general"]["overall"]["accuracy"] += 0.01
    assert [(level, where) for level, where, _ in compared("x")] == [("error", f"{RESULTS}.general.overall.accuracy")]
    tree["results"]["development_dataset"]["general"] = None
    assert compared("x") == [("error", f"{RESULTS}.general", "no results")]
    tree["results"]["development_dataset"] |= {"device_specific": deepcopy(general), "general": deepcopy(general)}
    output = (runs / "general/seed0/predictions/evaluation.csv").read_bytes()
    assert compared("general") == [("error", f"{RESULTS}.device_specific", "results")]
    tree["results"]["development_dataset"]["device_specific"] = None
    assert compared("general") == []


def test_another_run_of_other_labels(case, differences):
    path = case.runs / "x/seed0/predictions/evaluation.csv"
    path.write_text(path.read_text().replace("tram", "boat"))
    [(level, where, found, expected)] = differences(case, dict(case.members))
    assert (level, where) == ("error", "line 1")
    assert "boat" in expected


def test_systems_and_runs_are_matched_by_number(tmp_path, golden, write_zip, capsys):
    package = golden(systems=3)
    path = write_zip(tmp_path / "p.zip", package.members)
    with pytest.raises(InputError, match="given 2 times for 3 systems; .*_1 Kim_QTI_task1a_2 Kim_QTI_task1a_3"):
        validate(path, package.rules, [tmp_path, tmp_path])
    with pytest.raises(InputError, match=r"evaluation\.csv: no such file"):
        main([str(path), "--run", "none", "--run", "none", "--run", "none"])


@pytest.mark.parametrize("record", ["evaluation", "complexity", "data"])
def test_incomplete_records(case, differences, record):
    (case.runs / f"x/seed0/{record}.json").write_text("{}")
    with pytest.raises(InputError, match=f"{record}.json: damaged.*: .* Field required; make it again with"):
        differences(case)
    with pytest.raises(InputError, match="no such file"):
        differences(replace(case, runs=case.runs / "none"))
