"""Results of the finished runs of a system, as tables and comparisons read them.

A run is ``DIR/<system>/seed<N>/evaluation.json``, with ``complexity.json``, ``config.yaml`` and
``predictions/test.csv`` beside it where they are there. Seeds may have test splits of their own (folds of the data
set), the same for all systems.

*Accuracy* is in percent, the mean of the class-wise accuracies (:mod:`evaluation.metrics`), *log loss* natural.
*Parameters* are trainable values, pruned ones included: all that is stored but running statistics and scales. *KiB* are
non-zero values times the bytes of their type.
"""
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from task1a import predictions
from task1a.challenge import clip_key
from task1a.config import Config
from task1a.errors import InputError
from task1a.run import Run

METRICS = ("accuracy", "logloss")
"""what a run is judged by, named as in ``evaluation.json``"""

POLICIES = ("dcase2021", "paper")
"""ways to count the size: with all that is stored, which the limit is judged by, and without running statistics, which
the published size is counted by"""

_OF_THE_MACHINE = ("training.precision", "training.channels_last")


@dataclass(frozen=True)
class Result:
    """The results of one run."""

    run: Run
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


def read_results(runs: Path, system: str) -> list[Result]:
    """The finished runs of a system below ``runs``, by seed; see :func:`unfinished` for the others.

    Raises:
        InputError: a record of a run is not what it should be.
    """
    return [_read_result(run, system, seed) for seed, run in _seeds(runs, system) if run.evaluation.is_file()]


def unfinished(runs: Path, system: str) -> list[str]:
    """The runs of a system that have no results yet."""
    return [f"{system}/seed{seed}" for seed, run in _seeds(runs, system) if not run.evaluation.is_file()]


def validate(runs: Sequence[Result]) -> None:
    """Check that runs belong together.

    Raises:
        InputError: they are of different data sets, two runs of the same seed were tested on different clips, or two
            runs of the same system were trained differently.
    """
    first = runs[0]
    seeds: dict[int, tuple[Result, Any]] = {}
    systems: dict[str, Result] = {}
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
                                 "and have no common mean; run one of the two again")


def tested_on(runs: Sequence[Result]) -> list[Any]:
    """What tells the test splits of runs apart: the names of the clips where all runs have them, else their number."""
    named = all(run.names is not None for run in runs)
    return [run.names if named else run.clips for run in runs]


def recipe(config: Config) -> dict[str, Any]:
    """The part of a configuration that decides the trained model, by ``section.key``."""
    values = {}
    for section in ("features", "model", "training", "compression"):
        for key, value in asdict(getattr(config, section)).items():
            values[f"{section}.{key}"] = list(value) if isinstance(value, tuple) else value
    if not config.compression.enabled:
        # the rest of the section has no effect then
        values = {key: value for key, value in values.items() if not key.startswith("compression.")}
        values["compression.enabled"] = False
    if config.ensemble:
        values["ensemble"] = list(config.ensemble)
    return values


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that two recipes have with different values, and the new ones."""
    return {key: value for key, value in new.items() if key in old and old[key] != value}


def _seeds(runs: Path, system: str) -> list[tuple[int, Run]]:
    """The runs of a system, by seed."""
    found = []
    for folder in (runs / system).glob("seed*"):
        if folder.is_dir() and re.fullmatch(r"seed(0|[1-9]\d*)", folder.name, re.ASCII):
            found.append((int(folder.name[4:]), Run(folder)))
    return sorted(found, key=lambda pair: pair[0])


def _read_result(run: Run, system: str, seed: int) -> Result:
    record = run.read("evaluation")
    try:
        data, labels = record["data"], tuple(record["labels"])
        left_out = frozenset(map(clip_key, record.get("left_out", ())))
        of_devices = {name: score for name, score in record["device_wise"].items() if score is not None}
        scores = {name: {metric: _number(f"{run.evaluation}: {name}: {metric}", score[metric]) for metric in METRICS}
                  for name, score in {**of_devices, "overall": record["overall"]}.items()}
        name, demo, clips = str(data["name"]), bool(data["demo"]), int(data["clips"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{run.evaluation}: not the results of a run ({error!r}); run the stage again: --stage "
                         "evaluate --force") from None
    names = None
    if run.test_predictions.is_file():
        names = left_out | set(predictions.read(run.test_predictions).filename.map(clip_key))
    return Result(run, system, seed, name, demo, labels, scores, left_out, clips + len(left_out), names, *_size(run),
                  recipe(run.config) if run.config_file.is_file() else {})


def _number(where: str, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise InputError(f"{where}: must be a number (given {value!r})")
    return float(value)


def _size(run: Run) -> tuple[int | None, dict[str, float]]:
    """Trainable parameters, and KiB by policy."""
    if not run.complexity.is_file():
        return None, {}
    record = run.read("complexity")
    try:
        kib = {policy: _number(f"{run.complexity}: {policy}", record["policies"][policy]["KiB"]) for policy in POLICIES}
        return int(record["trainable_parameters"]), kib
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{run.complexity}: not the size of a run ({error!r}); run the stage again: --stage "
                         "complexity --force") from None
