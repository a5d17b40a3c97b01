"""A small network, clips that it can learn, and trainings that are killed."""
from collections.abc import Callable

import numpy as np
import pytest

from task1a.config import BCResNetASCConfig, FeatureConfig
from task1a.model_file import ModelSpec
from task1a.training.examples import Examples


@pytest.fixture(scope="session")
def toy_spec() -> ModelSpec:
    return ModelSpec(BCResNetASCConfig(tau=0.4, residual_norm="none"),
                     FeatureConfig(n_mels=32, n_fft=1024, window=1024, hop=800, clip_seconds=1.0),
                     ("bus", "park", "tram"))


@pytest.fixture(scope="session")
def examples(toy_spec):
    """Draws clips whose class is the third of the spectrum that is loud."""
    def draw(clips: int, seed: int = 0) -> Examples:
        rng = np.random.default_rng(seed)
        targets = rng.integers(0, 3, clips)
        stored = rng.normal(0, 1, (clips, 32, toy_spec.features.frames)).astype(np.float32)
        for clip, target in zip(stored, targets, strict=True):
            clip[target * 11:target * 11 + 10] += 2
        devices, locations = np.resize(["a", "b"], clips), np.arange(clips).astype(str)
        return Examples(lambda indices: stored[indices], targets, devices, locations)
    return draw


class Killed(Exception):
    pass


@pytest.fixture
def kill_after():
    """Calls a training, which reports its epochs, and ends it after so many of them."""
    def kill(epochs: int, train: Callable, *arguments, **settings) -> None:
        def report(text: str) -> None:
            if text.startswith(f"epoch {epochs}/"):
                raise Killed

        with pytest.raises(Killed):
            train(*arguments, report=report, **settings)
    return kill
