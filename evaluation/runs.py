"""The finished runs of a system, as tables and comparisons read them.

A run is ``DIR/<system>/seed<N>/evaluation.json``, with ``complexity.json``, ``config.yaml`` and
``predictions/test.csv`` beside it where they are there. Seeds may have test splits of their own (folds of the data
set), the same for all systems.

*Accuracy* is in percent, the mean of the class-wise accuracies (:mod:`evaluation.metrics`), *log loss* natural.
*Parameters* are trainable values, pruned ones included: all that is stored but running statistics and scales. *KiB* are
non-zero values times the bytes of their type.
"""
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.table_file import number
from task1a.data.tau_layout import clip_key
from task1a.errors import InputError
from task1a.run_folder import RunFolder, read_json, read_yaml

METRICS = ("accuracy", "logloss")
"""what a run is judged by, named as in ``evaluation.json``"""

POLICIES = ("dcase2021", "paper")
"""ways to count the size: with all that is stored, which the limit is judged by, and without running statistics, which
the published size is counted by"""

_RECIPE = ("features", "model", "training", "compression", "ensemble")
_OF_THE_MACHINE = ("training.precision", "training.channels_last")


@dataclass(frozen=True)
class Run:
    """The results of one run."""

    folder: RunFolder
    system: str
    seed: int
    data: str
    """name of the data set"""
    demo: bool
    labels: tuple[str, ...]
    scores: Mapping[str, Mapping[str, float]]
    """:data:`METRICS` of the devices, and ``overall``"""
    left_out: frozenset[str]
    """damaged test clips"""
    clips: int
    """test clips, damaged ones included"""
    names: frozenset[str] | None
    """of these clips; None where there is no prediction file"""
    parameters: int | None
    kib: Mapping[str, float]
    """size by policy"""
    recipe: Mapping[str, Any]
    """what it was trained with, by ``section.key``; empty where there is no ``config.yaml``"""

    def __str__(self) -> str:
        return f"{self.system}/seed{self.seed}"

    @property
    def data_name(self) -> str:
        """The data set as it is told."""
        return f"{self.data} (demo data)" if self.demo else self.data


def read_runs(runs: Path, system: str) -> list[Run]:
    """The finished runs of a system below ``runs``, by seed; see :func:`unfinished` for the others.

    Raises:
        InputError: a record of a run is not what it should be.
    """
    return [_read_run(folder, system, seed) for seed, folder in _seeds(runs, system) if folder.evaluation.is_file()]


def unfinished(runs: Path, system: str) -> list[str]:
    """The runs of a system that have no results yet."""
    return [f"{system}/seed{seed}" for seed, folder in _seeds(runs, system) if not folder.evaluation.is_file()]


def validate(runs: Sequence[Run]) -> None:
    """Check that runs belong together.

    Raises:
        InputError: they are of different data sets, two runs of the same seed were tested on different clips, or two
            runs of the same system were trained differently.
    """
    first = runs[0]
    seeds: dict[int, tuple[Run, Any]] = {}
    systems: dict[str, Run] = {}
    for run, split in zip(runs, tested_on(runs), strict=True):
        if (run.data, run.demo) != (first.data, first.demo):
            raise InputError(f"runs of different data sets are not for one table: {first} is of {first.data_name}, "
                             f"{run} of {run.data_name}; keep the runs of each data set in a folder of their own")
        other, other_split = seeds.setdefault(run.seed, (run, split))
        if split != other_split:
            raise InputError(f"{other} and {run} were tested on different clips: a seed may have a test split of its "
                             "own (a fold), but then all systems have the same; run one of the two again")
        twin = systems.setdefault(run.system, run)
        for key, value in changes(twin.recipe, run.recipe).items():
            if key not in _OF_THE_MACHINE:
                raise InputError(f"{twin} and {run} were trained differently ({key}: {twin.recipe[key]} and {value}), "
                                 "so that a mean would be of nothing; run one of the two again")


def tested_on(runs: Sequence[Run]) -> list[Any]:
    """What tells the test splits of runs apart: the names of the clips where all runs have them, else their number."""
    named = all(run.names is not None for run in runs)
    return [run.names if named else run.clips for run in runs]


def recipe(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a configuration decides the trained model, by ``section.key``."""
    sections = {name: config[name] for name in _RECIPE if config.get(name)}
    compression = sections.get("compression")
    if isinstance(compression, dict) and not compression.get("enabled"):
        sections["compression"] = {"enabled": False}  # the rest of it has no effect
    flat = {}
    for name, section in sections.items():
        flat |= {f"{name}.{key}": value for key, value in section.items()} if isinstance(section, dict) else {
            name: section}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in flat.items()}


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that two recipes have with different values, and the new ones."""
    return {key: value for key, value in new.items() if key in old and old[key] != value}


def _seeds(runs: Path, system: str) -> list[tuple[int, RunFolder]]:
    """The run folders of a system, by seed."""
    folders = [path for path in (runs / system).glob("seed*")
               if path.is_dir() and re.fullmatch(r"seed(0|[1-9]\d*)", path.name, re.ASCII)]
    return sorted((int(path.name[4:]), RunFolder(path)) for path in folders)


def _read_run(folder: RunFolder, system: str, seed: int) -> Run:
    record = _read_record(folder.evaluation, "evaluate")
    try:
        data, labels = record["data"], tuple(record["labels"])
        left_out = frozenset(map(clip_key, record.get("left_out", ())))
        of_devices = {name: score for name, score in record["device_wise"].items() if score is not None}
        scores = {name: {metric: number(f"{folder.evaluation}: {name}: {metric}", score[metric]) for metric in METRICS}
                  for name, score in {**of_devices, "overall": record["overall"]}.items()}
        name, demo, clips = str(data["name"]), bool(data["demo"]), int(data["clips"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{folder.evaluation}: not the results of a run ({error!r}); run the stage again: --stage "
                         "evaluate --force") from None
    return Run(folder, system, seed, name, demo, labels, scores, left_out, clips + len(left_out),
               _tested(folder.test_predictions, left_out), *_size(folder.complexity), _recipe(folder.config))


def _read_record(path: Path, stage: str) -> Any:
    try:
        return read_json(path)
    except ValueError:  # no JSON, or no UTF-8
        raise InputError(f"{path}: damaged; run the stage again: --stage {stage} --force") from None


def _tested(predictions: Path, left_out: frozenset[str]) -> frozenset[str] | None:
    if not predictions.is_file():
        return None
    try:
        lines = predictions.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{predictions}: not a table: not UTF-8 text") from None
    return left_out | {clip_key(line.split("\t", 1)[0]) for line in lines[1:]}


def _size(path: Path) -> tuple[int | None, dict[str, float]]:
    """Trainable parameters, and KiB by policy."""
    if not path.is_file():
        return None, {}
    record = _read_record(path, "complexity")
    try:
        parameters = sum(tensor["values"] for tensor in record["tensors"]
                         if not tensor["statistics"] and not tensor["name"].endswith(".weight_scale"))
        return parameters, {policy: number(f"{path}: {policy}", record["policies"][policy]["KiB"])
                            for policy in POLICIES}
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not the size of a run ({error!r}); run the stage again: --stage complexity "
                         "--force") from None


def _recipe(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    tree = read_yaml(path)
    if not isinstance(tree, dict):
        raise InputError(f"{path}: not the configuration of a run")
    return recipe(tree)
