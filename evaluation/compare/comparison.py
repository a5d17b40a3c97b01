"""Paired tests of two systems, or of two settings of one: is one significantly better than the
other?

``python -m evaluation.compare A B [--data-root DIR] [--json FILE]``

A and B are folders of runs that differ in the seed alone, or single runs; what A and B differ in is
named. They are compared clip by clip, over the seeds that both have and the locations of the test
clips, with the tests of :mod:`evaluation.compare.intervals`. Differences are those of the first
system minus the second.
"""
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation import markdown
from evaluation.per_device import DEMO_NOTE
from evaluation.results import (
    METRICS,
    Result,
    differences,
    format_differences,
    format_side,
    groups,
    read_folder,
    read_result,
    validate,
)
from task1a.challenge import clip_key
from task1a.errors import InputError, counted
from task1a.pipeline.run import Run

if TYPE_CHECKING:
    import pandas as pd

    from evaluation.compare.intervals import PairedTest

# more settings that differ make a name too long
_NAMED_SETTINGS = 2


def compare(first: Path, second: Path, data_root: str | None = None) -> dict[str, Any]:
    """Compare two systems.

    Args:
        first: folder of runs, ``<runs>/<name>``, whose seeds are paired with the same seeds of the
            other folder; or of a single run, ``<runs>/<name>/seed<N>``.
        second: likewise.
        data_root: development set with the test split of the predictions; ``{seed}`` in it stands
            for the seed, for seeds that are folds. Default: the data set that each run was made
            with.

    Returns:
        ``first``, ``second``, their names; ``differences``, both values of each setting that
        differs; ``data``, ``seeds``, ``locations``, ``paired_predictions``; for ``accuracy`` and
        ``logloss`` the scores of both systems, averaged over the seeds, the results of
        :func:`evaluation.compare.intervals.evaluate`, and a ``verdict`` in words; in
        ``device_wise`` the ``difference``, ``interval`` and ``p_locations`` of both metrics for
        each device.

    Raises:
        InputError: they have no common seed, are on different data sets, the runs of one of them
            differ in more than the seed, or the predictions are not for this test split.
    """
    import pandas as pd

    first, second = Path(first), Path(second)
    if first.resolve() == second.resolve():
        raise InputError(f"{first} cannot be compared with itself")
    pairs = pair_runs(first, second)
    one, other = pairs[0]
    validate(sum(map(list, pairs), []))
    found = differences(one, other)
    if one.seed != other.seed:
        found["seed"] = one.seed, other.seed
    names = name_systems(first, second, one, other, found)
    clips = pd.concat([subtract_scores(*pair, data_root) for pair in pairs])

    comparison: dict[str, Any] = {
        "first": names[0], "second": names[1], "differences": found,
        "data": {"name": one.data, "demo": one.demo}, "seeds": [run.seed for run, _ in pairs]}
    for metric in METRICS:
        test = _test(clips, metric)
        comparison |= {"locations": test.locations, "paired_predictions": test.clips}
        means = np.mean([[run.scores["overall"][metric] for run in pair] for pair in pairs], axis=0)
        by_seed = {str(seed): difference for seed, difference in test.by_seed.items()}
        comparison[metric] = {
            "first": float(means[0]), "second": float(means[1]),
            "difference": test.difference, "interval": _interval(test),
            "p_locations": test.p_locations, "p_with_seeds": test.p_seeds, "by_seed": by_seed,
            "within_noise": not test.significant, "verdict": format_verdict(metric, test, *names)}
    # by device over locations alone: no verdict is drawn from so many tests
    by_device: dict[str, dict[str, Any]] = {}
    for device in sorted(set(clips.device)):
        by_device[device] = {}
        for metric in METRICS:
            test = _test(clips[clips.device == device], metric)
            by_device[device][metric] = {"difference": test.difference, "interval": _interval(test),
                                         "p_locations": test.p_locations}
    return comparison | {"device_wise": by_device}


