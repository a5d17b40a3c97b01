"""Log loss, accuracy and calibration of scene predictions.

Log loss and accuracy are computed overall, by class, by device, by class and device, and by device
group.

Conventions
-----------
Predictions hold one row per clip: ``filename``, the predicted ``scene_label``, and one column of
probabilities for each scene label (the official output format of DCASE 2021 Task 1A). The reference
holds ``filename``, ``scene_label``, the recording ``device`` and, for the intervals, the recording
location, ``identifier``. Clips are matched by name, never by row number. The labels and devices are
those in the files, in alphabetical order. Accuracies are in percent. A subset without clips has no
score: ``None``.

Metrics
-------
* :func:`log_loss`: mean of -ln p(true label), by which the challenge ranks [baseline]; as
  scikit-learn computes it [sklearn]. For a class or a device, it is the mean over the clips of that
  class or device.
* :func:`accuracy`: mean of the class-wise accuracies (macro average) [baseline], from the counts of
  sed_eval [sed_eval]. It judges the predicted label, which need not be the most probable one. For a
  device, it is the macro average over the clips of that device.
* Device groups: *real* are the devices that are not simulated, by the column ``simulated`` of the
  reference or, without it, by the names of the TAU sets; *seen* are those with training clips,
  *unseen* the others [task]. A group is scored like a device, over the clips of all its devices
  together.
* Intervals: 95 % over locations, for every score
  (:func:`evaluation.compare.intervals.score_interval`).
* :func:`reliability`: the predicted scene is right as often as its probability says. Clips are
  sorted by that probability, the confidence, into bins of equal width. The expected calibration
  error is the mean difference between confidence and accuracy, weighted by the clips of each bin
  [guo].

Sources
-------
.. [baseline] The organisers' DCASE 2021 Task 1A baseline,
   https://github.com/marmoi/dcase2021_task1a_baseline
.. [guo] C. Guo et al., "On calibration of modern neural networks", ICML 2017
.. [sed_eval] ``sed_eval.scene.SceneClassificationMetrics``, https://tut-arg.github.io/sed_eval/
.. [sklearn] ``sklearn.metrics.log_loss`` of scikit-learn
.. [task] I. Martin-Morato, T. Heittola, A. Mesaros, T. Virtanen, "Low-complexity acoustic scene
   classification for multi-device audio: analysis of DCASE 2021 Challenge systems", DCASE 2021
   Workshop
"""
import warnings
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd

from evaluation.compare.intervals import class_weights, score_interval
from task1a.challenge import KEY_COLUMNS, SIMULATED_DEVICES, clip_key
from task1a.errors import InputError, counted
from task1a.predict.predictions import check_probabilities, label_columns

EPS = float(np.finfo(np.float64).eps)
"""Probabilities are clipped to [EPS, 1 - EPS] in the log loss."""

BINS = 15
"""Number of bins of confidence."""

HIGHEST_LOSSES = 20
"""Number of clips with the highest log loss that are named."""

# clips per call of sed_eval, whose time is quadratic in their number
_BLOCK = 50


def validate(reference: pd.DataFrame, predictions: pd.DataFrame) -> None:
    """Check that ``predictions`` can be evaluated against ``reference``.

    Args:
        reference: columns ``filename``, ``scene_label``, ``device``.
        predictions: columns ``filename``, ``scene_label``, and one column of probabilities per
            label.

    Raises:
        InputError: a table is empty, lacks a column or lists a clip twice; the clips differ; a
            label of the reference has no column; or the probabilities are invalid
            (:func:`task1a.predict.predictions.check_probabilities`).
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
            raise InputError(f"{name}: {counted(len(repeated), 'clip')} listed more than once: "
                             f"{_first(repeated)}")

    expected, given = reference.filename.map(clip_key), predictions.filename.map(clip_key)
    missing, extra = expected[~expected.isin(given)], given[~given.isin(expected)]
    problems = []
    if len(missing):
        problems.append(f"missing {len(missing)} of {counted(len(expected), 'clip')} of the "
                        f"reference: {_first(missing)}")
    if len(extra):
        problems.append(f"{counted(len(extra), 'clip')} not in the reference: {_first(extra)}")
    if problems:
        raise InputError(f"predictions: {'; '.join(problems)}; predict exactly the clips of the "
                         "reference")

    no_column = sorted(set(reference.scene_label) - set(label_columns(predictions)))
    if no_column:
        raise InputError(f"predictions: no column of probabilities for {len(no_column)} scene labels "
                         f"of the reference: {_first(no_column)}")
    check_probabilities(predictions)


def match(reference: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
    """Validate both tables, and return the predictions in the order of the reference."""
    validate(reference, predictions)
    by_clip = predictions.set_index(predictions.filename.map(clip_key))
    return by_clip.loc[reference.filename.map(clip_key)]


def clip_log_losses(labels_true: Sequence[str], probabilities: np.ndarray,
                    labels: Sequence[str]) -> np.ndarray:
    """Return the negative natural logarithm of the probability of each clip's true label.

    As in ``sklearn.metrics.log_loss``, whose import takes longer than a whole command,
    probabilities are clipped to [EPS, 1 - EPS].

    Shape:
        labels_true: (clips,); probabilities: (clips, labels), in the order of ``labels`` ->
            (clips,).

    Raises:
        InputError: a true label is none of ``labels``.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    truth = np.asarray(labels_true, dtype=object)
    columns = pd.Index(labels).get_indexer(truth)
    # -1: no such column
    if (columns < 0).any():
        raise InputError(f"the true label {truth[columns < 0][0]!r} is none of the labels "
                         f"{', '.join(labels)}")
    return -np.log(probabilities[np.arange(len(columns)), columns].clip(EPS, 1 - EPS))


