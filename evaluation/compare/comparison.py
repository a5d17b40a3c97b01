"""Paired tests of two systems, or of two settings of one: is one significantly better than the other?

``python -m evaluation.compare A B [--data-root DIR] [--json FILE]``

A and B are folders of runs that differ in the seed alone, or single runs; what A and B differ in is named. They are
compared clip by clip, over the seeds that both have and the locations of the test clips, with the tests of
:mod:`evaluation.compare.intervals`. Differences are those of the first system minus the second.
"""
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation import markdown
from evaluation.per_device import DEMO_NOTE
from evaluation.results import (
    METRICS,
    Result,
    against,
    differences,
    groups,
    read_folder,
    read_result,
    validate,
    values_of,
)
from task1a.challenge import clip_key
from task1a.errors import InputError
from task1a.pipeline.run import Run

if TYPE_CHECKING:
    import pandas as pd

    from evaluation.compare.intervals import PairedTest

_NAMED_SETTINGS = 2  # in a name


def compare(first: Path, second: Path, data_root: str | None = None) -> dict[str, Any]:
    """Paired tests of two systems.

    Args:
        first: folder of runs, ``<runs>/<name>``, whose seeds are paired with the same seeds of the other folder; or of
            a single run, ``<runs>/<name>/seed<N>``.
        second: likewise.
        data_root: development set with the test split of the predictions; ``{seed}`` in it stands for the seed, for
            seeds that are folds. Default: the data set that each run was made with.

    Returns:
        ``first``, ``second``, their names; ``differences``, both values of each setting that differs; ``data``,
        ``seeds``, ``locations``, ``paired_predictions``; for ``accuracy`` and ``logloss`` the scores of both systems,
        averaged over the seeds, the results of :func:`evaluation.compare.intervals.evaluate`, and a ``verdict`` in
        words; in ``device_wise`` the ``difference``, ``interval`` and ``p_locations`` of both metrics for each device.

    Raises:
        InputError: they have no common seed, are on different data sets, the runs of one of them differ in more than
            the seed, or the predictions are not for this test split.
    """
    import pandas as pd

    if Path(first).resolve() == Path(second).resolve():
        raise InputError(f"{first} cannot be compared with itself")
    pairs = _pairs(Path(first), Path(second))
    validate([run for pair in pairs for run in pair])
    found = differences(*pairs[0])
    if pairs[0][0].seed != pairs[0][1].seed:
        found["seed"] = pairs[0][0].seed, pairs[0][1].seed
    names = _names(Path(first), Path(second), pairs[0], found)
    clips = pd.concat([_paired_clips(*pair, data_root) for pair in pairs])

    comparison = {"first": names[0], "second": names[1], "differences": found,
                  "data": {"name": pairs[0][0].data, "demo": pairs[0][0].demo}, "seeds": [run.seed for run, _ in pairs]}
    for metric in METRICS:
        test = _test(clips, metric)
        comparison |= {"locations": test.locations, "paired_predictions": test.clips}
        comparison[metric] = {
            "first": float(np.mean([one.scores["overall"][metric] for one, _ in pairs])),
            "second": float(np.mean([other.scores["overall"][metric] for _, other in pairs])),
            "difference": test.difference, "interval": _interval(test),
            "p_locations": test.p_locations, "p_with_seeds": test.p_seeds,
            "by_seed": {str(seed): difference for seed, difference in test.by_seed.items()},
            "within_noise": not test.significant, "verdict": _verdict(metric, test, *names)}
    comparison["device_wise"] = {}
    for device in sorted(set(clips.device)):
        comparison["device_wise"][device] = {}
        for metric in METRICS:
            test = _test(clips[clips.device == device], metric)
            comparison["device_wise"][device][metric] = {
                "difference": test.difference, "interval": _interval(test), "p_locations": test.p_locations}
    return comparison


def format_markdown(comparison: Mapping[str, Any]) -> str:
    """The comparison in Markdown: a table, the verdicts and notes."""
    first, second = comparison["first"], comparison["second"]
    rows = [["", first, second, "Difference", "95 % interval", "p, locations", "p, with seeds"]]
    for metric, (title, decimals) in METRICS.items():
        test = comparison[metric]
        rows.append([title, f"{test['first']:.{decimals}f}", f"{test['second']:.{decimals}f}",
                     f"{test['difference']:+.{decimals}f}", _interval_text(test["interval"], decimals),
                     _p_value(test["p_locations"]), _p_value(test["p_with_seeds"])])

    head = ["Device"]
    for title, _ in METRICS.values():
        head += [title, "95 % interval", "p, locations"]
    by_device = [head]
    for device, tests in comparison["device_wise"].items():
        row = [device]
        for metric, (_, decimals) in METRICS.items():
            test = tests[metric]
            row += [f"{test['difference']:+.{decimals}f}", _interval_text(test["interval"], decimals),
                    _p_value(test["p_locations"])]
        by_device.append(row)

    by_seed = ", ".join(f"{seed}: {difference:+.1f}" for seed, difference in comparison["accuracy"]["by_seed"].items())
    notes = [comparison[metric]["verdict"] for metric in METRICS]
    found = comparison["differences"]
    notes.append(f"They differ in {against(found)}." if found else "Their settings are the same.")
    notes.append(f"Test split of {comparison['data']['name']}: {_counted(len(comparison['seeds']), 'seed')}, "
                 f"{_counted(comparison['locations'], 'location')}, {comparison['paired_predictions']:,} paired "
                 f"predictions. Difference of accuracy by seed: {by_seed}.")
    notes.append("Interval and p over locations take the trained models as given; p with seeds is of locations and "
                 "seeds together.")
    mark = ""
    if comparison["data"]["demo"]:
        notes.append(f"{DEMO_NOTE.capitalize()}.")
        mark = " (demo data)"
    overall = markdown.section(f"{first} less {second}{mark}", rows, "<" * len(rows[0]), notes)
    devices = markdown.section(f"{first} less {second}, by device{mark}", by_device, "<" * len(head),
                               ["Intervals and p of the devices are not corrected for their number."])
    return f"{overall}\n{devices}"


