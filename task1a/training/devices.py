"""Recording devices, simulated on log-mel energies, so that a network hears more devices than the training clips have.

What a microphone does to a recording is, to first order, what the simulated devices of the TAU Urban Acoustic Scenes
sets are made of: a frequency response and dynamic range compression (Mesaros, Heittola, Virtanen: *A multi-device
dataset for urban acoustic scene classification*, DCASE 2018, and its extension of 2020); and the noise of its own. With
natural logarithms x of mel energies [bins, frames] these are

- a frequency response: a constant r_f added to every bin,
- a compressor: a gain that follows the level l_t = ln sum_f exp(x_ft) of a frame: -c max(0, l_t - threshold),
- noise, which is not correlated with the recording, so that energies add: x' = ln(exp(x) + exp(n_f)).

A constant is what Residual Normalization removes at the input, up to its shortcut; it does not remove the others.
"""
import math
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from task1a.config import TrainingConfig

NATS_PER_DB = math.log(10) / 10
"""natural logarithm of the energy per decibel"""
CONTROL_POINTS = 8
"""independent values of a frequency response, equidistant in mel and connected by straight lines"""
THRESHOLD_DB = 40.0
"""largest distance of the threshold of a compressor below the loudest frame"""
NOISE_RANGE_DB = 40.0
"""range of the level of the noise"""


@dataclass(frozen=True)
class DeviceDraws:
    """Random devices for N clips of F mel bins; levels are natural logarithms of energies."""

    used: Tensor
    """whether the clip is heard through the device, bool [N]"""
    response: Tensor
    """frequency response, float32 [N, F]"""
    threshold: Tensor
    """threshold of the compressor below the loudest frame, float32 [N]"""
    compression: Tensor
    """part of the level above the threshold that the compressor takes away, float32 [N]"""
    noise: Tensor
    """noise in every bin, relative to the mean of the loudest bin, float32 [N, F]"""

    def to(self, device: torch.device) -> "DeviceDraws":
        """The same draws on a device."""
        return DeviceDraws(*[getattr(self, field.name).to(device) for field in fields(self)])


def draw_devices(clips: int, bins: int, recipe: TrainingConfig, rng: np.random.Generator) -> DeviceDraws:
    """Draw a device for every clip.

    The control points of the frequency response are normal with a deviation of ``device_response_db``; threshold,
    compression and level of the noise are uniform. The noise has the shape of another response.
    """
    used = rng.random(clips) < recipe.device_probability
    points = rng.normal(0, recipe.device_response_db * NATS_PER_DB, (2, clips, CONTROL_POINTS))
    response, colour = _interpolated(points, bins)
    threshold = NATS_PER_DB * rng.uniform(0, THRESHOLD_DB, clips)
    compression = rng.uniform(0, recipe.device_compression, clips)
    level = -NATS_PER_DB * (recipe.device_noise_db + rng.uniform(0, NOISE_RANGE_DB, clips))
    values = (response, threshold, compression, level[:, None] + colour)
    return DeviceDraws(torch.from_numpy(used), *[torch.from_numpy(value).float() for value in values])


def hear(x: Tensor, device: DeviceDraws) -> Tensor:
    """What the devices record of clips.

    Shape: log-mel energies [N, 1, F, T] -> the same.
    """
    heard = x + device.response[:, None, :, None]

    level = torch.logsumexp(heard, dim=2, keepdim=True)
    threshold = level.amax(dim=3, keepdim=True) - device.threshold[:, None, None, None]
    heard = heard - device.compression[:, None, None, None] * (level - threshold).clamp(min=0)

    loudest = heard.mean(dim=3, keepdim=True).amax(dim=2, keepdim=True)
    heard = torch.logaddexp(heard, loudest + device.noise[:, None, :, None])
    return torch.where(device.used[:, None, None, None], heard, x)


def _interpolated(points: np.ndarray, bins: int) -> np.ndarray:
    """Straight lines between equidistant points, [..., points] -> [..., bins]."""
    position = np.linspace(0, points.shape[-1] - 1, bins)
    left = np.minimum(position.astype(int), points.shape[-1] - 2)
    share = position - left
    return points[..., left] * (1 - share) + points[..., left + 1] * share
