"""How well confidence agrees with accuracy.

The confidence of a prediction is the probability of its decided scene. Predictions are sorted into 15 bins of equal
width by their confidence. The *expected calibration error* is the mean over all clips of the absolute difference
between accuracy and mean confidence of their bin (Guo et al., *On Calibration of Modern Neural Networks*, ICML 2017).
"""
from collections.abc import Sequence
from typing import Any

import numpy as np

BINS = 15


def reliability(decided: Sequence[str], truth: Sequence[str], confidence: np.ndarray) -> dict[str, Any]:
    """Reliability by bins of confidence.

    Args:
        decided: decided label of each clip.
        truth: true label of each clip.
        confidence: probability of the decided label of each clip, in [0, 1].

    Returns:
        ``expected_calibration_error`` and ``bins``, each with ``from``, ``to``, ``clips``, and ``confidence`` and
        ``accuracy``, which are None for an empty bin. All but the number of clips are in percent.
    """
    correct = np.asarray(decided, dtype=object) == np.asarray(truth, dtype=object)
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
