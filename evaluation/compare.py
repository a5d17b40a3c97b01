"""Paired tests of two systems, clip by clip: is one significantly better than the other?

The systems are compared over the seeds that both have and the locations of the test clips, with the tests of
:mod:`evaluation.intervals`. Differences are those of the first system minus the second.
"""
import math
from collections.abc import Mapping
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


def compare(runs: Path, first: str, second: str, data_root: str) -> dict[str, Any]:
    """Paired tests of two systems over the seeds that both have.

    Args:
        runs: folder of the runs.
        first: name of a system.
        second: name of another system.
        data_root: development set with the test split of the predictions; ``{seed}`` in it stands for the seed, for
            seeds that are folds.

    Returns:
        ``first``, ``second``, ``data``, ``seeds``, ``locations``, ``paired_predictions``; for ``accuracy`` and
        ``logloss`` the scores of both systems, averaged over the seeds, the results of
        :func:`evaluation.intervals.evaluate`, and a ``verdict`` in words.

    Raises:
        InputError: they have no common seed, are on different data sets, or the predictions are not for this test
            split.
    """
    if first == second:
        raise InputError(f"--compare: {first} cannot be compared with itself")
    by_seed = {}
    for system in (first, second):
        finished, _ = read_results(runs, system)
        by_seed[system] = {run.seed: run for run in finished}
    seeds = sorted(by_seed[first].keys() & by_seed[second].keys())
    if not seeds:
        have = [f"{system} has {', '.join(map(str, finished)) or 'none'}" for system, finished in by_seed.items()]
        raise InputError(f"{runs}: no seed that both systems have finished: {'; '.join(have)}")
    pairs = [(by_seed[first][seed], by_seed[second][seed]) for seed in seeds]
    validate([run for pair in pairs for run in pair])

    clips: dict[str, list[pd.DataFrame]] = {metric: [] for metric in METRICS}
    for one, other in pairs:
        if one.left_out != other.left_out:
            raise InputError(f"{one} and {other}: different damaged test clips were left out; run one of the two again")
        root = Path(data_root.replace("{seed}", str(one.seed)))
        reference = read_development(root)
        keep = (reference.split == "test") & ~reference.filename.map(clip_key).isin(one.left_out)
        reference = reference[keep].reset_index(drop=True)
        weights = {"accuracy": intervals.class_weights(reference.scene_label),
                   "logloss": np.full(len(reference), 1 / len(reference))}
        scores = [_clip_scores(run, reference, root, weights) for run in (one, other)]
        for metric in METRICS:
            clips[metric].append(pd.DataFrame({
                "seed": one.seed, "location": reference.identifier, "weight": weights[metric],
                "difference": scores[0][metric] - scores[1][metric]}))

    comparison = {"first": first, "second": second,
                  "data": {"name": pairs[0][0].data, "demo": pairs[0][0].demo}, "seeds": seeds}
    for metric in METRICS:
        test = intervals.evaluate(pd.concat(clips[metric]))
        comparison |= {"locations": test.locations, "paired_predictions": test.clips}
        comparison[metric] = {
            "first": float(np.mean([one.scores["overall"][metric] for one, _ in pairs])),
            "second": float(np.mean([other.scores["overall"][metric] for _, other in pairs])),
            "difference": test.difference, "interval": None if math.isinf(test.low) else [test.low, test.high],
            "p_locations": test.p_locations, "p_with_seeds": test.p_seeds,
            "by_seed": {str(seed): difference for seed, difference in test.by_seed.items()},
            "within_noise": not test.significant, "verdict": _verdict(metric, test, first, second)}
    return comparison


def format_markdown(comparison: Mapping[str, Any]) -> str:
    """The comparison in Markdown: a table, the verdicts and notes."""
    first, second = comparison["first"], comparison["second"]
    rows = [["", first, second, "Difference", "95 % interval", "p, locations", "p, with seeds"]]
    for metric, (title, decimals) in METRICS.items():
        test = comparison[metric]
        interval = "none"
        if test["interval"]:
            interval = " to ".join(f"{end:+.{decimals}f}" for end in test["interval"])
        rows.append([title, f"{test['first']:.{decimals}f}", f"{test['second']:.{decimals}f}",
                     f"{test['difference']:+.{decimals}f}", interval, _p_value(test["p_locations"]),
                     _p_value(test["p_with_seeds"])])

    by_seed = ", ".join(f"{seed}: {difference:+.1f}" for seed, difference in comparison["accuracy"]["by_seed"].items())
    notes = [comparison[metric]["verdict"] for metric in METRICS]
    notes.append(f"Test split of {comparison['data']['name']}: {_counted(len(comparison['seeds']), 'seed')}, "
                 f"{_counted(comparison['locations'], 'location')}, {comparison['paired_predictions']:,} paired "
                 f"predictions. Difference of accuracy by seed: {by_seed}.")
    notes.append("Interval and p over locations take the trained models as given; p with seeds is of locations and "
                 "seeds together.")
    mark = ""
    if comparison["data"]["demo"]:
        notes.append(f"{DEMO_NOTE.capitalize()}.")
        mark = " (demo data)"
    return markdown.section(f"{first} less {second}{mark}", rows, "<" * len(rows[0]), notes)


def _verdict(metric: str, test: PairedTest, first: str, second: str) -> str:
    """One sentence: which system is better, or that the difference is not significant."""
    title, _ = METRICS[metric]
    p_locations = f"p = {test.p_locations:.2g} over locations"
    if test.p_locations > intervals.ALPHA:
        few = f"; {test.locations} locations are too few" if math.isinf(test.low) else ""
        return f"{title}: not significant ({p_locations}{few})."
    if not test.significant:
        return f"{title}: not significant (p = {test.p_seeds:.2g} over locations and seeds)."
    first_is_better = (test.difference > 0) == (metric == "accuracy")  # the lower log loss is the better one
    p_seeds = "one seed: variation between trainings unknown"
    if test.p_seeds is not None:
        p_seeds = f"p = {test.p_seeds:.2g} over locations and seeds"
    return f"{title}: {first if first_is_better else second} is significantly better ({p_locations}; {p_seeds})."


def _clip_scores(run: Result, reference: pd.DataFrame, root: Path,
                 weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Accuracy in percent and log loss of every clip of the reference.

    Raises:
        InputError: the predictions are for other clips, or do not have the scores of the run.
    """
    predictions = predictions_table.read(run.run.test_predictions)
    try:
        matched = metrics.match(reference, predictions)
    except InputError as error:
        raise InputError(f"{run} against {root}: {error} (if seeds are folds, put {{seed}} into --data-root)") from None
    labels = predictions_table.label_columns(predictions)
    correct = matched.scene_label.to_numpy(object) == reference.scene_label.to_numpy(object)
    scores = {"accuracy": 100.0 * correct,
              "logloss": metrics.clip_log_losses(reference.scene_label, matched[labels].to_numpy(), labels)}
    for metric, of_clips in scores.items():
        found, recorded = of_clips @ weights[metric], run.scores["overall"][metric]
        if not math.isclose(found, recorded, rel_tol=1e-6, abs_tol=1e-6):
            raise InputError(f"{run} against {root}: {metric} {found:.6g} instead of {recorded:.6g} as in the run's "
                             "results; this is another data set, or the predictions were changed")
    return scores


def _p_value(p: float | None) -> str:
    if p is None:
        return "-"
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"
