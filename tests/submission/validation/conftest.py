"""Packages written by hand after the organisers' descriptions, with no code of the project but the rules' sizes."""
import zipfile
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
import yaml

from submission.rules import EDITIONS, Rules
from submission.validate import validate

LABELS = ("airport", "bus", "metro", "metro_station", "park", "public_square", "shopping_mall", "street_pedestrian",
          "street_traffic", "tram")
DEVICES = ("a", "b", "c", "s1", "s2", "s3", "s4", "s5", "s6")
SPLITS = ("split_5", "split_10", "split_25", "split_50", "split_100")


@dataclass(frozen=True)
class Golden:
    """A package that nothing is wrong with."""

    rules: Rules
    members: dict[str, bytes]
    label: str
    """of its first system"""
    outputs: tuple[str, ...]
    """names of the first system's outputs in the zip"""
    meta: str
    """name of the first system's metadata in the zip"""

    @property
    def output(self):
        return self.outputs[0]


def output_csv(files, seed):
    """Nine digits of a softmax."""
    scores = np.random.default_rng(seed).normal(0, 3, (len(files), len(LABELS)))
    rows = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    lines = ["\t".join(("filename", "scene_label", *LABELS))]
    lines += ["\t".join((f"audio/{name}", LABELS[row.argmax()], *(f"{p:.9g}" for p in row)))
              for name, row in zip(files, rows, strict=True)]
    return ("\n".join(lines) + "\n").encode()


def results():
    """Overall figures are the means of the classes'."""
    return {
        "overall": {"logloss": 1.45, "accuracy": 54.5},
        "class_wise": {label: {"logloss": 1 + index / 10, "accuracy": 50.0 + index}
                       for index, label in enumerate(LABELS)},
        "device_wise": {device: {"logloss": 1.05 + index / 10, "accuracy": 58.5 - index}
                        for index, device in enumerate(DEVICES)},
    }


def metadata(label, year):
    """The fields of the organisers' example files."""
    description = {
        "input_sampling_rate": "16kHz", "acoustic_features": "log-mel energies", "embeddings": None,
        "data_augmentation": "mixup, SpecAugment", "machine_learning_method": "BC-ResNet-ASC",
        "ensemble_method_subsystem_count": None, "decision_making": "maximum likelihood", "external_data_usage": None,
        "complexity_management": "pruning"}
    complexity = {"total_parameters": 22695}
    system = {"description": description, "complexity": complexity}
    if year == "2021":
        complexity |= {"total_parameters_non_zero": 22000, "model_size": 31.5}
    else:
        description |= {"pipeline": "training, pruning", "framework": "pytorch"}
        complexity |= {"macs": 29_000_000}
    if year in ("2022", "2023"):
        complexity |= {"total_parameters_non_zero": 22000, "memory_use": None}
    if year in ("2023", "2024", "2025"):
        complexity |= {"total_model_size": 45390}
    if year == "2023":
        system |= {"energy_consumption": {"training": 1.5, "inference": 0.25, "baseline_inference": 0.5}}
    blocks = {"2024": SPLITS, "2025": ("device_specific", "general")}.get(year)
    if blocks:
        for key in ("embeddings", "ensemble_method_subsystem_count", "decision_making"):
            del description[key]
    if year == "2024":
        description |= {"split_adaptations": None, "system_adaptations": None}
    if year == "2025":
        description |= {"device_information": "per-device end-to-end fine-tuning", "num_models_at_inference": 7,
                        "model_weight_sharing": "fully device-specific"}
        system |= {"inference_code": "https://github.com/kim-qti/Kim_QTI_task1_inference"}
    system |= {"external_datasets": [{"name": "A", "url": "https://a.test", "total_audio_length": 60}],
               "source_code": None}
    affiliation = {"abbreviation": "QTI", "institute": "Q", "department": None, "location": "Seoul, Korea"}
    return {
        "submission": {"label": label, "name": "BC-ResNet", "abbreviation": "BCRes", "authors": [
            {"lastname": "Kim", "firstname": "B", "email": "b.kim@qti.test", "corresponding": True,
             "affiliation": affiliation},
            {"lastname": "Müller", "firstname": "J", "email": "j@graz.uni.test", "affiliation": {**affiliation}}]},
        "system": system,
        "results": {"development_dataset": {block: results() for block in blocks} if blocks else results()},
    }


@pytest.fixture(scope="session")
def golden():
    """A function that makes the package of an edition, not to be changed; its evaluation set is cut to some clips."""

    @cache
    def make(year="2021", clips=12, systems=1):
        rules = replace(EDITIONS[year], clips=clips)
        suffixes = [f".output.{split}.csv" for split in SPLITS] if year == "2024" else [".output.csv"]
        above = "Kim_QTI_task1/task1" if year == "2021" else "task1"
        members = {}
        for number in range(systems, 0, -1):
            label = f"Kim_QTI_{'task1a' if year == '2021' else 'task1'}_{number}"
            outputs = tuple(f"{above}/{label}/{label}{suffix}" for suffix in suffixes)
            meta = f"{above}/{label}/{label}.meta.yaml"
            members |= {name: output_csv(rules.files, seed) for seed, name in enumerate(outputs, start=10 * number)}
            members[meta] = yaml.dump(metadata(label, year), Dumper=yaml.CSafeDumper, allow_unicode=True,
                                      sort_keys=False).encode()
        return Golden(rules, members, label, outputs, meta)

    return make


@pytest.fixture(scope="session")
def write_zip():
    """A function that writes members to a zip."""

    def write(path, members):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
            for name, content in members.items():
                opened.writestr(name, content)
        return path

    return write


@pytest.fixture
def found(tmp_path, write_zip):
    """A function that validates members as a zip; what it finds, with the files' base names."""

    def validated(members, rules):
        return [replace(finding, file=finding.file.rpartition("/")[2])
                for finding in validate(write_zip(tmp_path / "p.zip", members), rules)]

    return validated
