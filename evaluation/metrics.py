"""Log loss and accuracy of scene predictions: overall, by class, by device, by class and device, by device group.

Conventions
-----------
Predictions hold one row a clip: ``filename``, the decided ``scene_label``, and one column of probabilities for each
scene label (the official output format of DCASE 2021 Task 1A). The reference holds ``filename``, ``scene_label`` and
the recording ``device``. Clips are matched by name, never by row number. Which labels and devices there are is whatever
the files say; both are taken in alphabetical order. Accuracies are in percent. A subset without clips has no score:
``None``.

Metrics
-------
* :func:`log_loss`: the mean of -ln p(true label), the official ranking. Of a class, a device or a class on a device it
  is the same mean over that subset, with all labels given [baseline]; computed as scikit-learn does [sklearn].
* :func:`accuracy`: the mean of the class-wise accuracies (macro average) of the decided label, which is not derived
  anew from the probabilities [baseline]; of a device it is the macro average within the device.
* Device groups: *real* are the devices not named ``s<number>``, which are simulated; *seen* are those with training
  clips, *unseen* the others [task]. A group is scored like a device, over the clips of all its devices together.

Sources
-------
.. [baseline] The organisers' DCASE 2021 Task 1A baseline, https://github.com/marmoi/dcase2021_task1a_baseline
.. [sklearn] ``sklearn.metrics.log_loss`` of scikit-learn
.. [task] I. Martin-Morato, T. Heittola, A. Mesaros, T. Virtanen, "Low-complexity acoustic scene classification for
   multi-device audio: analysis of DCASE 2021 Challenge systems", DCASE 2021 Workshop
"""
import re
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd

from task1a.challenge import KEY_COLUMNS, clip_key
from task1a.errors import InputError
from task1a.predictions import check_probabilities, label_columns

_REFERENCE_COLUMNS = (*KEY_COLUMNS, "device")


def validate(reference: pd.DataFrame, predictions: pd.DataFrame) -> None:
    """Check that ``predictions`` can be judged against ``reference``.

    Args:
        reference: columns ``filename``, ``scene_label``, ``device``.
        predictions: columns ``filename``, ``scene_label`` and the probabilities, one column a label.

    Raises:
        InputError: one of the two is empty, lacks a column or has a clip twice; they do not hold the same clips; a
            label of the reference has no column; a decided label is none of the labels; a probability is not finite or
            not in [0, 1], or those of a clip do not sum to 1.
    """
    _check_clips("reference", reference, _REFERENCE_COLUMNS)
    _check_clips("predictions", predictions, KEY_COLUMNS)
    _check_same_clips(reference, predictions)
    labels = label_columns(predictions)
    absent = sorted(set(reference.scene_label) - set(labels))
    if absent:
        raise InputError(f"predictions: no column of probabilities for {len(absent)} scene labels of the reference: "
                         f"{_first(absent)}")
    check_probabilities(predictions)