def format_markdown(comparison: Mapping[str, Any]) -> str:
    """Format a comparison in Markdown: a table, the verdicts and notes."""
    first, second = comparison["first"], comparison["second"]
    rows = [["", first, second, "Difference", "95 % interval", "p, locations", "p, with seeds"]]
    by_device = [["Device"]]
    notes = []
    for metric, (title, decimals) in METRICS.items():
        test = comparison[metric]
        rows.append([title, f"{test['first']:.{decimals}f}", f"{test['second']:.{decimals}f}",
                     *_cells(test, decimals), _p_value(test["p_with_seeds"])])
        by_device[0] += [title, "95 % interval", "p, locations"]
        notes.append(test["verdict"])
    for device, tests in comparison["device_wise"].items():
        row = [device]
        for metric, (_, decimals) in METRICS.items():
            row += _cells(tests[metric], decimals)
        by_device.append(row)

    found, by_seed = comparison["differences"], []
    for seed, difference in comparison["accuracy"]["by_seed"].items():
        by_seed.append(f"{seed}: {difference:+.1f}")
    notes += [
        f"They differ in {format_differences(found)}." if found else "Their settings are the same.",
        f"Test split of {comparison['data']['name']}: {counted(len(comparison['seeds']), 'seed')}, "
        f"{counted(comparison['locations'], 'location')}, {comparison['paired_predictions']:,} paired "
        f"predictions. Difference of accuracy by seed: {', '.join(by_seed)}.",
        "Interval and p over locations take the trained models as given; p with seeds is of locations and "
        "seeds together."]
    mark = ""
    if comparison["data"]["demo"]:
        notes.append(f"{DEMO_NOTE.capitalize()}.")
        mark = " (demo data)"
    overall = markdown.section(f"{first} less {second}{mark}", rows, "<" * len(rows[0]), notes)
    devices = markdown.section(
        f"{first} less {second}, by device{mark}", by_device, "<" * len(by_device[0]),
        ["Intervals and p of the devices are not corrected for their number."])
    return f"{overall}\n{devices}"


def pair_runs(first: Path, second: Path) -> list[tuple[Result, Result]]:
    """Return the two runs, or the pairs of runs of two systems with the same seed.

    Raises:
        InputError: a run is to be compared with a system, two systems have no common seed, or the
            runs of one of them differ in more than the seed.
    """
    single = [folder for folder in (first, second) if Run(folder).evaluation.is_file()]
    if len(single) == 2:
        return [(read_result(Run(first)), read_result(Run(second)))]
    if single:
        raise InputError(f"{single[0]} is a single run and the other a system; give two runs or two systems")
    by_seed, finished = [], []
    for folder in (first, second):
        runs = {run.seed: run for run in read_folder(folder)[0]}
        by_seed.append(runs)
        finished.append(f"{folder.name} has {', '.join(map(str, runs)) or 'none'}")
    seeds = sorted(by_seed[0].keys() & by_seed[1].keys())
    if not seeds:
        raise InputError(f"{first} and {second}: no seed that both systems have finished: "
                         f"{'; '.join(finished)}")
    for runs in by_seed:
        averaged = groups([runs[seed] for seed in seeds])
        if len(averaged) > 1:
            one, other = averaged[0][0], averaged[1][0]
            raise InputError(f"{one} and {other} cannot be averaged: "
                             f"{format_differences(differences(one, other))}; compare single runs, or run "
                             "one of the two again")
    return [(by_seed[0][seed], by_seed[1][seed]) for seed in seeds]


def name_systems(first: Path, second: Path, one: Result, other: Result,
                 found: Mapping[str, tuple[Any, Any]]) -> tuple[str, str]:
    """Return the names of both folders; if these are the same, with some settings that differ, or
    paths."""
    names = []
    for folder, run in ((first, one), (second, other)):
        names.append(str(run) if Run(folder).evaluation.is_file() else run.name)
    if names[0] != names[1]:
        return names[0], names[1]
    if 0 < len(found) <= _NAMED_SETTINGS:
        return f"{names[0]}, {format_side(found, 0)}", f"{names[0]}, {format_side(found, 1)}"
    return str(first), str(second)


