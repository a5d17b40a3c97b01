"""Runs written by hand: the records and predictions that the other stages leave, as far as packaging reads them."""
import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from submission.package import package
from submission.rules import TASK1A_2021

LABELS = ("airport", "bus", "metro", "metro_station", "park", "public_square", "shopping_mall", "street_pedestrian",
          "street_traffic", "tram")
DEVICES = ("a", "b", "c", "s1", "s2", "s3", "s4", "s5", "s6")

CONFIG = {
    "system": "bcresnet_asc_1", "seed": 0,
    "features": {"sample_rate": 16000, "n_mels": 256},
    "model": {"name": "bcresnet_asc", "tau": 1.0},
    "training": {"mixup_alpha": 0.3, "frequency_masks": 2, "frequency_mask_bins": 40, "time_masks": 2,
                 "time_mask_frames": 80, "roll_seconds": 1.5},
    "compression": {"enabled": False, "ratio": 0.89, "target_bytes": None, "teachers": ["vanilla"]},
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


@pytest.fixture(scope="session")
def said():
    """What the files of a run say: labels, devices, config, authors."""
    return SAID


@pytest.fixture(scope="session")
def make_run():
    """A function that writes a run folder."""

    def make(root, labels=LABELS, devices=DEVICES, clips=7920, demo=False, size=32220, seed=0, config=CONFIG):
        (root / "predictions").mkdir(parents=True)
        (root / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        filenames = [f"audio/{index}.wav" for index in range(clips)]
        (root / "predictions" / "evaluation.csv").write_bytes(predictions_csv(labels, filenames, seed).encode())
        counts = {"parameters": 22695, "non_zero": 22000, "bytes": size}
        records = {
            "data.json": {"name": "x", "demo": demo, "labels": labels, "devices": devices},
            "complexity.json": {"policies": {"dcase2021": counts, "paper": dict.fromkeys(counts, 1)},
                                "limit_policy": "dcase2021", "limit_bytes": 131072, "within_limit": size <= 131072},
            "evaluation.json": {
                "overall": {"logloss": 1.25, "accuracy": 58.9},
                "class_wise": {label: {"logloss": 1 + i / 8, "accuracy": 50.5 + i} for i, label in enumerate(labels)},
                "device_wise": {name: {"logloss": 1 / (i + 1), "accuracy": 60.0 - i} for i, name in enumerate(devices)},
            },
        }
        for name, record in records.items():
            (root / name).write_text(json.dumps(record), encoding="utf-8")
        return root

    return make


@pytest.fixture(scope="session")
def authors(tmp_path_factory):
    """A filled authors' file."""
    path = tmp_path_factory.mktemp("authors") / "authors.yaml"
    path.write_text(yaml.safe_dump(AUTHORS, allow_unicode=True), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def small_rules():
    """The rules with an evaluation set of twelve clips."""
    return dataclasses.replace(TASK1A_2021, files=TASK1A_2021.files[:12])


@pytest.fixture(scope="session")
def full(tmp_path_factory, make_run, authors):
    """Two full-size systems, packaged: (run folders, folder of the package, report)."""
    base = tmp_path_factory.mktemp("full")
    runs = [make_run(base / f"seed{seed}", seed=seed) for seed in (0, 1)]
    return runs, base / "out", package(runs, authors, base / "out")
