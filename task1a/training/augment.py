"""Augmentation of a batch of log-mel energies, on the device of the batch.

The random parameters are drawn by a NumPy generator, separately from their application, so that a seed gives the same
augmentation on every device. Shape of a batch: [clips, 1, mel bins, frames].
"""
import numpy as np
import torch
from torch import Tensor

from task1a.config import TrainingConfig


def augment(x: Tensor, targets: Tensor, recipe: TrainingConfig, roll_frames: int,
            rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Apply time roll, mixup and SpecAugment; a step whose width, count or alpha is zero is skipped.

    Args:
        x: clips [N, 1, F, T].
        targets: class probabilities [N, classes].
        recipe: parameters of the augmentation.
        roll_frames: maximum shift of the time roll in frames.
        rng: random generator.

    Returns:
        The augmented clips and their class probabilities.
    """
    clips, _, bins, frames = x.shape
    if roll_frames:
        x = time_roll(x, rng.integers(-roll_frames, roll_frames + 1, clips))
    if recipe.mixup_alpha:
        x, targets = mixup(x, targets, rng.beta(recipe.mixup_alpha, recipe.mixup_alpha, clips), rng.permutation(clips))
    fill = x.mean(dim=(2, 3), keepdim=True) if recipe.mask_value == "mean" else torch.zeros_like(x[:, :, :1, :1])
    rows = draw_masks(clips, recipe.frequency_masks, recipe.frequency_mask_bins, bins, rng)
    columns = draw_masks(clips, recipe.time_masks, recipe.time_mask_frames, frames, rng)
    return spec_augment(x, rows, columns, fill), targets


def time_roll(x: Tensor, shifts: np.ndarray) -> Tensor:
    """Shift every clip circularly along time by its own number of frames.

    Shape: x [N, 1, F, T], shifts [N] -> [N, 1, F, T].
    """
    frames = x.shape[-1]
    source = (np.arange(frames) - np.asarray(shifts)[:, None]) % frames
    index = torch.from_numpy(source).to(x.device)[:, None, None, :].expand(x.shape)
    return x.gather(-1, index)


def mixup(x: Tensor, targets: Tensor, weights: np.ndarray, partners: np.ndarray) -> tuple[Tensor, Tensor]:
    """Mix every clip and its target with those of a partner (Zhang et al., *mixup*, ICLR 2018).

    Args:
        x: clips [N, 1, F, T].
        targets: class probabilities [N, classes].
        weights: weight of each clip [N]; that of its partner is 1 - weight.
        partners: index of each clip's partner [N].
    """
    own = torch.from_numpy(weights).to(x)
    other = torch.from_numpy(partners).to(x.device)
    mixed = torch.lerp(x[other], x, own[:, None, None, None])
    return mixed, torch.lerp(targets[other], targets, own[:, None])


def draw_masks(clips: int, count: int, width: int, length: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the masked positions of one axis for every clip (Park et al., *SpecAugment*, Interspeech 2019).

    The width of each of ``count`` masks is uniform in 0 ... ``width``, its start uniform where the mask fits.

    Returns:
        bool [clips, length].
    """
    widths = rng.integers(0, min(width, length) + 1, (clips, count, 1))
    starts = rng.integers(0, length - widths + 1)
    positions = np.arange(length)
    return ((positions >= starts) & (positions < starts + widths)).any(axis=1)


def spec_augment(x: Tensor, rows: np.ndarray, columns: np.ndarray, fill: Tensor) -> Tensor:
    """Replace the masked mel bins and frames by ``fill``.

    Shape: x [N, 1, F, T], rows bool [N, F], columns bool [N, T], fill [N, 1, 1, 1] -> [N, 1, F, T].
    """
    masked = torch.from_numpy(rows[:, None, :, None] | columns[:, None, None, :]).to(x.device)
    return torch.where(masked, fill, x)
