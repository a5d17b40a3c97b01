"""Mean and deviation over seeds, and whether two systems differ by more than noise.

Conventions
-----------
Two systems are compared on the same test clips, seed by seed. A table of clips holds one row a clip and seed:

* ``seed``: of the training; both systems have a run of it. Seeds may have test clips of their own (folds),
* ``location``: where the clip was recorded. Clips of one location sound alike, whatever the device: a system that is
  right about one tends to be right about all of them, so that locations, not clips, are what there is a sample of,
* ``difference``: the first system's score of the clip less that of the second one,
* ``weight``: the clip's part in the score; those of a seed sum to 1. Mean scores have equal weights, class-averaged
  scores those of :func:`class_weights`.

The difference of two systems is the weighted sum of a seed, averaged over the seeds. Both the locations and the seeds
are a sample; a difference that could well come of the choice of either is *within noise*. p-values are two-sided.

Statistics
----------
* :func:`spread`: mean and sample deviation.
* :func:`sign_flip_test`: were the two systems alike, they could be exchanged at any location, for all of its clips and
  seeds at once; p is the part of such exchanges that lead to a difference as great as the one seen [crs]. All are gone
  through where there are few locations, else a random but repeatable choice, the given assignment among them [ps]. The
  interval holds the differences that the test does not reject [g]: test and interval cannot disagree. The trained
  models are taken as given.
* :func:`seeds_and_locations_test`: another training as well as other locations could have turned the result [b]: t-test
  with the variance over locations and what the seeds differ by beyond that [cgm], degrees of freedom as in [s].
  Holds its level within some points for three seeds or folds and more, whatever the two parts of the noise; with
  two seeds it may be twice as high.

Sources
-------
.. [b] X. Bouthillier et al., "Accounting for variance in machine learning benchmarks", MLSys 2021
.. [cgm] A. C. Cameron, J. B. Gelbach, D. L. Miller, "Robust inference with multiway clustering", J. Business &
   Economic Statistics 29, 2011
.. [crs] I. A. Canay, J. P. Romano, A. M. Shaikh, "Randomization tests under an approximate symmetry assumption",
   Econometrica 85, 2017
.. [g] P. H. Garthwaite, "Confidence intervals from randomization tests", Biometrics 52, 1996
.. [ps] B. Phipson, G. K. Smyth, "Permutation p-values should never be zero", Statistical Applications in Genetics and
   Molecular Biology 9, 2010
.. [s] F. E. Satterthwaite, "An approximate distribution of estimates of variance components", Biometrics 2, 1946
"""
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from task1a.errors import InputError

ALPHA = 0.05
"""A difference with a p-value above is within noise; intervals are those of 1 - ALPHA."""

RESAMPLES = 2 ** 16
"""Exchanges that are gone through; with up to 16 locations these are all."""

_COLUMNS = ("seed", "location", "difference", "weight")
_BLOCK = 2 ** 12  # exchanges at once: bounds the memory
_SAME = 1e-12  # of the sum of all contributions: differences up to here are rounding


@dataclass(frozen=True)
class Spread:
    """A figure over several seeds."""

    mean: float
    deviation: float | None
    """sample deviation (n - 1); None of one seed"""
    count: int


@dataclass(frozen=True)
class PairedTest:
    """The difference of two systems, and what of it is noise."""

    difference: float
    low: float
    """lower end of the 95 % interval over locations; -inf where they are too few to tell"""
    high: float
    p_locations: float
    p_seeds: float | None
    """with the noise of training, too; None of one seed or one location"""
    by_seed: dict[int, float]
    locations: int
    clips: int
    """different clips and seeds"""

    @property
    def within_noise(self) -> bool:
        """Whether other locations, or other seeds, could well have turned the result."""
        return max(self.p_locations, self.p_seeds or 0.0) > ALPHA


