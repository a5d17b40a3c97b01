"""Recording devices, simulated on log-mel energies: a network is trained on more devices than
recorded the clips.

To first order, a microphone does what the simulated devices of the TAU Urban Acoustic Scenes sets
are made of: it has a frequency response and compresses the dynamic range (Mesaros, Heittola,
Virtanen: *A multi-device dataset for urban acoustic scene classification*, DCASE 2018, and its
extension of 2020). It also adds noise of its own. On the natural logarithms x of mel energies
[bins, frames] these are

- a frequency response: a constant r_f added to every bin,
- a compressor: a gain that follows the level l_t = ln sum_f exp(x_ft) of a frame: -c max(0, l_t -
threshold),
- noise, which is not correlated with the recording, so that energies add: x' = ln(exp(x) +
exp(n_f)).

Of these, Residual Normalization at the input removes the constant alone, up to its shortcut.
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
    """whether the clip goes through the device, bool [N]"""
    response: Tensor
    """frequency response, float32 [N, F]"""
    threshold: Tensor
    """threshold of the compressor below the loudest frame, float32 [N]"""
    compression: Tensor
    """part of the level above the threshold that the compressor takes away, float32 [N]"""
    noise: Tensor
    """noise in every bin, relative to the mean of the loudest bin, float32 [N, F]"""

    def to(self, torch_device: torch.device) -> "DeviceDraws":
        """Return the same draws on a device."""
        return DeviceDraws(*[getattr(self, field.name).to(torch_device) for field in fields(self)])


def draw_devices(clips: int, bins: int, config: TrainingConfig, rng: np.random.Generator) -> DeviceDraws:
    """Draw a device for every clip.

    The control points of the frequency response are normal with a deviation of
    ``device_response_db``; threshold, compression and level of the noise are uniform. The noise has
    the shape of another response.
    """
    # Everything is drawn for every clip, also for those that no device hears, so that the draws of a
    # clip do not depend on how many before it are used.
    used = rng.random(clips) < config.device_probability
    points = rng.normal(0, config.device_response_db * NATS_PER_DB, (2, clips, CONTROL_POINTS))
    response, colour = _interpolate(points, bins)
    threshold = NATS_PER_DB * rng.uniform(0, THRESHOLD_DB, clips)
    compression = rng.uniform(0, config.device_compression, clips)
    level = -NATS_PER_DB * (config.device_noise_db + rng.uniform(0, NOISE_RANGE_DB, clips))
    # The noise floor of a device has a colour of its own: the second of the two responses.
    values = (response, threshold, compression, level[:, None] + colour)
    return DeviceDraws(torch.from_numpy(used), *[torch.from_numpy(value).float() for value in values])


def apply_devices(x: Tensor, devices: DeviceDraws) -> Tensor:
    """Simulate the recording devices on log-mel energies.

    Shape: [N, 1, F, T] -> the same.
    """
    recorded = x + devices.response[:, None, :, None]

    # the compressor measures the level that the microphone delivers, over all bins of a frame
    level = torch.logsumexp(recorded, dim=2, keepdim=True)
    threshold = level.amax(dim=3, keepdim=True) - devices.threshold[:, None, None, None]
    recorded = recorded - devices.compression[:, None, None, None] * (level - threshold).clamp(min=0)

    # noise is added behind the compressor, so quiet frames drown in it while loud ones do not
    loudest = recorded.mean(dim=3, keepdim=True).amax(dim=2, keepdim=True)
    recorded = torch.logaddexp(recorded, loudest + devices.noise[:, None, :, None])
    return torch.where(devices.used[:, None, None, None], recorded, x)


def _interpolate(points: np.ndarray, bins: int) -> np.ndarray:
    """Draw straight lines between equidistant points, [..., points] -> [..., bins]."""
    position = np.linspace(0, points.shape[-1] - 1, bins)
    left = np.minimum(position.astype(int), points.shape[-1] - 2)
    share = position - left
    return points[..., left] * (1 - share) + points[..., left + 1] * share
