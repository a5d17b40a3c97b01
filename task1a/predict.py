"""A model over clips -> probabilities, and the file of predictions in the official columns."""
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from task1a.errors import InputError
from task1a.run_folder import write_text

ReadClips = Callable[[np.ndarray], np.ndarray]
"""Indices [n] -> log-mel energies float32 [n, mel bins, frames]."""


@torch.no_grad()
def logits(model: nn.Module, read: ReadClips, clips: int, batch_size: int, device: torch.device) -> Tensor:
    """Outputs of a model in evaluation mode for clips 0 ... ``clips`` - 1: float32 [clips, classes] on the CPU.

    The model is left in the mode it was in.
    """
    training = model.training
    model.eval()
    batches = []
    for start in range(0, clips, batch_size):
        x = torch.from_numpy(read(np.arange(start, min(start + batch_size, clips)))).unsqueeze(1)
        batches.append(model(x.to(device)).float().cpu())
    model.train(training)
    return torch.cat(batches)


def predictions(filenames: Sequence[str], outputs: Tensor, labels: Sequence[str]) -> pd.DataFrame:
    """Softmax of ``outputs`` [clips, classes] as a table: filename, scene_label (the most probable), the labels."""
    return _table(filenames, torch.softmax(outputs.double(), dim=1).numpy(), labels)


def average(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The mean of the probabilities of several models for the same clips, as :func:`predictions` gives them.

    Raises:
        InputError: the tables are of different clips or labels.
    """
    first, labels = tables[0], list(tables[0].columns[2:])
    for other in tables[1:]:
        if list(other) != list(first) or list(other.filename) != list(first.filename):
            raise InputError("the members of the ensemble are of different clips or labels")
    if len(tables) == 1:
        return first
    mean = np.mean([table[labels].to_numpy() for table in tables], axis=0)
    return _table(first.filename, mean, labels)


def _table(filenames: Sequence[str], probabilities: np.ndarray, labels: Sequence[str]) -> pd.DataFrame:
    table = pd.DataFrame(probabilities, columns=list(labels))
    table.insert(0, "filename", list(filenames))
    table.insert(1, "scene_label", [labels[k] for k in probabilities.argmax(axis=1)])
    return table


def write_predictions(path: Path, table: pd.DataFrame) -> None:
    """Write predictions tab-separated with LF line ends, nine significant digits, atomically."""
    write_text(path, table.to_csv(sep="\t", index=False, lineterminator="\n", float_format="%.9g"))
