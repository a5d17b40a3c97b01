"""Labelled clips: read from the feature cache batch by batch, or held on a GPU where they fit."""
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from task1a.config import TrainingConfig
from task1a.data.splits import split_validation
from task1a.predict.clips import ReadClips, select

HELD_SHARE = 0.5
"""largest share of the free memory of a GPU that is used to hold clips; a training step needs the
rest"""
_BLOCK = 256  # clips that are copied at once


@dataclass(frozen=True)
class Examples:
    """Labelled clips."""

    read: ReadClips
    """reads their log-mel energies by index"""
    targets: np.ndarray
    """class indices [clips]"""
    devices: np.ndarray = field(default_factory=lambda: np.empty(0, str))
    """recording devices [clips]; needed for validation clips that calibrate the model"""
    locations: np.ndarray = field(default_factory=lambda: np.empty(0, str))
    """recording locations [clips], likewise"""
    filenames: np.ndarray = field(default_factory=lambda: np.empty(0, str))
    """names of the recordings [clips]; needed, like the devices, for device translation"""
    held: Tensor | None = None
    """all log-mel energies on a GPU, float16 [clips, mel bins, frames]; see :meth:`hold`"""

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def from_reference(self) -> np.ndarray:
        """Whether each clip is of the reference device, the one with the most clips: bool
        [clips]."""
        kinds, counts = np.unique(self.devices, return_counts=True)
        return self.devices == kinds[counts.argmax()]

    def hold(self, torch_device: torch.device, free_bytes: int) -> "Examples":
        """Return the same clips, held on a GPU if they take at most :data:`HELD_SHARE` of its free
        memory.

        They are stored in half precision, as in the feature cache, so nothing is lost. On the CPU
        nothing is to be
        copied: the page cache already holds the memory-mapped features.
        """
        # copied in blocks, because all clips in float32 would take twice the memory of the machine
        first = torch.from_numpy(self.read(np.arange(min(1, len(self)))))
        if not len(self) or 2 * len(self) * first[0].numel() > HELD_SHARE * free_bytes:
            return self
        held = torch.empty(len(self), *first.shape[1:], dtype=torch.float16, device=torch_device)
        for start in range(0, len(self), _BLOCK):
            indices = np.arange(start, min(start + _BLOCK, len(self)))
            held[start:start + len(indices)] = torch.from_numpy(self.read(indices)).half()
        return replace(self, held=held)

    def batch(self, indices: Tensor, torch_device: torch.device) -> Tensor:
        """Return clips on a device, float32 [n, 1, F, T]; ``indices`` [n] are on the device of held
        clips."""
        if self.held is not None:
            return self.held[indices].float().unsqueeze(1)
        return torch.from_numpy(self.read(indices.numpy())).unsqueeze(1).to(torch_device)

    def batches(self, batch_size: int, torch_device: torch.device) -> Iterator[Tensor]:
        """Yield all clips in order, on a device, float32 [n, 1, F, T]."""
        for indices in torch.arange(len(self)).split(batch_size):
            yield self.batch(indices, torch_device)

    def probabilities(self, classes: int, torch_device: torch.device) -> Tensor:
        """Return the one-hot targets of all clips, float32 [clips, classes]."""
        return F.one_hot(torch.from_numpy(self.targets), classes).float().to(torch_device)


def split_examples(clips: pd.DataFrame, read: ReadClips, labels: tuple[str, ...],
                   config: TrainingConfig) -> tuple[Examples, Examples]:
    """Divide the training split into the clips to train on and those of other locations, to
    validate on.

    Args:
        clips: the training split, with ``scene_label``, ``device``, ``identifier`` (location) and
            ``filename``.
        read: reads the features of its clips by index.
        labels: scene labels in the order of the classes.
        config: the share of the validation clips, and the recording devices whose clips are used.
    """
    held_out = split_validation(clips, config.validation_fraction, config.validation_seed)
    targets = np.array([labels.index(label) for label in clips.scene_label])
    used = clips.device.isin(config.devices).to_numpy() if config.devices else np.ones(len(clips), bool)
    parts = []
    for chosen in (~held_out & used, held_out & used):
        rows = np.flatnonzero(chosen)
        parts.append(Examples(select(read, rows), targets[rows],
                              clips.device.to_numpy(str)[rows], clips.identifier.to_numpy(str)[rows],
                              clips.filename.to_numpy(str)[rows]))
    return parts[0], parts[1]
