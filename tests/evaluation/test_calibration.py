"""Temperature scaling against the softmax of divided logits."""
import numpy as np
import pytest
from scipy.special import softmax

from evaluation.calibration import apply_temperature, before_scaling
from evaluation.metrics import evaluate


def test_temperature_divides_the_logits():
    logits = np.random.default_rng(0).normal(size=(5, 3))
    assert apply_temperature(softmax(logits, axis=1), 2.0) == pytest.approx(softmax(logits / 2, axis=1))
    assert apply_temperature(softmax(logits / 2, axis=1), 0.5) == pytest.approx(softmax(logits, axis=1))
    assert np.isfinite(apply_temperature(np.array([[1.0, 0.0]]), 1 / 3)).all()


def test_before_scaling_undoes_the_temperature(reference, predictions):
    labels = ["bus", "park", "tram"]
    logits = np.random.default_rng(0).normal(size=(8, 3))
    plain, scaled = predictions.copy(), predictions.copy()
    plain[labels] = softmax(logits, axis=1)
    scaled[labels] = softmax(logits / 1.7, axis=1)
    found = before_scaling(reference, scaled, 1.7)
    assert found["logloss"] == pytest.approx(evaluate(reference, plain)["overall"]["logloss"])
    assert found["calibration"]["expected_calibration_error"] == pytest.approx(
        evaluate(reference, plain)["calibration"]["expected_calibration_error"])
