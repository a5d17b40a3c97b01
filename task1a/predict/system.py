"""Prediction of clips with all models of a system."""
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from task1a.predict import predictions
from task1a.predict.clips import ReadClips, predict, select
from task1a.system import System


def predict_system(system: System, clips: Sequence[pd.DataFrame], readers: Sequence[ReadClips], batch_size: int,
                   torch_device: torch.device) -> pd.DataFrame:
    """Predict clips with a system.

    Args:
        system: the models, and how they are combined.
        clips: the clips for each model, with the columns ``filename`` and, if the device chooses
            the model, ``device``.
        readers: for each model, a function that reads the features of its clips by index.
        batch_size: clips per forward pass.
        torch_device: device to compute on.

    Returns:
        A table of :mod:`task1a.predict.predictions`.

    Raises:
        InputError: a file is not a usable model, or the models predict different clips or labels.
    """
    chosen = system.chosen(clips[0].device) if system.by_device else None
    tables = []
    for number, (file, passes) in enumerate(zip(system.files, system.passes, strict=True)):
        names, read = clips[number].filename, readers[number]
        rows = np.arange(len(names)) if chosen is None else np.flatnonzero(chosen == number)
        if len(rows):
            tables.append(predict(file, names[rows], select(read, rows),
                                  batch_size, torch_device, passes))
    if chosen is None:
        return predictions.average(tables)
    return pd.concat(tables).set_index("filename").loc[clips[0].filename].reset_index()
