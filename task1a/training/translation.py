"""Device translation: log-mel energies of one device are turned into those that another device would have recorded.

The sets of the challenge have most training clips from one device, the reference, and parallel recordings of some of
them from the other devices. The winners' report augments the reference clips by spectrogram-to-spectrogram translation
learned from such pairs (Kim et al., arXiv 2206.13909, abstract); how is not published. Here, a device is described by a
level curve in every mel bin: the energy that it records on average as a function of what the reference records,

    y = x + v_0 + sum_k s_k max(0, x - q_k),

a straight line between neighbouring levels q_k. So it covers a frequency response (a constant), compression (a slope
below 1 at high levels) and the noise of the device (a slope of 0 at low levels).
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
"""largest strength of a translation; 1 is the device itself, and between 0 and 1 lie milder devices"""


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

    def to(self, device: torch.device) -> "Translation":
        """The same translation on a device."""
        return Translation(*[getattr(self, field.name).to(device) for field in fields(self)])


def learn(examples: Examples) -> Translation:
    """Fit the level curves of all devices that have recordings parallel to those of the reference.

    The reference is the device with the most clips. Parallel recordings have the same name but for the device, which is
    its last part: ``park-lisbon-1123-1-a.wav``.

    Returns:
        Curves of the devices in alphabetical order, with no clips; without parallel recordings, those of no device.
    """
    names, from_reference = [name.rpartition("-")[0] for name in examples.filenames], examples.from_reference
    originals = {names[row]: row for row in np.flatnonzero(from_reference)}
    knots, offsets, slopes = [], [], []
    for device in np.unique(examples.devices[~from_reference]):
        rows = [row for row in np.flatnonzero(examples.devices == device) if names[row] in originals][:MOST_PAIRS]
        if rows:
            x = examples.read(np.array([originals[names[row]] for row in rows]))
            y = examples.read(np.array(rows))
            curve = fit_curves(np.concatenate(list(x), axis=1), np.concatenate(list(y), axis=1))
            for values, value in zip((knots, offsets, slopes), curve, strict=True):
                values.append(value)
    bins = examples.read(np.arange(1)).shape[1]
    shapes = (bins, KNOTS - 1), (bins,), (bins, KNOTS - 1)
    curves = [torch.from_numpy(np.reshape(values, (len(values), *shape))).float()
              for values, shape in zip((knots, offsets, slopes), shapes, strict=True)]
    return Translation(*curves, torch.zeros(0, dtype=torch.int64), torch.zeros(0))


def fit_curves(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit the level curve of each mel bin by least squares.

    Args:
        x: energies of the reference [F, frames].
        y: energies of the device [F, frames].

    Returns:
        Levels [F, KNOTS - 1], offsets [F] and changes of slope [F, KNOTS - 1] of y - x.
    """
    knots = np.quantile(x, np.linspace(0, 1, KNOTS), axis=1).T[:, :-1].astype(float)
    basis = np.maximum(0, x[:, None, :] - knots[:, :, None])
    basis = np.concatenate([np.ones_like(basis[:, :1]), basis], axis=1)  # [F, KNOTS, frames]
    products = basis @ basis.transpose(0, 2, 1) / x.shape[1]
    # without it, the slopes of a bin whose quantiles are equal, because it is silent, would be undetermined
    penalty = RIDGE * np.diag([0.0, *[1.0] * (KNOTS - 1)])
    right = (basis @ (y - x)[:, :, None])[:, :, 0] / x.shape[1]
    solution = np.linalg.solve(products + penalty, right[:, :, None])[:, :, 0]
    return knots, solution[:, 0], solution[:, 1:]


def draw_translation(learnt: Translation, references: np.ndarray, probability: float,
                     rng: np.random.Generator) -> Translation:
    """Draw a device, uniformly, and a strength, uniform up to :data:`STRONGEST`, for every clip.

    Args:
        learnt: the level curves.
        references: whether each clip is of the reference device, bool [N]; others are left as they are.
        probability: probability that a clip is translated.
        rng: random generator.
    """
    clips = len(references)
    devices = rng.integers(0, max(1, len(learnt.offsets)), clips)
    strengths = rng.uniform(0, STRONGEST, clips)
    used = references & (rng.random(clips) < probability) & (len(learnt.offsets) > 0)
    return replace(learnt, devices=torch.from_numpy(devices), strengths=torch.from_numpy(strengths * used).float())


def translate(x: Tensor, translation: Translation) -> Tensor:
    """Apply level curves, with their strength, to clips.

    Shape: log-mel energies [N, 1, F, T] -> the same.
    """
    if not len(translation.offsets):
        return x
    chosen = translation.devices
    knots, slopes = translation.knots[chosen], translation.slopes[chosen]
    change = translation.offsets[chosen][:, None, :, None].expand_as(x).clone()
    for number in range(knots.shape[-1]):
        above = (x - knots[:, None, :, number, None]).clamp(min=0)
        change.addcmul_(above, slopes[:, None, :, number, None])
    return torch.addcmul(x, change, translation.strengths[:, None, None, None])
