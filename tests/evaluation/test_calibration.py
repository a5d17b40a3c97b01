"""Calibration against values worked out by hand."""
import numpy as np
import pytest

from evaluation.calibration import reliability


def test_reliability_by_hand():
    decided, truth = ["bus", "bus", "park", "park"], ["bus", "park", "park", "bus"]
    found = reliability(decided, truth, np.array([0.5, 0.52, 1.0, 0.95]))
    used = {index: point for index, point in enumerate(found["bins"]) if point["clips"]}
    assert len(found["bins"]) == 15 and used.keys() == {7, 14}
    assert used[7] == {"from": pytest.approx(100 * 7 / 15), "to": pytest.approx(100 * 8 / 15), "clips": 2,
                       "confidence": pytest.approx(51), "accuracy": 50}
    assert used[14]["confidence"] == pytest.approx(97.5) and used[14]["accuracy"] == 50
    assert found["expected_calibration_error"] == pytest.approx(0.5 * 1 + 0.5 * 47.5)


def test_a_perfectly_calibrated_predictor_has_no_error():
    found = reliability(["bus"] * 10, ["bus"] * 8 + ["park"] * 2, np.full(10, 0.8))
    assert found["expected_calibration_error"] == pytest.approx(0)
