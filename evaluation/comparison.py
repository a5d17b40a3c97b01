"""Paired tests of two systems: do they differ by more than noise?

Two systems are compared clip by clip over the seeds that both have and the locations of the test clips, as
:mod:`evaluation.intervals` says. Differences are those of the first system less the second.
"""
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from evaluation import intervals, markdown, metrics
from evaluation.intervals import PairedTest
from evaluation.per_device import DEMO_NOTE
from evaluation.results import METRICS, Result, read_results, validate
from task1a import predictions as predictions_table
from task1a.challenge import clip_key
from task1a.data.tau_layout import read_development
from task1a.errors import InputError


@dataclass(frozen=True)
class Metric:
    """How a figure is told."""

    name: str
    decimals: int
    better: int
    """sign of a change for the better"""


TOLD = {"accuracy": Metric("Accuracy", 1, 1), "logloss": Metric("Log loss", 3, -1)}
"""the figures that systems are compared by"""


@dataclass(frozen=True)
class Comparison:
    """Two systems on the same test clips."""

    first: str
    second: str
    data: str
    demo: bool
    tests: Mapping[str, PairedTest]
    """by metric"""
    scores: Mapping[str, tuple[float, float]]
    """mean figures of the first and the second system over the seeds that both have, by metric"""


def compare(runs: Path, first: str, second: str, data_root: str) -> Comparison:
    """Paired tests of two systems over the seeds that both have.

    Args:
        runs: the folder of runs.
        first: name of a system.
        second: name of another one.
        data_root: the development set whose test split was predicted; ``{seed}`` in it stands for the seed, where seeds
            are folds.

    Raises:
        InputError: they share no seed, are not of one data set, or the predictions are not of this test split.
    """
    if first == second:
        raise InputError(f"--compare: {first} cannot be compared with itself")
    by_seed = [{run.seed: run for run in read_results(runs, system)} for system in (first, second)]
    seeds = sorted(set(by_seed[0]) & set(by_seed[1]))
    if not seeds:
        have = [f"{system} has {', '.join(map(str, of_system)) or 'none'}"
                for system, of_system in zip((first, second), by_seed, strict=True)]
        raise InputError(f"{runs}: no seed that both systems have finished: {'; '.join(have)}")
    pairs = [(by_seed[0][seed], by_seed[1][seed]) for seed in seeds]
    validate([run for pair in pairs for run in pair])
    clips = [_paired_clips(*pair, Path(data_root.replace("{seed}", str(pair[0].seed)))) for pair in pairs]
    tests = {metric: intervals.evaluate(pd.concat([of_seed[metric] for of_seed in clips])) for metric in METRICS}
    scores = {metric: tuple(float(np.mean([run.scores["overall"][metric] for run in of_system]))
                            for of_system in zip(*pairs, strict=True)) for metric in METRICS}
    return Comparison(first, second, pairs[0][0].data, pairs[0][0].demo, tests, scores)


def verdict(comparison: Comparison, metric: str) -> str:
    """One sentence: whether the difference is within noise, and of what."""
    test, told = comparison.tests[metric], TOLD[metric]
    if test.p_locations > intervals.ALPHA:
        few = f": {test.locations} are too few to tell anything" if math.isinf(test.low) else ""
        return f"{told.name}: within noise: other test locations could have turned it{few}."
    if test.within_noise:
        return (f"{told.name}: within noise: the trained models differ on these locations, but another training could "
                "have turned it.")
    winner = comparison.first if test.difference * told.better > 0 else comparison.second
    unknown = "" if test.p_seeds is not None else "; one seed says nothing of the noise of training"
    return f"{told.name}: not within noise: {winner} is better{unknown}."


def format_markdown(comparison: Comparison) -> str:
    """The tests in Markdown: a table, the verdicts, and what they are of."""
    rows = [["", comparison.first, comparison.second, "Difference", "95 % interval", "p, locations", "p, with seeds"]]
    for metric, told in TOLD.items():
        test, decimals = comparison.tests[metric], told.decimals
        rows.append([told.name, *(f"{score:.{decimals}f}" for score in comparison.scores[metric]),
                     f"{test.difference:+.{decimals}f}",
                     "none" if math.isinf(test.low) else f"{test.low:+.{decimals}f} to {test.high:+.{decimals}f}",
                     _p_value(test.p_locations), _p_value(test.p_seeds)])
    mark = " (demo data)" if comparison.demo else ""
    return (f"## {comparison.first} less {comparison.second}{mark}\n\n{markdown.table(rows, '<' * len(rows[0]))}\n\n"
            f"{markdown.notes(_notes(comparison))}\n")


