"""Log loss, accuracy and calibration of scene predictions.

Log loss and accuracy are computed overall, by class, by device, by class and device, and by device group.

Conventions
-----------
Predictions hold one row per clip: ``filename``, the decided ``scene_label``, and one column of probabilities for each
scene label (the official output format of DCASE 2021 Task 1A). The reference holds ``filename``, ``scene_label``, the
recording ``device`` and, for the intervals, the recording location, ``identifier``. Clips are matched by name, never by
row number. The labels and devices are those in the files, in alphabetical order. Accuracies are in percent. A subset
without clips has no score: ``None``.

Metrics
-------
* :func:`log_loss`: mean of -ln p(true label), by which the challenge ranks [baseline]; as scikit-learn computes
  it [sklearn]. For a class or a device, it is the mean over the clips of that class or device.
* :func:`accuracy`: mean of the class-wise accuracies (macro average) [baseline], from the counts of sed_eval
  [sed_eval]. It judges the decided label, which need not be the most probable one. For a device, it is the macro
  average over the clips of that device.
* Device groups: *real* are the devices that are not simulated, as the reference tells in a column ``simulated`` or,
  without it, as in the TAU sets; *seen* are those with training clips, *unseen* the others [task]. A group is scored
  like a device, over the clips of all its devices together.
* Intervals: 95 % over locations, for every score (:func:`evaluation.compare.intervals.score_interval`).
* Calibration: reliability and expected calibration error (:mod:`evaluation.calibration`).

Sources
-------
.. [baseline] The organisers' DCASE 2021 Task 1A baseline, https://github.com/marmoi/dcase2021_task1a_baseline
.. [sed_eval] ``sed_eval.scene.SceneClassificationMetrics``, https://tut-arg.github.io/sed_eval/
.. [sklearn] ``sklearn.metrics.log_loss`` of scikit-learn
.. [task] I. Martin-Morato, T. Heittola, A. Mesaros, T. Virtanen, "Low-complexity acoustic scene classification for
   multi-device audio: analysis of DCASE 2021 Challenge systems", DCASE 2021 Workshop
"""
import warnings
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd

from evaluation.calibration import reliability
from evaluation.compare.intervals import class_weights, score_interval
from task1a.challenge import KEY_COLUMNS, SIMULATED_DEVICES, clip_key
from task1a.errors import InputError, counted
from task1a.predict.predictions import check_probabilities, label_columns, scaled

EPS = float(np.finfo(np.float64).eps)
"""Probabilities are clipped to [EPS, 1 - EPS] in the log loss."""

HIGHEST_LOSSES = 20
"""Number of clips with the highest log loss that are named."""

_BLOCK = 50  # clips per call of sed_eval, whose time is quadratic in their number


def validate(reference: pd.DataFrame, predictions: pd.DataFrame) -> None:
    """Check that ``predictions`` can be evaluated against ``reference``.

    Args:
        reference: columns ``filename``, ``scene_label``, ``device``.
        predictions: columns ``filename``, ``scene_label``, and one column of probabilities per label.

    Raises:
        InputError: a table is empty, lacks a column or lists a clip twice; the clips differ; a label of the reference
            has no column; or the probabilities are invalid (:func:`task1a.predict.predictions.check_probabilities`).
    """
    for name, table, columns in (("reference", reference, (*KEY_COLUMNS, "device")),
                                 ("predictions", predictions, KEY_COLUMNS)):
        for column in columns:
            if column not in table.columns:
                raise InputError(f"{name}: no column {column!r}")
        if table.empty:
            raise InputError(f"{name}: no clip")
        keys = table.filename.map(clip_key)
        repeated = keys[keys.duplicated()].unique()
        if len(repeated):
            raise InputError(f"{name}: {counted(len(repeated), 'clip')} listed more than once: {_first(repeated)}")

    expected, given = reference.filename.map(clip_key), predictions.filename.map(clip_key)
    missing, extra = expected[~expected.isin(given)], given[~given.isin(expected)]
    problems = []
    if len(missing):
        problems.append(f"missing {len(missing)} of {counted(len(expected), 'clip')} of the reference: "
                        f"{_first(missing)}")
    if len(extra):
        problems.append(f"{counted(len(extra), 'clip')} not in the reference: {_first(extra)}")
    if problems:
        raise InputError(f"predictions: {'; '.join(problems)}; predict exactly the clips of the reference")

    no_column = sorted(set(reference.scene_label) - set(label_columns(predictions)))
    if no_column:
        raise InputError(f"predictions: no column of probabilities for {len(no_column)} scene labels of the "
                         f"reference: {_first(no_column)}")
    check_probabilities(predictions)


