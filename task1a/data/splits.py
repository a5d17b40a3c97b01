"""Division of a training split into training and validation clips, by recording location."""
import warnings

import numpy as np
import pandas as pd

from task1a.errors import InputError


def check_validation(clips: pd.DataFrame, fraction: float) -> None:
    """Check that :func:`split_validation` can divide these clips.

    Raises:
        InputError: there are too few locations, or too few clips of every scene.
    """
    if not fraction:
        return
    parts = round(1 / fraction)
    locations, largest_scene = clips.identifier.nunique(), clips.scene_label.value_counts().max()
    if min(locations, largest_scene) < parts:
        raise InputError(f"training.validation_fraction={fraction:g}: the training split ({locations} locations, at "
                         f"most {largest_scene} clips a scene) cannot be divided into {parts} parts; raise it, or set "
                         "it to 0 for no validation")


def split_validation(clips: pd.DataFrame, fraction: float, seed: int) -> np.ndarray:
    """Choose validation clips: all clips of some locations, stratified by scene.

    Args:
        clips: ``scene_label`` and ``identifier`` (the location) of the training split.
        fraction: approximate fraction of the clips; 0 for no validation.
        seed: random seed.

    Returns:
        bool [clips]: True for validation.

    Raises:
        InputError: there are too few locations.
    """
    held_out = np.zeros(len(clips), dtype=bool)
    if fraction == 0:
        return held_out
    from sklearn.model_selection import StratifiedGroupKFold

    # one fold is the validation part, so the fraction is rounded to 1 / (a whole number)
    check_validation(clips, fraction)
    folds = StratifiedGroupKFold(round(1 / fraction), shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # a scene with fewer clips than parts cannot be in every fold
        warnings.filterwarnings("ignore", message="The least populated class")
        held_out[next(folds.split(clips, clips.scene_label, clips.identifier))[1]] = True
    return held_out