def log_loss(labels_true: Sequence[str], probabilities: np.ndarray, labels: Sequence[str]) -> float:
    """Mean negative natural logarithm of the probability given to the true label.

    Equal to ``sklearn.metrics.log_loss(labels_true, probabilities, labels=labels)`` on float64 with ``labels`` in
    alphabetical order: probabilities are clipped to [eps, 1 - eps] of float64 and not normalised. Computed here
    because importing scikit-learn takes longer than everything else a command does.

    Shape:
        labels_true: (clips,), at least one clip; probabilities: (clips, labels), in the order of ``labels``.

    Raises:
        InputError: a true label is none of ``labels``.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    truth = np.asarray(labels_true, dtype=object)
    columns = pd.Index(labels).get_indexer(truth)
    if (columns < 0).any():
        raise InputError(f"the true label {truth[columns < 0][0]!r} is none of the labels {', '.join(labels)}")
    eps = np.finfo(np.float64).eps
    return float(-np.log(probabilities[np.arange(len(columns)), columns].clip(eps, 1 - eps)).mean())


def accuracy(labels_true: Sequence[str], labels_decided: Sequence[str]) -> float:
    """Mean, in percent, of the class-wise accuracies over the classes that are present in ``labels_true``.

    Shape:
        labels_true, labels_decided: (clips,), at least one clip.
    """
    truth = np.asarray(labels_true, dtype=object)
    correct = truth == np.asarray(labels_decided, dtype=object)
    classes, _ = pd.factorize(truth)
    return float(100 * (np.bincount(classes, weights=correct) / np.bincount(classes)).mean())


def evaluate(reference: pd.DataFrame, predictions: pd.DataFrame,
             seen_devices: Collection[str] | None = None) -> dict[str, Any]:
    """Every score of ``predictions``, validated first (see :func:`validate` for both tables and the errors).

    Args:
        reference: the clips that are judged, with their truth.
        predictions: the same clips, in any order.
        seen_devices: the devices with clips in the training split; where not given, *seen* and *unseen* are ``None``.

    Returns:
        ``labels`` and ``devices``, then ``overall``, ``class_wise`` (by label), ``device_wise`` (by device),
        ``class_device_wise`` (by label, then device) and ``device_groups`` (``real``, ``seen``, ``unseen``). A score
        is ``{"logloss", "accuracy"}``, unrounded, accuracy in percent, or ``None`` where there are no clips.
    """
    validate(reference, predictions)
    labels, devices = label_columns(predictions), sorted(set(reference.device))
    matched = predictions.set_index(predictions.filename.map(clip_key)).loc[reference.filename.map(clip_key)]
    probabilities = matched[labels].to_numpy(np.float64)
    decided = matched.scene_label.to_numpy(object)
    truth, device = reference.scene_label.to_numpy(object), reference.device.to_numpy(object)

    def score(clips: np.ndarray) -> dict[str, float] | None:
        if not clips.any():
            return None
        return {"logloss": log_loss(truth[clips], probabilities[clips], labels),
                "accuracy": accuracy(truth[clips], decided[clips])}

    of_label = {label: truth == label for label in labels}
    of_device = {name: device == name for name in devices}
    groups = _device_groups(devices, seen_devices)
    return {
        "labels": labels,
        "devices": devices,
        "overall": score(np.ones(len(truth), dtype=bool)),
        "class_wise": {label: score(of_label[label]) for label in labels},
        "device_wise": {name: score(of_device[name]) for name in devices},
        "class_device_wise": {label: {name: score(of_label[label] & of_device[name]) for name in devices}
                              for label in labels},
        "device_groups": {group: score(np.isin(device, members)) for group, members in groups.items()},
    }


def _device_groups(devices: Sequence[str], seen_devices: Collection[str] | None) -> dict[str, list[str]]:
    known = seen_devices is not None
    return {
        "real": [name for name in devices if not re.fullmatch(r"s\d+", name)],
        "seen": [name for name in devices if known and name in seen_devices],
        "unseen": [name for name in devices if known and name not in seen_devices],
    }


def _check_clips(name: str, table: pd.DataFrame, columns: Sequence[str]) -> None:
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise InputError(f"{name}: no column {missing[0]!r}")
    if table.empty:
        raise InputError(f"{name}: no clip")
    keys = table.filename.map(clip_key)
    twice = keys[keys.duplicated()].unique()
    if len(twice):
        raise InputError(f"{name}: {len(twice)} clips are listed more than once: {_first(twice)}")


def _check_same_clips(reference: pd.DataFrame, predictions: pd.DataFrame) -> None:
    expected, given = (table.filename.map(clip_key) for table in (reference, predictions))
    missing = expected[~expected.isin(set(given))].tolist()
    extra = given[~given.isin(set(expected))].tolist()
    wrong = []
    if missing:
        wrong.append(f"{len(missing)} of the reference's {len(expected)} clips are missing: {_first(missing)}")
    if extra:
        wrong.append(f"{len(extra)} clips are not in the reference: {_first(extra)}")
    if wrong:
        raise InputError(f"predictions: {'; '.join(wrong)}; predict exactly the clips of the reference")


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
