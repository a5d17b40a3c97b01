import numpy as np
import pytest
from scipy.special import softmax

from task1a.predict.predictions import scaled


def test_scaled_probabilities_are_the_softmax_of_the_divided_logits():
    logits = np.random.default_rng(0).normal(size=(5, 3))
    assert scaled(softmax(logits, axis=1), 2.0) == pytest.approx(softmax(logits / 2, axis=1))
    assert scaled(softmax(logits / 2, axis=1), 0.5) == pytest.approx(softmax(logits, axis=1))
    assert np.isfinite(scaled(np.array([[1.0, 0.0]]), 1 / 3)).all()