def subtract_scores(one: Result, other: Result, data_root: str | None) -> "pd.DataFrame":
    """Return the test clips of two runs with the differences between their scores.

    Returns:
        Columns ``seed``, ``location``, ``device``, ``scene_label`` and the metrics.

    Raises:
        InputError: the runs have other damaged clips, or predictions of other clips or other
            scores.
    """
    import pandas as pd

    from task1a.data.tau_layout import read_development

    if one.excluded != other.excluded:
        raise InputError(f"{one} and {other}: different damaged test clips were left out; run one of the two "
                         "again")
    root = one.run.data_root if data_root is None else Path(data_root.replace("{seed}", str(one.seed)))
    reference = read_development(root)
    # damaged clips have no prediction
    keep = (reference.split == "test") & ~reference.filename.map(clip_key).isin(one.excluded)
    reference = reference[keep].reset_index(drop=True)
    clips = pd.DataFrame({"seed": one.seed, "location": reference.identifier, "device": reference.device,
                          "scene_label": reference.scene_label})
    minuend, subtrahend = clip_scores(one, reference, root), clip_scores(other, reference, root)
    for metric in METRICS:
        clips[metric] = minuend[metric] - subtrahend[metric]
    return clips


def clip_scores(run: Result, reference: "pd.DataFrame", root: Path) -> dict[str, np.ndarray]:
    """Return the accuracy in percent and the log loss of every clip of the reference.

    Raises:
        InputError: the predictions are for other clips, or do not have the scores of the run.
    """
    from evaluation import metrics
    from task1a.predict import predictions as predictions_table

    predictions = predictions_table.read(run.run.test_predictions)
    try:
        matched = metrics.match(reference, predictions)
    except InputError as error:
        raise InputError(f"{run} against {root}: {error} (if seeds are folds, put {{seed}} into "
                         "--data-root)") from None
    labels = predictions_table.label_columns(predictions)
    truth = reference.scene_label
    scores = {
        "accuracy": 100.0 * (matched.scene_label.to_numpy(object) == truth.to_numpy(object)),
        "logloss": metrics.clip_log_losses(truth, matched[labels].to_numpy(), labels)}
    # the scores of the record show that neither the data set nor the predictions were exchanged
    for metric, values in scores.items():
        found, recorded = values @ _weights(metric, truth), run.scores["overall"][metric]
        if not math.isclose(found, recorded, rel_tol=1e-6, abs_tol=1e-6):
            raise InputError(f"{run} against {root}: {metric} {found:.6g} instead of {recorded:.6g} as in the "
                             "run's results; this is another data set, or the predictions were changed")
    return scores


def format_verdict(metric: str, test: "PairedTest", first: str, second: str) -> str:
    """Say in a sentence which system is better, or that the difference is not significant."""
    from evaluation.compare.intervals import ALPHA

    title, _ = METRICS[metric]
    p_locations = f"p = {test.p_locations:.2g} over locations"
    if test.p_locations > ALPHA:
        few = f"; {test.locations} locations are too few" if math.isinf(test.low) else ""
        return f"{title}: not significant ({p_locations}{few})."
    if not test.significant:
        return f"{title}: not significant (p = {test.p_seeds:.2g} over locations and seeds)."
    # the lower log loss is the better one
    first_is_better = (test.difference > 0) == (metric == "accuracy")
    p_seeds = "one seed: variation between trainings unknown"
    if test.p_seeds is not None:
        p_seeds = f"p = {test.p_seeds:.2g} over locations and seeds"
    better = first if first_is_better else second
    return f"{title}: {better} is significantly better ({p_locations}; {p_seeds})."


def _test(clips: "pd.DataFrame", metric: str) -> "PairedTest":
    """Test one metric on some of the clips."""
    from evaluation.compare import intervals

    weights = [_weights(metric, of_seed) for _, of_seed in clips.groupby("seed", sort=False).scene_label]
    return intervals.evaluate(clips.assign(difference=clips[metric], weight=np.concatenate(weights)))


def _weights(metric: str, labels: "pd.Series") -> np.ndarray:
    from evaluation.compare.intervals import class_weights

    if metric == "accuracy":
        return class_weights(labels)
    return np.full(len(labels), 1 / len(labels))


def _interval(test: "PairedTest") -> list[float] | None:
    return None if math.isinf(test.low) else [test.low, test.high]


def _cells(test: Mapping[str, Any], decimals: int) -> list[str]:
    """Format a difference, its interval and its p-value over locations."""
    interval = "none"
    if test["interval"]:
        interval = " to ".join(f"{end:+.{decimals}f}" for end in test["interval"])
    return [f"{test['difference']:+.{decimals}f}", interval, _p_value(test["p_locations"])]


def _p_value(p: float | None) -> str:
    if p is None:
        return "-"
    return "<0.001" if p < 0.001 else f"{p:.3f}"
