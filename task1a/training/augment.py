"""Augmentation of a batch of log-mel energies, on the device of the batch.

The random parameters are drawn by a NumPy generator, separately from their application, so that a seed gives the same
augmentation on every device. Those of a whole epoch are drawn before its first step, because copying them to a GPU in
every step would make it wait. Shape of a batch: [clips, 1, mel bins, frames].
"""
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from task1a.config import TrainingConfig
from task1a.training.devices import DeviceDraws, draw_devices, hear
from task1a.training.translation import Translation, translate


@dataclass(frozen=True)
class Draws:
    """Random parameters for a batch of N clips of F mel bins and T frames; None for a step that is left out."""

    shifts: Tensor | None
    """time roll in frames, int64 [N]"""
    weights: Tensor | None
    """mixup weight of each clip, float64 [N]; that of its partner is 1 - weight"""
    partners: Tensor | None
    """index of each clip's partner in mixup, int64 [N]"""
    rows: Tensor
    """masked mel bins, bool [N, F]"""
    columns: Tensor
    """masked frames, bool [N, T]"""
    device: DeviceDraws | None = None
    """simulated recording devices"""
    translation: Translation | None = None
    """device translation"""

    def to(self, device: torch.device) -> "Draws":
        """The same parameters on a device."""
        values = [getattr(self, field.name) for field in fields(self)]
        return Draws(*[None if value is None else value.to(device) for value in values])


def draw(clips: int, bins: int, frames: int, recipe: TrainingConfig, roll_frames: int,
         rng: np.random.Generator) -> Draws:
    """Draw the random parameters of a batch.

    Args:
        clips: number of clips.
        bins: number of mel bins.
        frames: number of frames.
        recipe: parameters of the augmentation.
        roll_frames: maximum shift of the time roll in frames.
        rng: random generator.

    Returns:
        The parameters, on the CPU. A step whose width, count or alpha is zero is left out.
    """
    shifts = weights = partners = None
    if roll_frames:
        shifts = torch.from_numpy(rng.integers(-roll_frames, roll_frames + 1, clips))
    if recipe.mixup_alpha:
        weights = torch.from_numpy(rng.beta(recipe.mixup_alpha, recipe.mixup_alpha, clips))
        partners = torch.from_numpy(rng.permutation(clips))
    rows = draw_masks(clips, recipe.frequency_masks, recipe.frequency_mask_bins, bins, rng)
    columns = draw_masks(clips, recipe.time_masks, recipe.time_mask_frames, frames, rng)
    device = draw_devices(clips, bins, recipe, rng) if recipe.device_probability else None
    return Draws(shifts, weights, partners, torch.from_numpy(rows), torch.from_numpy(columns), device)


def augment(x: Tensor, targets: Tensor, draws: Draws, recipe: TrainingConfig) -> tuple[Tensor, Tensor]:
    """Apply time roll, device translation, simulated recording devices, mixup and SpecAugment.

    Args:
        x: clips [N, 1, F, T].
        targets: class probabilities [N, classes].
        draws: random parameters, on the same device.
        recipe: parameters of the augmentation.

    Returns:
        The augmented clips and their class probabilities.
    """
    if draws.shifts is not None:
        x = time_roll(x, draws.shifts)
    if draws.translation is not None:
        x = translate(x, draws.translation)
    if draws.device is not None:
        x = hear(x, draws.device)
    if draws.weights is not None:
        x, targets = mixup(x, targets, draws.weights, draws.partners)
    fill = x.mean(dim=(2, 3), keepdim=True) if recipe.mask_value == "mean" else torch.zeros_like(x[:, :, :1, :1])
    return spec_augment(x, draws.rows, draws.columns, fill), targets


def time_roll(x: Tensor, shifts: Tensor) -> Tensor:
    """Shift every clip circularly along time by its own number of frames.

    Shape: x [N, 1, F, T], shifts [N] -> [N, 1, F, T].
    """
    frames = x.shape[-1]
    source = (torch.arange(frames, device=x.device) - shifts[:, None]) % frames
    return x.gather(-1, source[:, None, None, :].expand(x.shape))


def mixup(x: Tensor, targets: Tensor, weights: Tensor, partners: Tensor) -> tuple[Tensor, Tensor]:
    """Mix every clip and its target with those of a partner (Zhang et al., *mixup*, ICLR 2018).

    Args:
        x: clips [N, 1, F, T].
        targets: class probabilities [N, classes].
        weights: weight of each clip [N]; that of its partner is 1 - weight.
        partners: index of each clip's partner [N].
    """
    own = weights.to(x.dtype)
    mixed = torch.lerp(x[partners], x, own[:, None, None, None])
    return mixed, torch.lerp(targets[partners], targets, own[:, None])


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


def spec_augment(x: Tensor, rows: Tensor, columns: Tensor, fill: Tensor) -> Tensor:
    """Replace the masked mel bins and frames by ``fill``.

    Shape: x [N, 1, F, T], rows bool [N, F], columns bool [N, T], fill [N, 1, 1, 1] -> [N, 1, F, T].
    """
    return torch.where(rows[:, None, :, None] | columns[:, None, None, :], fill, x)
