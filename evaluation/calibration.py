"""Temperature scaling of probabilities (Guo et al., *On Calibration of Modern Neural Networks*,
ICML 2017).

Logits are divided by a temperature T before the softmax. From probabilities, the logits are known
up to a constant of each clip, their logarithms, which is all that the softmax needs.
"""
from typing import Any

import numpy as np
import pandas as pd

from evaluation import metrics
from task1a.predict.predictions import label_columns


def apply_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Return softmax(log p / T); the temperature 1 / T undoes it.

    Shape: [clips, labels] -> [clips, labels].
    """
    # the smallest normal number stands for a probability of 0, whose logarithm is not finite
    logs = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny)) / temperature
    powers = np.exp(logs - logs.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def before_scaling(reference: pd.DataFrame, predictions: pd.DataFrame,
                   temperature: float) -> dict[str, Any]:
    """Return log loss and calibration before the logits were divided by a temperature.

    Args:
        reference: as for :func:`evaluation.metrics.evaluate`.
        predictions: predictions with the temperature.
        temperature: the temperature that is undone.

    Returns:
        ``temperature``, ``logloss`` and ``calibration``.
    """
    labels = label_columns(predictions)
    table = predictions.copy()
    table[labels] = apply_temperature(table[labels].to_numpy(np.float64), 1 / temperature)
    results = metrics.evaluate(reference, table)
    return {"temperature": temperature, "logloss": results["overall"]["logloss"],
            "calibration": results["calibration"]}