def plain(comparison: Comparison) -> dict[str, Any]:
    """The tests as plain data, as they are stored."""
    accuracy = comparison.tests["accuracy"]
    return {
        "first": comparison.first, "second": comparison.second,
        "data": {"name": comparison.data, "demo": comparison.demo},
        "seeds": list(accuracy.by_seed), "locations": accuracy.locations, "paired_predictions": accuracy.clips,
        **{metric: {
            "first": comparison.scores[metric][0], "second": comparison.scores[metric][1],
            "difference": test.difference, "interval": None if math.isinf(test.low) else [test.low, test.high],
            "p_locations": test.p_locations, "p_with_seeds": test.p_seeds,
            "by_seed": {str(seed): value for seed, value in test.by_seed.items()},
            "within_noise": test.within_noise, "verdict": verdict(comparison, metric),
        } for metric, test in comparison.tests.items()}}


def _notes(comparison: Comparison) -> list[str]:
    test = comparison.tests["accuracy"]
    seeds = ", ".join(f"{seed}: {value:+.1f}" for seed, value in test.by_seed.items())
    return [
        *(verdict(comparison, metric) for metric in METRICS),
        f"Test split of {comparison.data}: {_counted(len(test.by_seed), 'seed')}, "
        f"{_counted(test.locations, 'location')}, {test.clips:,} paired predictions. Difference of accuracy by seed: "
        f"{seeds}.",
        "Interval and p over locations take the trained models as given; p with seeds is of locations and seeds "
        "together.",
        *([f"{DEMO_NOTE.capitalize()}."] if comparison.demo else [])]


def _paired_clips(first: Result, second: Result, root: Path) -> dict[str, pd.DataFrame]:
    """The table of clips (:mod:`evaluation.intervals`) of the two runs of a seed, by metric."""
    if first.left_out != second.left_out:
        raise InputError(f"{first} and {second}: other damaged test clips were left out of the one than of the other; "
                         "run one of the two again")
    clips = read_development(root)
    keep = (clips.split == "test") & ~clips.filename.map(clip_key).isin(first.left_out)
    reference = clips[keep].reset_index(drop=True)
    scores = [_clip_scores(run, reference, root) for run in (first, second)]
    weights = {"accuracy": intervals.class_weights(reference.scene_label), "logloss": 1 / len(reference)}
    return {metric: pd.DataFrame({"seed": first.seed, "location": reference.identifier,
                                  "difference": scores[0][metric] - scores[1][metric], "weight": weights[metric]})
            for metric in METRICS}


def _clip_scores(run: Result, reference: pd.DataFrame, root: Path) -> dict[str, np.ndarray]:
    """Accuracy in percent and log loss of every clip of the reference.

    Raises:
        InputError: the predictions are not of these clips, or are not those that the run's results are of.
    """
    predictions = predictions_table.read(run.run.test_predictions)
    try:
        metrics.validate(reference, predictions)
    except InputError as error:
        raise InputError(f"{run} against {root}: {error} (where seeds are folds, put {{seed}} into --data-root)"
                         ) from None
    matched = predictions.set_index(predictions.filename.map(clip_key)).loc[reference.filename.map(clip_key)]
    labels = predictions_table.label_columns(predictions)
    truth = reference.scene_label.to_numpy(object)
    eps = np.finfo(np.float64).eps
    likely = matched[labels].to_numpy(np.float64)[np.arange(len(truth)), pd.Index(labels).get_indexer(truth)]
    scores = {"accuracy": 100.0 * (matched.scene_label.to_numpy(object) == truth),
              "logloss": -np.log(likely.clip(eps, 1 - eps))}
    means = {"accuracy": scores["accuracy"] @ intervals.class_weights(truth), "logloss": scores["logloss"].mean()}
    for metric, mean in means.items():
        noted = run.scores["overall"][metric]
        if not math.isclose(mean, noted, rel_tol=1e-6, abs_tol=1e-6):
            raise InputError(f"{run} against {root}: {metric} {mean:.6g} where the run's results say {noted:.6g}; this "
                             "is another data set, or the predictions were changed")
    return scores


def _p_value(p: float | None) -> str:
    if p is None:
        return "-"
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"
