"""Runs written by hand: the records and predictions that the other stages leave, as far as packaging reads them."""
import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from submission.package import package
from submission.rules import TASK1A_2021
from submission.validation.findings import Finding

LABELS = ("airport", "bus", "metro", "metro_station", "park", "public_square", "shopping_mall", "street_pedestrian",
          "street_traffic", "tram")
DEVICES = ("a", "b", "c", "s1", "s2", "s3", "s4", "s5", "s6")

CONFIG = {
    "system": "bcresnet_asc_1", "seed": 0,
    "data": {"source": "tau_layout", "root": None, "evaluation_root": None, "cache_dir": "cache"},
    "features": {"sample_rate": 16000, "n_mels": 256, "window": 2080, "hop": 480, "n_fft": 4096, "f_min": 0.0,
                 "f_max": None, "log_floor": 1e-8, "clip_seconds": 10.0},
    "model": {"name": "bcresnet_asc", "front_end": "log_mel", "tau": 1.0},
    "training": {"epochs": 60, "batch_size": 16, "learning_rate": 0.06, "warmup_epochs": 5.0, "momentum": 0.9,
                 "weight_decay": 0.001, "mixup_alpha": 0.3, "frequency_masks": 2, "frequency_mask_bins": 40,
                 "time_masks": 2, "time_mask_frames": 80, "roll_seconds": 1.5, "validation_fraction": 0.1,
                 "calibrate": False},
    "compression": {"enabled": False, "epochs": 30, "learning_rate": 0.03, "warmup_epochs": 3.0, "ratio": 0.89,
                    "target_bytes": None, "scope": "global", "schedule": "one_shot", "weight_scales": "tensor",
                    "teachers": ["vanilla"], "temperature": 2.0,
                    "cross_entropy_weight": 0.5, "distillation_weight": 0.5},
    "ensemble": [],
    "submission": {"name": "BC-ResNet-ASC-1", "abbreviation": "BCRes1", "authors": None,
                   "source_code": "https://code.tuni.test/asc"},
}
AUTHORS = {"authors": [
    {"lastname": "Virtanen", "firstname": "Aino", "email": "aino.virtanen@tuni.test",
     "affiliation": {"abbreviation": "TAU", "institute": "Tampere University", "department": None,
                     "location": "Tampere, Finland"}},
    {"lastname": "Müller-Łoś", "firstname": "Jörg", "email": "j.mueller@uni-graz.test", "corresponding": True,
     "affiliation": {"abbreviation": "U. Graz", "institute": "Yes: #1", "department": "Signals", "location": "Graz"}},
]}


SAID = SimpleNamespace(labels=LABELS, devices=DEVICES, config=CONFIG, authors=AUTHORS["authors"])


def predictions_csv(labels, filenames, seed=0):
    """A prediction table, its float32 softmax rows written by numpy and no code of the project."""
    scores = np.random.default_rng(seed).normal(0, 3, (len(filenames), len(labels)))
    rows = (np.exp(scores) / np.exp(scores).sum(1, keepdims=True)).astype(np.float32)
    lines = ["\t".join(("filename", "scene_label", *labels))]
    lines += ["\t".join((name, labels[int(np.argmax(row))], *(f"{p:.9g}" for p in row)))
              for name, row in zip(filenames, rows, strict=True)]
    return "\n".join(lines) + "\n"


def complexity(size, members):
    """The record of 22,695 values, 22,000 of them not zero, in two tensors; of an ensemble one is the last member's."""
    tensors = [{"model": 0, "name": "stem.weight", "shape": [20, 1, 10, 100], "dtype": "int8", "bits": 8,
                "values": 20000, "non_zero": 19500, "bytes": 19500},
               {"model": len(members[1:]), "name": "norm.weight", "shape": [2695], "dtype": "float16", "bits": 16,
                "values": 2695, "non_zero": 2500, "bytes": size - 19500}]
    counts = {"parameters": 22695, "non_zero": 22000, "bytes": size, "kB": size / 1000, "KiB": size / 1024,
              "by_bits": {"8": {"parameters": 20000}, "16": {"parameters": 2695}}}
    return {"models": [{"file": "packed.safetensors"} for _ in members or [None]], "tensors": tensors,
            "policies": {"dcase2021": counts, "paper": counts | {"bytes": 1}}, "trainable_parameters": 22695,
            "multiply_accumulates": 19562940, "limit_policy": "dcase2021", "limit_bytes": 131072,
            "warning_bytes": 128000, "within_limit": size <= 131072}


def evaluation(labels, devices, **scores):
    """The record of an evaluation with some scores, and none of what packaging does not read."""
    groups = dict.fromkeys(("real", "seen", "unseen"))
    return {"data": {"name": "TAU", "demo": False, "clips": 2968}, "labels": list(labels), "devices": list(devices),
            "overall": {"logloss": 1.0, "accuracy": 50.0}, "class_wise": dict.fromkeys(labels),
            "device_wise": dict.fromkeys(devices), "device_groups": groups,
            "class_device_wise": {label: dict.fromkeys(devices) for label in labels},
            "intervals": {"overall": None, "device_wise": dict.fromkeys(devices), "device_groups": groups},
            "calibration": {"expected_calibration_error": 0.0, "bins": []}, "highest_losses": [], "probability_0": [],
            "confusion": {label: dict.fromkeys(labels, 0) for label in labels}, **scores}