def log_loss(labels_true: Sequence[str], probabilities: np.ndarray, labels: Sequence[str]) -> float:
    """Return the mean of :func:`clip_log_losses` over at least one clip."""
    return float(clip_log_losses(labels_true, probabilities, labels).mean())


def accuracy(labels_true: Sequence[str], labels_predicted: Sequence[str]) -> float:
    """Return the mean in percent of the accuracies of the classes in ``labels_true``.

    Shape:
        labels_true, labels_predicted: (clips,), at least one clip.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "pkg_resources is deprecated", UserWarning)
        from sed_eval.scene import SceneClassificationMetrics

    # Labels are passed as numbers, because sed_eval strips spaces from labels and takes "none" for
    # no label. Classes without clips are not passed: it would count them as 0 %.
    true, present = pd.factorize(np.asarray(labels_true, dtype=object))
    predicted = pd.Index(present).get_indexer(np.asarray(labels_predicted, dtype=object))
    counts = SceneClassificationMetrics(list(map(str, range(len(present)))))
    for start in range(0, len(true), _BLOCK):
        reference, estimated = [], []
        for clip in range(start, min(start + _BLOCK, len(true))):
            reference.append({"filename": str(clip), "scene_label": str(true[clip])})
            estimated.append({"filename": str(clip), "scene_label": str(predicted[clip])})
        counts.evaluate(reference, estimated)

    # its own quotient is a little below 1 for a class whose only clip is predicted right
    accuracies = [label["Ncorr"] / label["Nref"] for label in counts.scene_wise.values()]
    return float(100 * np.mean(accuracies))


def reliability(predicted: Sequence[str], truth: Sequence[str],
                confidence: np.ndarray) -> dict[str, Any]:
    """Return the reliability by bins of confidence, and the expected calibration error [guo].

    Args:
        predicted: predicted label of each clip.
        truth: true label of each clip.
        confidence: probability of the predicted label of each clip, in [0, 1].

    Returns:
        ``expected_calibration_error`` and ``bins``, each with ``from``, ``to``, ``clips``, and
        ``confidence`` and ``accuracy``, which are None for an empty bin. All but the number of
        clips are in percent.
    """
    correct = np.asarray(predicted, dtype=object) == np.asarray(truth, dtype=object)
    # a confidence of 1 belongs to the last bin
    number = np.minimum((confidence * BINS).astype(int), BINS - 1)
    error, bins = 0.0, []
    for index in range(BINS):
        inside = number == index
        clips = int(inside.sum())
        mean_confidence = mean_accuracy = None
        if clips:
            mean_confidence = 100 * float(confidence[inside].mean())
            mean_accuracy = 100 * float(correct[inside].mean())
            error += clips / len(correct) * abs(mean_accuracy - mean_confidence)
        bins.append({"from": 100 * index / BINS, "to": 100 * (index + 1) / BINS, "clips": clips,
                     "confidence": mean_confidence, "accuracy": mean_accuracy})
    return {"expected_calibration_error": error, "bins": bins}


def subsets(reference: pd.DataFrame, labels: Sequence[str], devices: Sequence[str],
            seen_devices: Collection[str] | None) -> dict[str, Any]:
    """Return the clips of every score of :func:`evaluate`, in its structure, as masks [clips]."""
    truth, device = reference.scene_label.to_numpy(object), reference.device.to_numpy(object)
    simulated: Collection[str] = SIMULATED_DEVICES
    if "simulated" in reference:
        simulated = set(reference.device[reference.simulated])
    real = ~np.isin(device, list(simulated))
    # which devices are seen is not known without the training split: then neither group has clips
    seen = unseen = np.zeros(len(truth), dtype=bool)
    if seen_devices is not None:
        seen = np.isin(device, list(seen_devices))
        unseen = ~seen
    class_wise, class_device_wise = {}, {}
    device_wise = {name: device == name for name in devices}
    for label in labels:
        class_wise[label] = truth == label
        class_device_wise[label] = {name: class_wise[label] & device_wise[name] for name in devices}
    return {"overall": np.ones(len(truth), dtype=bool), "class_wise": class_wise,
            "device_wise": device_wise, "class_device_wise": class_device_wise,
            "device_groups": {"real": real, "seen": seen, "unseen": unseen}}


def evaluate(reference: pd.DataFrame, predictions: pd.DataFrame,
             seen_devices: Collection[str] | None = None) -> dict[str, Any]:
    """Validate both tables (:func:`validate`), and compute every score.

    Args:
        reference: clips to evaluate, with their true labels and devices.
        predictions: predictions for the same clips, in any order.
        seen_devices: devices with clips in the training split; if None, *seen* and *unseen* have no
            score.

    Returns:
        ``labels`` and ``devices``; the scores ``overall``, ``class_wise`` (by label),
        ``device_wise``, ``class_device_wise`` (by label, then device) and ``device_groups``
        (``real``, ``seen``, ``unseen``), each ``{"logloss", "accuracy"}``, unrounded, or None
        without clips; ``intervals``, those of all these scores in the same structure, None where
        they cannot be estimated; ``calibration``, from :func:`reliability`; ``confusion``, the
        number of clips by true and predicted label; ``highest_losses``, the clips with the highest
        log loss; and ``probability_0``, the clips whose true label has a probability below ``EPS``.
    """
    matched = match(reference, predictions)
    labels, devices = label_columns(predictions), sorted(set(reference.device))
    probabilities = matched[labels].to_numpy(np.float64)
    predicted, truth = matched.scene_label.to_numpy(object), reference.scene_label.to_numpy(object)
    losses = clip_log_losses(truth, probabilities, labels)
    locations = reference.identifier.to_numpy(object) if "identifier" in reference else None

    def score(clips: np.ndarray) -> dict[str, float] | None:
        if not clips.any():
            return None
        return {"logloss": float(losses[clips].mean()),
                "accuracy": accuracy(truth[clips], predicted[clips])}

    def interval(clips: np.ndarray) -> dict[str, tuple[float, float] | None] | None:
        if locations is None or not clips.any():
            return None
        scenes, places = truth[clips], locations[clips]
        equal, balanced = np.full(len(scenes), 1 / len(scenes)), class_weights(scenes)
        correct = 100.0 * (predicted[clips] == scenes)
        return {"logloss": score_interval(losses[clips], equal, scenes, places, (0.0, np.inf)),
                "accuracy": score_interval(correct, balanced, scenes, places, (0.0, 100.0))}

    clips_of = subsets(reference, labels, devices, seen_devices)
    rows, columns = np.arange(len(truth)), pd.Index(labels)
    true_column, predicted_column = map(columns.get_indexer, (truth, predicted))
    confusion = np.zeros((len(labels), len(labels)), dtype=int)
    np.add.at(confusion, (true_column, predicted_column), 1)
    clips = pd.DataFrame({
        "filename": reference.filename.to_numpy(), "device": reference.device.to_numpy(),
        "scene_label": truth, "decided": predicted, "probability": probabilities[rows, true_column],
        "logloss": losses})
    highest = np.argsort(-losses, kind="stable")[:HIGHEST_LOSSES]
    return {
        "labels": labels, "devices": devices, **_apply(score, clips_of),
        "intervals": _apply(interval, clips_of),
        "calibration": reliability(predicted, truth, probabilities[rows, predicted_column]),
        "confusion": pd.DataFrame(confusion, labels, labels).to_dict("index"),
        "highest_losses": clips.iloc[highest].to_dict("records"),
        "probability_0": clips.filename[losses >= -np.log(EPS)].tolist(),
    }


def _apply(function: Callable[[np.ndarray], Any], masks: Any) -> Any:
    """Apply a function to every leaf of nested dictionaries."""
    if isinstance(masks, dict):
        return {name: _apply(function, part) for name, part in masks.items()}
    return function(masks)


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
