"""Augmentation of a batch of log-mel energies, on the device of the batch.

An augmentation is a function of a batch and its random parameters, the draws. NumPy draws them
apart from their application, so that a seed gives the same augmentation on every device, and those
of a whole epoch are drawn before its first step, because copying them to a GPU in every step would
make it wait.

Shape of a batch: [clips, 1, mel bins, frames].
"""
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from task1a.config import TrainingConfig
from task1a.training.devices import DeviceDraws, apply_devices, draw_devices
from task1a.training.examples import Examples
from task1a.training.translation import Translation, draw_translation, fit_translation, translate


@dataclass(frozen=True)
class Draws:
    """Random parameters for a batch of N clips of F mel bins and T frames; None for an augmentation
    that is off."""

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
    devices: DeviceDraws | None = None
    """simulated recording devices"""
    translation: Translation | None = None
    """device translation"""

    def to(self, torch_device: torch.device) -> "Draws":
        """Return the same parameters on a device."""
        values: list[Any] = [getattr(self, field.name) for field in fields(self)]
        moved: list[Any] = [None if value is None else value.to(torch_device) for value in values]
        return Draws(*moved)


class Augmentation:
    """Time roll, device translation, simulated recording devices, mixup and SpecAugment, one after
    the other.

    Args:
        config: parameters of the augmentation. What has a width, count, probability or alpha of 0
            is off.
        bins: number of mel bins of a clip.
        frames: number of frames of a clip.
        roll_frames: maximum shift of the time roll in frames.
        examples: the training clips, from which device translation learns; otherwise they are not
            needed.
    """

    def __init__(self, config: TrainingConfig, bins: int, frames: int, roll_frames: int,
                 examples: Examples | None = None) -> None:
        self.config, self.bins, self.frames, self.roll_frames = config, bins, frames, roll_frames
        self.translation = None
        if config.translation_probability and examples is not None:
            self.translation, self.from_reference = fit_translation(examples), examples.from_reference

    def draw(self, indices: np.ndarray, rng: np.random.Generator) -> Draws:
        """Draw the random parameters for the clips of a batch, by their indices [N]; they are on
        the CPU.

        The order of the draws is part of what a seed means, so it stays as it is. A method that is
        off draws nothing.
        """
        config, clips = self.config, len(indices)
        shifts = weights = partners = devices = translation = None
        if self.roll_frames:
            shifts = torch.from_numpy(rng.integers(-self.roll_frames, self.roll_frames + 1, clips))
        if config.mixup_alpha:
            weights = torch.from_numpy(rng.beta(config.mixup_alpha, config.mixup_alpha, clips))
            partners = torch.from_numpy(rng.permutation(clips))
        rows = draw_masks(clips, config.frequency_masks, config.frequency_mask_bins, self.bins, rng)
        columns = draw_masks(clips, config.time_masks, config.time_mask_frames, self.frames, rng)
        if config.device_probability:
            devices = draw_devices(clips, self.bins, config, rng)
        if self.translation is not None:
            translation = draw_translation(self.translation, self.from_reference[indices],
                                           config.translation_probability, rng)
        return Draws(shifts, weights, partners, torch.from_numpy(rows), torch.from_numpy(columns), devices,
                     translation)

    def __call__(self, x: Tensor, targets: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Augment clips [N, 1, F, T] and their class probabilities [N, classes], with draws on
        their device."""
        if draws.shifts is not None:
            x = time_roll(x, draws.shifts)
        # a device hears single clips; mixing and masking is what no device does
        if draws.translation is not None:
            x = translate(x, draws.translation)
        if draws.devices is not None:
            x = apply_devices(x, draws.devices)
        if draws.weights is not None and draws.partners is not None:
            x, targets = mixup(x, targets, draws.weights, draws.partners)
        fill = torch.zeros_like(x[:, :, :1, :1])
        if self.config.mask_value == "mean":
            fill = x.mean(dim=(2, 3), keepdim=True)
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
    """Draw the masked positions of one axis for every clip (Park et al., *SpecAugment*, Interspeech
    2019).

    The width of each of ``count`` masks is uniform in 0 ... ``width``, its start uniform where the
    mask fits.

    Returns:
        bool [clips, length].
    """
    widths = rng.integers(0, min(width, length) + 1, (clips, count, 1))
    starts = rng.integers(0, length - widths + 1)
    positions = np.arange(length)
    masked: np.ndarray = (positions >= starts) & (positions < starts + widths)
    return np.any(masked, axis=1)


def spec_augment(x: Tensor, rows: Tensor, columns: Tensor, fill: Tensor) -> Tensor:
    """Replace the masked mel bins and frames by ``fill``.

    Shape: x [N, 1, F, T], rows bool [N, F], columns bool [N, T], fill [N, 1, 1, 1] -> [N, 1, F, T].
    """
    return torch.where(rows[:, None, :, None] | columns[:, None, None, :], fill, x)
