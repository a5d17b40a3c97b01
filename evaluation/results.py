"""Results of the finished runs of a system, as tables and comparisons use them.

A run is ``DIR/<system>/seed<N>/`` with ``evaluation.json`` and, if they exist, ``complexity.json``, ``config.yaml`` and
``predictions/test.csv``. Seeds may have test splits of their own (folds of the data set), the same for all systems.

Scores are those of :mod:`evaluation.metrics`. *Parameters* are trainable values, pruned ones included, without running
statistics and scales. *KiB* are non-zero values times the bytes of their type.
"""
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from task1a.challenge import clip_key
from task1a.config import Config
from task1a.errors import InputError
from task1a.run import Run

METRICS = {"accuracy": ("Accuracy", 1), "logloss": ("Log loss", 3)}
"""title and decimals of each score, by its name in ``evaluation.json``"""

POLICIES = ("dcase2021", "paper")
"""ways to count the size: with running statistics, for the limit, and without, for the published sizes"""

_NO_EFFECT = ("training.precision", "training.channels_last")  # on what is trained


@dataclass(frozen=True)
class Result:
    """Results of one run."""

    run: Run
    system: str
    seed: int
    data: str
    """name of the data set"""
    demo: bool
    labels: tuple[str, ...]
    scores: Mapping[str, Mapping[str, float]]
    """:data:`METRICS` by device, and ``overall``"""
    left_out: frozenset[str]
    """damaged test clips"""
    clips: int
    """number of test clips, including damaged ones"""
    names: frozenset[str] | None
    """names of these clips; None without a prediction file"""
    parameters: int | None
    kib: Mapping[str, float]
    """size by policy; empty without ``complexity.json``"""
    recipe: Mapping[str, Any]
    """settings that it was trained with, by ``section.key``; empty without ``config.yaml``"""

    def __str__(self) -> str:
        return str(self.run)

    @property
    def data_name(self) -> str:
        """Name of the data set, marked if it is demo data."""
        return f"{self.data} (demo data)" if self.demo else self.data


def read_results(runs: Path, system: str) -> tuple[list[Result], list[str]]:
    """Finished runs of a system below ``runs``, and the names of the unfinished ones, both in the order of the seeds.

    Raises:
        InputError: a record of a run is damaged or incomplete.
    """
    seeds = {}
    for folder in (runs / system).glob("seed*"):
        if folder.is_dir() and re.fullmatch(r"seed(0|[1-9]\d*)", folder.name, re.ASCII):
            seeds[int(folder.name.removeprefix("seed"))] = Run(folder)
    finished, unfinished = [], []
    for _, run in sorted(seeds.items()):
        if run.evaluation.is_file():
            finished.append(read_result(run))
        else:
            unfinished.append(str(run))
    return finished, unfinished


def validate(runs: Sequence[Result]) -> None:
    """Check that runs can be put into one table.

    Raises:
        InputError: they are on different data sets, runs with the same seed were tested on different clips, or runs of
            the same system were trained with different settings.
    """
    first = runs[0]
    by_seed: dict[int, tuple[Result, Any]] = {}
    by_system: dict[str, Result] = {}
    for run, split in zip(runs, test_splits(runs), strict=True):
        if (run.data, run.demo) != (first.data, first.demo):
            raise InputError(f"runs on different data sets cannot share a table: {first} is on {first.data_name}, "
                             f"{run} on {run.data_name}; keep the runs of each data set in a folder of their own")
        other, other_split = by_seed.setdefault(run.seed, (run, split))
        if split != other_split:
            raise InputError(f"{other} and {run} were tested on different clips; all systems must have the same test "
                             "clips for a seed: run one of the two again")
        other = by_system.setdefault(run.system, run)
        for key, value in changes(other.recipe, run.recipe).items():
            if key not in _NO_EFFECT:
                raise InputError(f"{other} and {run} were trained differently ({key}: {other.recipe[key]} and {value}) "
                                 "and cannot be averaged; run one of the two again")


def test_splits(runs: Sequence[Result]) -> list[Any]:
    """Test split of each run, for comparison: names of its clips if all runs have them, otherwise their number."""
    named = all(run.names is not None for run in runs)
    return [run.names if named else run.clips for run in runs]


def recipe(config: Config) -> dict[str, Any]:
    """Settings that determine the trained model, by ``section.key``."""
    settings = {}
    for section in ("features", "model", "training", "compression"):
        if section == "compression" and not config.compression.enabled:
            settings["compression.enabled"] = False  # the others have no effect
            continue
        for key, value in asdict(getattr(config, section)).items():
            settings[f"{section}.{key}"] = list(value) if isinstance(value, tuple) else value
    for key in ("ensemble", "device_models"):
        if getattr(config, key):
            settings[key] = list(getattr(config, key))
    return settings


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """New values of the settings that differ between two recipes; settings of only one of them do not count."""
    return {key: value for key, value in new.items() if key in old and old[key] != value}


def read_result(run: Run) -> Result:
    """The results of a finished run.

    Raises:
        InputError: a record of the run is damaged or incomplete, or its folder is not ``<system>/seed<N>``.
    """
    folder = run.folder.resolve()
    if not re.fullmatch(r"seed(0|[1-9]\d*)", folder.name, re.ASCII):
        raise InputError(f"{run.folder}: is not the folder of a run, <system>/seed<N>")
    system, seed = folder.parent.name, int(folder.name.removeprefix("seed"))
    record = run.read("evaluation")
    try:
        scores = {name: score for name, score in record["device_wise"].items() if score is not None}
        scores["overall"] = record["overall"]
        for name, score in scores.items():
            scores[name] = {metric: _number(f"{run.evaluation}: {name}: {metric}", score[metric]) for metric in METRICS}
        left_out = frozenset(map(clip_key, record.get("left_out", ())))
        data, labels = record["data"], tuple(record["labels"])
        data_name, demo, clips = str(data["name"]), bool(data["demo"]), int(data["clips"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{run.evaluation}: not the results of a run ({error!r}); run the stage again: --stage "
                         "evaluate --force") from None

    parameters, kib = None, {}
    if run.complexity.is_file():
        record = run.read("complexity")
        try:
            parameters = int(record["trainable_parameters"])
            for policy in POLICIES:
                kib[policy] = _number(f"{run.complexity}: {policy}", record["policies"][policy]["KiB"])
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise InputError(f"{run.complexity}: not the size of a run ({error!r}); run the stage again: --stage "
                             "complexity --force") from None

    names = None
    if run.test_predictions.is_file():
        from task1a import predictions

        names = left_out | set(predictions.read(run.test_predictions).filename.map(clip_key))
    settings = recipe(run.config) if run.config_file.is_file() else {}
    return Result(run, system, seed, data_name, demo, labels, scores, left_out, clips + len(left_out), names,
                  parameters, kib, settings)


def _number(where: str, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise InputError(f"{where}: must be a number (given {value!r})")
    return float(value)
