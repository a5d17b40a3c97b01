"""A system: one or several models, and how their predictions are combined."""
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class System:
    """The models of a system.

    One model predicts alone. The probabilities of several are averaged, unless recording devices have models of their
    own: then the first model is the general one, and each clip is predicted by the model of its device.
    """

    files: tuple[Path, ...]
    """model files"""
    passes: tuple[int, ...]
    """number of forward passes of each model for a clip"""
    devices: tuple[str, ...] = ()
    """recording devices of the models after the first one; empty unless the device chooses the model"""

    @property
    def by_device(self) -> bool:
        """Whether a clip is predicted by one of the models, chosen by its recording device."""
        return bool(self.devices)

    def chosen(self, devices: Sequence[str]) -> np.ndarray:
        """Return the number of the model for each clip, given the recording devices of the clips."""
        numbers = {device: number for number, device in enumerate(self.devices, start=1)}
        return np.array([numbers.get(device, 0) for device in devices], int)
