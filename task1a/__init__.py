"""BC-ResNet-ASC with Residual Normalization: from recordings to a small model and its predictions.

``task1a.load(MODEL).predict(samples, rate)`` gives the probabilities of the scenes of a recording.
"""
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from task1a.predict.recordings import Predictor

__version__ = "0.1.0"


def load(path: str, device: str = "auto") -> "Predictor":
    """Load a model file, to predict recordings with it; see :class:`task1a.predict.recordings.Predictor`."""
    from pathlib import Path

    from task1a.predict.recordings import Predictor

    return Predictor(Path(path), device)