@pytest.fixture(scope="session")
def records():
    """Functions that make complete records."""
    return SimpleNamespace(complexity=complexity, evaluation=evaluation)


@pytest.fixture(scope="session")
def said():
    """What the files of a run say: labels, devices, config, authors."""
    return SAID


@pytest.fixture(scope="session")
def make_run():
    """A function that writes a run folder."""

    def make(root, labels=LABELS, devices=DEVICES, clips=7920, demo=False, size=32220, seed=0, config=CONFIG,
             train=13962):
        (root / "predictions").mkdir(parents=True)
        (root / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        filenames = [f"audio/{index}.wav" for index in range(clips)]
        (root / "predictions" / "evaluation.csv").write_bytes(predictions_csv(labels, filenames, seed).encode())
        records = {
            "data.json": {"name": "TAU", "demo": demo, "labels": labels, "devices": devices,
                          "clips": {"train": train}, "by_device": {"train": {"a": 10215, "s1": 3747}}},
            "environment.json": {"python": "3.12.1", "packages": {"torch": "2.11.0"}, "git_commit": None,
                                 "platform": "Linux", "processor": "x86_64", "threads": 2, "device": "cpu"},
            "complexity.json": complexity(size, config["ensemble"]),
            "evaluation.json": evaluation(
                labels, devices, data={"name": "TAU", "demo": demo, "clips": 2968},
                overall={"logloss": 1.0, "accuracy": 55.0},
                class_wise={label: {"logloss": 1 + i / 8, "accuracy": 50.5 + i} for i, label in enumerate(labels)},
                device_wise={name: {"logloss": 1 / (i + 1), "accuracy": 60.0 - i} for i, name in enumerate(devices)},
                device_groups={"real": {"logloss": 0.5, "accuracy": 59.0}, "seen": None, "unseen": None}),
        }
        for name, record in records.items():
            (root / name).write_text(json.dumps(record), encoding="utf-8")
        return root

    return make


@pytest.fixture(scope="session")
def make_device_run(make_run):
    """A function that writes the run of a system with models for the devices a and s1, and the run of its general
    model, whose results are another: 50 % and, for the test devices, 51, 52, ... %."""

    def make(runs, clips=12, general=True, **settings):
        short = CONFIG | {"features": CONFIG["features"] | {"clip_seconds": 1.0}}
        if general:
            folder = make_run(runs / "asc" / "seed0", clips=clips, config=short | {"system": "asc"}, **settings)
            record = json.loads((folder / "evaluation.json").read_text())
            record["overall"] = {"logloss": 1.25, "accuracy": 50.0}
            record["class_wise"] = {label: {"logloss": 1.25, "accuracy": 50.0} for label in record["class_wise"]}
            record["device_wise"] = {name: {"logloss": 1.25, "accuracy": 51.0 + index}
                                     for index, name in enumerate(record["device_wise"])}
            (folder / "evaluation.json").write_text(json.dumps(record))
        config = short | {"system": "asc_devices", "device_models": ["a", "s1"],
                          "training": CONFIG["training"] | {"init_from": "asc", "epochs": 5}}
        for device in ("a", "s1"):
            part = runs / f"asc_devices_{device}" / "seed0"
            part.mkdir(parents=True)
            (part / "config.yaml").write_text(yaml.safe_dump(short), encoding="utf-8")
        return make_run(runs / "asc_devices" / "seed0", clips=clips, config=config, seed=1, **settings)

    return make


@pytest.fixture(scope="session")
def authors(tmp_path_factory):
    """A filled authors' file."""
    path = tmp_path_factory.mktemp("authors") / "authors.yaml"
    path.write_text(yaml.safe_dump(AUTHORS, allow_unicode=True), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def authors_2025(tmp_path_factory):
    """A filled authors' file with the address of the inference package."""
    path = tmp_path_factory.mktemp("authors") / "authors.yaml"
    code = {"system": {"inference_code": "https://code.tuni.test/asc_inference"}}
    path.write_text(yaml.safe_dump(AUTHORS | code, allow_unicode=True), encoding="utf-8")
    return path


@pytest.fixture
def rendered(monkeypatch):
    """Replace writing and checking an inference package: one writes its marker and labels, the other finds a warning in
    every package that it checks; the calls of its functions."""
    calls = []

    def render(runs, out):
        calls.append((dict(runs), out))
        folder = out / f"{next(iter(runs)).rpartition('_')[0]}_inference"
        module = folder / folder.name.removesuffix("_inference")
        module.mkdir(parents=True)
        (folder / ".task1a").write_text("")
        for label in runs:
            (module / f"{label}.py").write_text("raise SystemExit('executed')")
        return folder

    def check(folder, rules):
        calls.append((folder, rules.year))
        return [Finding("warning", folder.name, "", "a stub", "a package")]

    monkeypatch.setattr("submission.inference2025.package.render", render)
    monkeypatch.setattr("submission.inference2025.check.check", check)
    return calls


@pytest.fixture(scope="session")
def small_rules():
    """The rules with an evaluation set of twelve clips."""
    return dataclasses.replace(TASK1A_2021, clips=12)


@pytest.fixture(scope="session")
def full(tmp_path_factory, make_run, authors):
    """Two full-size systems, packaged: (run folders, folder of the package, report)."""
    base = tmp_path_factory.mktemp("full")
    runs = [make_run(base / f"seed{seed}", seed=seed) for seed in (0, 1)]
    return runs, base / "out", package(runs, authors, base / "out")