def _pairs(first: Path, second: Path) -> list[tuple[Result, Result]]:
    """The pairs of runs to compare."""
    folders = (first, second)
    single = [folder for folder in folders if Run(folder).evaluation.is_file()]
    if len(single) == 2:
        return [(read_result(Run(first)), read_result(Run(second)))]
    if single:
        raise InputError(f"{single[0]} is a single run and the other a system; give two runs or two systems")
    by_seed = [{run.seed: run for run in read_folder(folder)[0]} for folder in folders]
    seeds = sorted(by_seed[0].keys() & by_seed[1].keys())
    if not seeds:
        have = [f"{folder.name} has {', '.join(map(str, runs)) or 'none'}"
                for folder, runs in zip(folders, by_seed, strict=True)]
        raise InputError(f"{first} and {second}: no seed that both systems have finished: {'; '.join(have)}")
    for runs in by_seed:
        alike = groups([runs[seed] for seed in seeds])
        if len(alike) > 1:
            one, other = alike[0][0], alike[1][0]
            raise InputError(f"{one} and {other} cannot be averaged: {against(differences(one, other))}; compare "
                             "single runs, or run one of the two again")
    return [(by_seed[0][seed], by_seed[1][seed]) for seed in seeds]


def _names(first: Path, second: Path, pair: tuple[Result, Result], found: Mapping[str, tuple[Any, Any]]) -> list[str]:
    """Names of both sides: of their folders or, if these are the same, with a few settings that differ, or as paths."""
    names = [str(run) if Run(folder).evaluation.is_file() else run.name
             for folder, run in zip((first, second), pair, strict=True)]
    if names[0] != names[1]:
        return names
    if 0 < len(found) <= _NAMED_SETTINGS:
        return [f"{names[0]}, {values_of(found, side)}" for side in (0, 1)]
    return [str(first), str(second)]


def _paired_clips(one: Result, other: Result, data_root: str | None) -> "pd.DataFrame":
    """Test clips with seed, location, device, scene and, by metric, the difference between the scores of two runs."""
    import pandas as pd

    from task1a.data.tau_layout import read_development

    if one.left_out != other.left_out:
        raise InputError(f"{one} and {other}: different damaged test clips were left out; run one of the two again")
    root = one.run.data_root if data_root is None else Path(data_root.replace("{seed}", str(one.seed)))
    reference = read_development(root)
    keep = (reference.split == "test") & ~reference.filename.map(clip_key).isin(one.left_out)
    reference = reference[keep].reset_index(drop=True)
    clips = pd.DataFrame({"seed": one.seed, "location": reference.identifier, "device": reference.device,
                          "scene_label": reference.scene_label})
    scores, others = (_clip_scores(run, reference, root) for run in (one, other))
    for metric in METRICS:
        clips[metric] = scores[metric] - others[metric]
    return clips


def _test(clips: "pd.DataFrame", metric: str) -> "PairedTest":
    """The test of one metric on some of the clips."""
    from evaluation.compare import intervals

    weights = []
    for _, of_seed in clips.groupby("seed", sort=False):
        weights.append(_weights(metric, of_seed.scene_label))
    return intervals.evaluate(clips.assign(difference=clips[metric], weight=np.concatenate(weights)))


def _weights(metric: str, labels: "pd.Series") -> np.ndarray:
    from evaluation.compare.intervals import class_weights

    if metric == "accuracy":
        return class_weights(labels)
    return np.full(len(labels), 1 / len(labels))


def _interval(test: "PairedTest") -> list[float] | None:
    return None if math.isinf(test.low) else [test.low, test.high]


def _interval_text(interval: Sequence[float] | None, decimals: int) -> str:
    return " to ".join(f"{end:+.{decimals}f}" for end in interval) if interval else "none"


def _verdict(metric: str, test: "PairedTest", first: str, second: str) -> str:
    """One sentence: which system is better, or that the difference is not significant."""
    from evaluation.compare.intervals import ALPHA

    title, _ = METRICS[metric]
    p_locations = f"p = {test.p_locations:.2g} over locations"
    if test.p_locations > ALPHA:
        few = f"; {test.locations} locations are too few" if math.isinf(test.low) else ""
        return f"{title}: not significant ({p_locations}{few})."
    if not test.significant:
        return f"{title}: not significant (p = {test.p_seeds:.2g} over locations and seeds)."
    first_is_better = (test.difference > 0) == (metric == "accuracy")  # the lower log loss is the better one
    p_seeds = "one seed: variation between trainings unknown"
    if test.p_seeds is not None:
        p_seeds = f"p = {test.p_seeds:.2g} over locations and seeds"
    return f"{title}: {first if first_is_better else second} is significantly better ({p_locations}; {p_seeds})."


def _clip_scores(run: Result, reference: "pd.DataFrame", root: Path) -> dict[str, np.ndarray]:
    """Accuracy in percent and log loss of every clip of the reference.

    Raises:
        InputError: the predictions are for other clips, or do not have the scores of the run.
    """
    from evaluation import metrics
    from task1a.predict import predictions as predictions_table

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
        found, recorded = of_clips @ _weights(metric, reference.scene_label), run.scores["overall"][metric]
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
