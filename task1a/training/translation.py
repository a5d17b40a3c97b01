"""Device translation: log-mel energies of one device become those that another device would have
recorded.

In the sets of the challenge most training clips come from one device, the reference device, and the
other devices recorded some of them in parallel. The winners' report augments the reference clips by
spectrogram-to-spectrogram translation learned from such pairs (Kim et al., arXiv 2206.13909,
abstract), but does not publish how. Here a level curve describes a device in every mel bin: the
mean energy that it records as a function of what the reference records,

    y = x + v_0 + sum_k s_k max(0, x - q_k),

which is straight between neighbouring levels q_k. It can express a frequency response (a constant),
compression (a slope below 1 at high levels) and the noise of the device (a slope of 0 at low
levels).
"""
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from task1a.training.examples import Examples

KNOTS = 5
"""levels per mel bin, at equidistant quantiles of the energies of the reference"""
RIDGE = 1e-2
"""weight of the squared changes of slope in the fit, relative to the squared error"""
MOST_PAIRS = 256
"""pairs of clips per device that are used"""
STRONGEST = 1.5
"""largest strength of a translation; 1 is the device itself, and between 0 and 1 lie milder
devices"""


@dataclass(frozen=True)
class Translation:
    """Level curves of D devices in F mel bins, and the device and strength for each of N clips."""

    knots: Tensor
    """levels q_k, float32 [D, F, KNOTS - 1]; the last level has no line beyond it"""
    offsets: Tensor
    """v_0, float32 [D, F]"""
    slopes: Tensor
    """changes of slope s_k, float32 [D, F, KNOTS - 1]"""
    devices: Tensor
    """device of each clip, int64 [N]"""
    strengths: Tensor
    """0 leaves the clip as it is, 1 is the device; float32 [N]"""

    def to(self, torch_device: torch.device) -> "Translation":
        """Return the same translation on a device."""
        return Translation(*[getattr(self, field.name).to(torch_device) for field in fields(self)])


def fit_translation(examples: Examples) -> Translation:
    """Fit the level curves of all devices that have recordings parallel to those of the reference
    device.

    The reference is the device with the most clips. Parallel recordings have the same name but for
    the device, which is its last part: ``park-lisbon-1123-1-a.wav``.

    Returns:
        Curves of the devices in alphabetical order, with no clips; without parallel recordings,
        those of no device.
    """
    names = [name.rpartition("-")[0] for name in examples.filenames]
    from_reference = examples.from_reference
    originals = {names[row]: row for row in np.flatnonzero(from_reference)}
    curves = []
    for device in np.unique(examples.devices[~from_reference]):
        rows = [row for row in np.flatnonzero(examples.devices == device) if names[row] in originals][:MOST_PAIRS]
        if rows:
            x = examples.read(np.array([originals[names[row]] for row in rows]))
            y = examples.read(np.array(rows))
            curves.append(fit_curves(np.concatenate(list(x), axis=1), np.concatenate(list(y), axis=1)))

    bins = examples.read(np.arange(1)).shape[1]
    if curves:
        knots, offsets, slopes = (np.stack(values) for values in zip(*curves, strict=True))
    else:
        knots, offsets, slopes = np.empty((0, bins, KNOTS - 1)), np.empty((0, bins)), np.empty((0, bins, KNOTS - 1))
    return Translation(torch.from_numpy(knots).float(), torch.from_numpy(offsets).float(),
                       torch.from_numpy(slopes).float(), torch.zeros(0, dtype=torch.int64), torch.zeros(0))


def fit_curves(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit the level curve of each mel bin by least squares.

    Args:
        x: energies of the reference [F, frames].
        y: energies of the device [F, frames].

    Returns:
        Levels [F, KNOTS - 1], offsets [F] and changes of slope [F, KNOTS - 1] of y - x.
    """
    # Quantiles put as many values between any two levels. The last level is the maximum, above
    # which nothing is known.
    knots = np.quantile(x, np.linspace(0, 1, KNOTS), axis=1).T[:, :-1].astype(float)
    basis = np.maximum(0, x[:, None, :] - knots[:, :, None])
    basis = np.concatenate([np.ones_like(basis[:, :1]), basis], axis=1)  # [F, KNOTS, frames]
    # The normal equations of every bin, divided by the number of frames so that the ridge does not
    # depend on it.
    products = basis @ basis.transpose(0, 2, 1) / x.shape[1]
    # The offset is free. Without the ridge, the slopes of a silent bin, whose quantiles are equal,
    # are undetermined.
    penalty = RIDGE * np.diag([0.0, *[1.0] * (KNOTS - 1)])
    right = (basis @ (y - x)[:, :, None])[:, :, 0] / x.shape[1]
    solution = np.linalg.solve(products + penalty, right[:, :, None])[:, :, 0]
    return knots, solution[:, 0], solution[:, 1:]


def draw_translation(curves: Translation, references: np.ndarray, probability: float,
                     rng: np.random.Generator) -> Translation:
    """Draw a device, uniformly, and a strength, uniform up to :data:`STRONGEST`, for every clip.

    Args:
        curves: the level curves.
        references: whether each clip is of the reference device, bool [N]; others are left as they
            are.
        probability: probability that a clip is translated.
        rng: random generator.
    """
    clips = len(references)
    devices = rng.integers(0, max(1, len(curves.offsets)), clips)
    strengths = rng.uniform(0, STRONGEST, clips)
    used = references & (rng.random(clips) < probability) & (len(curves.offsets) > 0)
    return replace(curves, devices=torch.from_numpy(devices), strengths=torch.from_numpy(strengths * used).float())


def translate(x: Tensor, translation: Translation) -> Tensor:
    """Apply level curves, with their strength, to clips.

    Shape: log-mel energies [N, 1, F, T] -> the same.
    """
    if not len(translation.offsets):
        return x
    chosen = translation.devices
    knots, slopes = translation.knots[chosen], translation.slopes[chosen]
    # one level after the other, because [N, F, T, KNOTS - 1] would be several times the size of the
    # batch
    change = translation.offsets[chosen][:, None, :, None].expand_as(x).clone()
    for number in range(knots.shape[-1]):
        above = (x - knots[:, None, :, number, None]).clamp(min=0)
        change.addcmul_(above, slopes[:, None, :, number, None])
    return torch.addcmul(x, change, translation.strengths[:, None, None, None])
