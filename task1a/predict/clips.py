"""Prediction of clips with a stored model, from their features: the one batched inference loop of
the project."""
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from task1a import model_file
from task1a.errors import ModelError
from task1a.machine import keep_freed_memory

if TYPE_CHECKING:
    import pandas as pd

ReadClips = Callable[[np.ndarray], np.ndarray]
"""Reads clips: indices [n] -> log-mel energies float32 [n, mel bins, frames]."""


def select(read: ReadClips, rows: np.ndarray) -> ReadClips:
    """Return a function that reads clips by their index among some ``rows``."""
    return lambda indices: read(rows[indices])


def logits(model: nn.Module, read: ReadClips, clips: int, batch_size: int, torch_device: torch.device) -> Tensor:
    """Compute the logits of clips 0 ... ``clips`` - 1, in evaluation mode: float32 [clips, classes]
    on the CPU.

    Afterwards the model is in the mode it was in before.
    """
    training = model.training
    model.eval()
    batches = []
    with torch.no_grad():
        for start in range(0, clips, batch_size):
            x = torch.from_numpy(read(np.arange(start, min(start + batch_size, clips)))).unsqueeze(1)
            batches.append(model(x.to(torch_device)).float().cpu())
    model.train(training)
    return torch.cat(batches)


def predict(path: Path, filenames: Sequence[str], read: ReadClips, batch_size: int, torch_device: torch.device,
            time_rolls: int = 1) -> "pd.DataFrame":
    """Predict clips with a model file.

    Args:
        path: model file.
        filenames: names of the clips.
        read: reads their features by index.
        batch_size: clips per forward pass.
        torch_device: device to compute on.
        time_rolls: number of equidistant circular shifts along time whose probabilities are
            averaged.

    Returns:
        A table of :mod:`task1a.predict.predictions`; probabilities are the softmax of the logits in
        float64.

    Raises:
        InputError: the file is not a usable model, or its outputs overflow.
    """
    from task1a.predict import predictions  # imports pandas

    keep_freed_memory()
    model, spec = model_file.load_for_inference(path, torch_device)
    shifted = []
    for number in range(time_rolls):
        shift = round(number * spec.features.frames / time_rolls)
        outputs = logits(model, partial(_read_rolled, read, shift), len(filenames), batch_size, torch_device)
        shifted.append(probabilities(outputs, path))
    return predictions.table(filenames, np.mean(shifted, axis=0), spec.labels)


def _read_rolled(read: ReadClips, shift: int, indices: np.ndarray) -> np.ndarray:
    return np.roll(read(indices), shift, axis=-1)


def probabilities(outputs: Tensor, path: Path) -> np.ndarray:
    """Compute the softmax of the logits [clips, classes] of a model file, in float64."""
    if not outputs.isfinite().all():  # the features are finite
        name, largest = model_file.find_largest(path)
        raise ModelError(f"{path}: its outputs overflow; the largest of its values, {largest:g}, is in tensor {name}")
    return torch.softmax(outputs.double(), dim=1).numpy()