def match(reference: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
    """Validate both tables (:func:`validate`), and return the predictions in the order of the reference."""
    validate(reference, predictions)
    return predictions.set_index(predictions.filename.map(clip_key)).loc[reference.filename.map(clip_key)]


def clip_log_losses(labels_true: Sequence[str], probabilities: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """Negative natural logarithm of the probability of each clip's true label.

    As in ``sklearn.metrics.log_loss``, whose import takes longer than a whole command, probabilities are clipped to
    [EPS, 1 - EPS].

    Shape:
        labels_true: (clips,); probabilities: (clips, labels), in the order of ``labels`` -> (clips,).

    Raises:
        InputError: a true label is none of ``labels``.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    truth = np.asarray(labels_true, dtype=object)
    columns = pd.Index(labels).get_indexer(truth)
    if (columns < 0).any():
        raise InputError(f"the true label {truth[columns < 0][0]!r} is none of the labels {', '.join(labels)}")
    return -np.log(probabilities[np.arange(len(columns)), columns].clip(EPS, 1 - EPS))


def log_loss(labels_true: Sequence[str], probabilities: np.ndarray, labels: Sequence[str]) -> float:
    """Mean of :func:`clip_log_losses` over at least one clip."""
    return float(clip_log_losses(labels_true, probabilities, labels).mean())


def accuracy(labels_true: Sequence[str], labels_decided: Sequence[str]) -> float:
    """Mean, in percent, of the class-wise accuracies over the classes that are present in ``labels_true``.

    Shape:
        labels_true, labels_decided: (clips,), at least one clip.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "pkg_resources is deprecated", UserWarning)
        from sed_eval.scene import SceneClassificationMetrics

    # numbers for labels: sed_eval strips spaces from labels and takes "none" for no label;
    # classes without clips are left out: it would count them as 0 %
    true, present = pd.factorize(np.asarray(labels_true, dtype=object))
    decided = pd.Index(present).get_indexer(np.asarray(labels_decided, dtype=object))
    counts = SceneClassificationMetrics([str(label) for label in range(len(present))])
    for start in range(0, len(true), _BLOCK):
        reference, estimated = [], []
        for clip in range(start, min(start + _BLOCK, len(true))):
            reference.append({"filename": str(clip), "scene_label": str(true[clip])})
            estimated.append({"filename": str(clip), "scene_label": str(decided[clip])})
        counts.evaluate(reference, estimated)

    # its own quotient is a little below 1 for a class of a single clip, which it gets right
    accuracies = [label["Ncorr"] / label["Nref"] for label in counts.scene_wise.values()]
    return float(100 * np.mean(accuracies))


def evaluate(reference: pd.DataFrame, predictions: pd.DataFrame,
             seen_devices: Collection[str] | None = None) -> dict[str, Any]:
    """Validate both tables (:func:`validate`), and compute every score.

    Args:
        reference: clips to evaluate, with their true labels and devices.
        predictions: predictions for the same clips, in any order.
        seen_devices: devices with clips in the training split; if None, *seen* and *unseen* have no score.

    Returns:
        ``labels`` and ``devices``; the scores ``overall``, ``class_wise`` (by label), ``device_wise`` (by device),
        ``class_device_wise`` (by label, then device) and ``device_groups`` (``real``, ``seen``, ``unseen``), each
        ``{"logloss", "accuracy"}``, unrounded, accuracy in percent, or ``None`` if there are no clips; ``intervals``,
        the intervals of all these scores in the same structure, ``None`` where they cannot be estimated;
        ``calibration``, from :func:`evaluation.calibration.reliability`; ``confusion``, the number of clips by true and
        decided label; ``highest_losses``, the clips with the highest log loss; and ``probability_0``, the clips whose
        true label has a probability below ``EPS``.
    """
    matched = match(reference, predictions)
    labels, devices = label_columns(predictions), sorted(set(reference.device))
    probabilities = matched[labels].to_numpy(np.float64)
    decided = matched.scene_label.to_numpy(object)
    truth, device = reference.scene_label.to_numpy(object), reference.device.to_numpy(object)
    losses = clip_log_losses(truth, probabilities, labels)
    location = reference.identifier.to_numpy(object) if "identifier" in reference else None

    def score(clips: np.ndarray) -> dict[str, float] | None:
        if not clips.any():
            return None
        return {"logloss": float(losses[clips].mean()), "accuracy": accuracy(truth[clips], decided[clips])}

    def interval(clips: np.ndarray) -> dict[str, tuple[float, float] | None] | None:
        if location is None or not clips.any():
            return None
        scenes = truth[clips]
        of_loss = score_interval(losses[clips], np.full(len(scenes), 1 / len(scenes)), scenes, location[clips])
        of_accuracy = score_interval(100.0 * (decided[clips] == scenes), class_weights(scenes), scenes, location[clips])
        return {"logloss": of_loss and (max(0.0, of_loss[0]), of_loss[1]),
                "accuracy": of_accuracy and (max(0.0, of_accuracy[0]), min(100.0, of_accuracy[1]))}

    simulated = set(reference.device[reference.simulated] if "simulated" in reference else SIMULATED_DEVICES)
    groups = {"real": [name for name in devices if name not in simulated], "seen": [], "unseen": []}
    if seen_devices is not None:
        groups["seen"] = [name for name in devices if name in seen_devices]
        groups["unseen"] = [name for name in devices if name not in seen_devices]

    subsets = {
        "overall": np.ones(len(truth), dtype=bool),
        "class_wise": {label: truth == label for label in labels},
        "device_wise": {name: device == name for name in devices},
        "class_device_wise": {},
        "device_groups": {group: np.isin(device, members) for group, members in groups.items()},
    }
    for label in labels:
        subsets["class_device_wise"][label] = {name: (truth == label) & (device == name) for name in devices}

    confusion = {}
    for label in labels:
        confusion[label] = {other: int(np.sum((truth == label) & (decided == other))) for other in labels}

    highest_losses = []
    for clip in np.argsort(-losses, kind="stable")[:HIGHEST_LOSSES]:
        highest_losses.append({
            "filename": reference.filename.iloc[clip], "device": device[clip], "scene_label": truth[clip],
            "decided": decided[clip], "probability": float(probabilities[clip, labels.index(truth[clip])]),
            "logloss": float(losses[clip])})

    confidence = probabilities[np.arange(len(truth)), pd.Index(labels).get_indexer(decided)]
    return {
        "labels": labels,
        "devices": devices,
        **_apply(score, subsets),
        "intervals": _apply(interval, subsets),
        "calibration": reliability(decided, truth, confidence),
        "confusion": confusion,
        "highest_losses": highest_losses,
        "probability_0": reference.filename[losses >= -np.log(EPS)].tolist(),
    }


def before_scaling(reference: pd.DataFrame, predictions: pd.DataFrame, temperature: float) -> dict[str, Any]:
    """Log loss and calibration of the probabilities before the logits were divided by a temperature.

    Returns:
        ``temperature``, ``logloss`` and ``calibration``.
    """
    labels = label_columns(predictions)
    table = predictions.copy()
    table[labels] = scaled(table[labels].to_numpy(np.float64), 1 / temperature)
    results = evaluate(reference, table)
    return {"temperature": temperature, "logloss": results["overall"]["logloss"], "calibration": results["calibration"]}


def _apply(function: Callable[[np.ndarray], Any], subsets: Any) -> Any:
    """Apply a function to every leaf of nested dictionaries."""
    if isinstance(subsets, dict):
        return {name: _apply(function, part) for name, part in subsets.items()}
    return function(subsets)


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