def spread(values: Sequence[float]) -> Spread:
    """Mean and sample deviation of at least one value."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Spread(float(np.mean(values)), deviation, len(values))


def class_weights(labels: Sequence[str]) -> np.ndarray:
    """Weights of clips in a class-averaged score: 1 / (classes x clips of the same class).

    Shape:
        labels: (clips,), at least one -> (clips,), sum 1.
    """
    classes, names = pd.factorize(np.asarray(labels, dtype=object))
    return 1 / (len(names) * np.bincount(classes)[classes])


def validate(clips: pd.DataFrame) -> None:
    """Check a table of clips (see above).

    Raises:
        InputError: a column is missing, there is no clip, a number is not finite, a weight is not positive, or the
            weights of a seed do not sum to 1.
    """
    missing = [column for column in _COLUMNS if column not in clips.columns]
    if missing:
        raise InputError(f"clips: no column {missing[0]!r}")
    if clips.empty:
        raise InputError("clips: no clip to compare two systems on")
    if not np.isfinite(clips[["difference", "weight"]].to_numpy(np.float64)).all():
        raise InputError("clips: a difference or a weight is not a finite number")
    if (clips.weight <= 0).any():
        raise InputError("clips: a weight is not positive")
    sums = clips.groupby("seed").weight.sum()
    off = sums[(sums - 1).abs() > 1e-6]
    if len(off):
        raise InputError(f"clips: the weights of seed {off.index[0]} sum to {off.iloc[0]:.6g} instead of 1")


def contributions(clips: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """What each location adds to the difference of each seed, and its weight in it; 0 where it was not tested.

    Shape:
        two of (seeds, locations), both in ascending order.
    """
    seeds, seed = np.unique(clips.seed.to_numpy(), return_inverse=True)
    locations, location = np.unique(clips.location.to_numpy(dtype=str), return_inverse=True)
    added, weights = np.zeros((2, len(seeds), len(locations)))
    np.add.at(added, (seed, location), clips.difference.to_numpy(np.float64) * clips.weight.to_numpy(np.float64))
    np.add.at(weights, (seed, location), clips.weight.to_numpy(np.float64))
    return added, weights


def sign_flip_test(added: np.ndarray, weights: np.ndarray, resamples: int = RESAMPLES) -> tuple[float, float, float]:
    """Exchange the two systems at locations: p-value and the interval of the difference.

    A difference theta is rejected where few of the signs s lead to |sum s (d - theta w)| as great as |D - theta|. For
    one choice of signs that holds between the two roots of a quadratic; so the ends of the interval are quantiles of
    the roots, and no search is needed.

    Args:
        added: d, what each location adds to the difference D.
        weights: w, its weight in it.
        resamples: number of exchanges, all where there are no more.

    Shape:
        added, weights: (locations,).

    Returns:
        p, and the lower and upper end of the 95 % interval: infinite where even the greatest difference possible would
        not be beyond noise, which is so below six locations.
    """
    difference, tolerance = added.sum(), _SAME * np.abs(added).sum()
    flipped = np.concatenate([signs @ np.stack([added, weights], axis=1)
                              for signs in _sign_flips(len(added), resamples)])
    sums, sizes = flipped.T
    p = np.mean(np.abs(sums) >= np.abs(difference) - tolerance)
    numerators = np.stack([difference - sums, difference + sums])
    numerators[np.abs(numerators) <= tolerance] = 0
    with np.errstate(divide="ignore", invalid="ignore"):
        roots = numerators / np.stack([1 - sizes, 1 + sizes])
    all_or_none = 1 - np.abs(sizes) < _SAME  # exchanged at all locations or at none: as great whatever theta is
    low = np.where(all_or_none, -np.inf, roots.min(axis=0))
    high = np.where(all_or_none, np.inf, roots.max(axis=0))
    rejected = math.floor(ALPHA * len(sums))
    return float(p), float(np.sort(low)[rejected]), float(np.sort(high)[::-1][rejected])


def seeds_and_locations_test(added: np.ndarray, weights: np.ndarray) -> float | None:
    """p-value of the difference over seeds and locations; None of one seed or one location.

    The variance over seeds holds noise of the locations, too: what is in both is taken off, and what is left is none
    rather than negative. Where seeds are folds, each location has one seed, and all of its noise is in both.

    Shape:
        added, weights: (seeds, locations), see :func:`contributions`.
    """
    seeds, locations = added.shape
    if min(seeds, locations) < 2:
        return None
    from scipy.special import stdtr  # takes longer to import than all else that a table without a comparison does
    difference = added.sum(axis=1).mean()
    rest = (added - difference * weights) / seeds
    of_locations = _variance(rest.sum(axis=0))
    of_seeds = _variance(rest.sum(axis=1))
    variance = of_locations + max(0.0, of_seeds - _variance(rest[weights > 0]))
    rounding = _SAME * np.abs(added).sum()
    if math.sqrt(variance) <= rounding:
        return float(abs(difference) <= rounding)
    freedom = variance ** 2 / (of_locations ** 2 / (locations - 1) + of_seeds ** 2 / (seeds - 1))
    return float(2 * stdtr(freedom, -abs(difference) / math.sqrt(variance)))


def evaluate(clips: pd.DataFrame, resamples: int = RESAMPLES) -> PairedTest:
    """Everything about the difference of two systems, from a table of clips (see above), which is validated first.

    The same input gives the same result; exchanging the two systems changes signs and nothing else.
    """
    validate(clips)
    added, weights = contributions(clips)
    p, low, high = sign_flip_test(added.mean(axis=0), weights.mean(axis=0), resamples)
    by_seed = {int(seed): float(value) for seed, value in zip(np.unique(clips.seed), added.sum(axis=1), strict=True)}
    return PairedTest(float(added.sum(axis=1).mean()), low, high, p, seeds_and_locations_test(added, weights), by_seed,
                      added.shape[1], len(clips))


def _variance(parts: np.ndarray) -> float:
    """Of the sum of independent parts whose expectation is 0."""
    return float(len(parts) / (len(parts) - 1) * np.square(parts).sum())


def _sign_flips(locations: int, resamples: int) -> Iterator[np.ndarray]:
    """Blocks (exchanges, locations) of 1 and -1; the first is the identity."""
    exact = 2 ** locations <= resamples
    total = 2 ** locations if exact else resamples
    random = np.random.default_rng(0)
    for start in range(0, total, _BLOCK):
        number = np.arange(start, min(start + _BLOCK, total))[:, None]
        if exact:
            flipped = number >> np.arange(locations) & 1
        else:
            flipped = random.integers(0, 2, (len(number), locations), dtype=np.int8)
            flipped[number[:, 0] == 0] = 0  # the given assignment
        yield 1.0 - 2.0 * flipped
