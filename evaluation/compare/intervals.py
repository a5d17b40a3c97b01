"""Confidence intervals of scores, mean and deviation over seeds, and tests of the difference
between two systems.

Conventions
-----------
The test clips are a sample of recording locations. Clips of one location sound alike on any device,
so that a system tends to be right about all of them or none: the independent samples are the
locations, not the clips.

Two systems are compared on the same test clips, seed by seed. A table of clips holds one row per
clip and seed:

* ``seed``: training seed; both systems have a run with it. Seeds may have test clips of their own
  (folds).
* ``location``: where the clip was recorded.
* ``difference``: score of the first system for the clip minus that of the second.
* ``weight``: weight of the clip in the score; the weights of a seed sum to 1. They are equal for
  mean scores, and those of :func:`class_weights` for class-averaged scores.

The difference of two systems is the weighted sum within a seed, averaged over the seeds. It is
*significant* if it is unlikely to come from the choice of the locations or of the seeds, both of
which are samples. p-values are two-sided.

Statistics
----------
* :func:`score_interval`: 95 % interval of a score. Clips are sampled in clusters, the locations,
  and the locations of each scene are a sample of their own (strata). A t interval with the variance
  of a ratio estimator and, as usual in survey statistics, as many degrees of freedom as locations
  minus scenes [c]. For a scene with a single location, the overall mean replaces the scene mean,
  which overestimates the variance.
* :func:`spread`: mean and sample standard deviation.
* :func:`sign_flip_test`: if two systems were equally good, they could be exchanged at any location,
  for all of its clips and seeds at once. p is the share of such exchanges with a difference as
  large as the observed one [crs]. With few locations all exchanges are tried, otherwise a random,
  repeatable choice that includes the observed assignment [ps]. The interval holds the differences
  that the test does not reject [g]. The trained models are taken as given. p is that of
  ``scipy.stats.permutation_test``, which gives no interval: that needs the flipped weights of the
  same exchanges.
* :func:`seeds_and_locations_test`: takes into account that other trainings could give another
  result, too [b]. A t-test with the variance over locations plus the additional variance over seeds
  [cgm], and the degrees of freedom of [s]. Its type I error is within a few points of 5 % for three
  or more seeds or folds, and up to 10 % for two.

Sources
-------
.. [b] X. Bouthillier et al., "Accounting for variance in machine learning benchmarks", MLSys 2021
.. [c] W. G. Cochran, "Sampling techniques", 3rd edition, 1977, chapters 5, 6 and 9
.. [cgm] A. C. Cameron, J. B. Gelbach, D. L. Miller, "Robust inference with multiway clustering", J.
   Business & Economic Statistics 29, 2011
.. [crs] I. A. Canay, J. P. Romano, A. M. Shaikh, "Randomization tests under an approximate symmetry
   assumption", Econometrica 85, 2017
.. [g] P. H. Garthwaite, "Confidence intervals from randomization tests", Biometrics 52, 1996
.. [ps] B. Phipson, G. K. Smyth, "Permutation p-values should never be zero", Statistical
   Applications in Genetics and Molecular Biology 9, 2010
.. [s] F. E. Satterthwaite, "An approximate distribution of estimates of variance components",
   Biometrics 2, 1946
"""
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from task1a.errors import InputError

ALPHA = 0.05
"""Significance level; intervals have the confidence level 1 - ALPHA."""

RESAMPLES = 2 ** 16
"""Maximum number of exchanges that are tried: all of them for up to 16 locations."""

# exchanges at a time, which bounds the memory
_BLOCK = 2 ** 12
# Rounding error of a sum, relative to the sum of the absolute values. Exchanges that give the
# observed difference but for its rounding must count, or p would depend on the order of summation.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class PairedTest:
    """Difference of two systems and its significance."""

    difference: float
    low: float
    """lower end of the 95 % interval over locations; -inf with too few locations"""
    high: float
    p_locations: float
    p_seeds: float | None
    """p-value over locations and seeds; None for a single seed or location"""
    by_seed: dict[int, float]
    locations: int
    clips: int
    """number of pairs of clip and seed"""

    @property
    def significant(self) -> bool:
        """Whether both tests, or the only one with a single seed, reject equality at ALPHA."""
        return max(self.p_locations, self.p_seeds or 0.0) <= ALPHA


def spread(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Return the mean and the sample standard deviation (n - 1); None with too few values."""
    mean = float(np.mean(values)) if len(values) else None
    return mean, float(np.std(values, ddof=1)) if len(values) > 1 else None


def class_weights(labels: Sequence[str]) -> np.ndarray:
    """Return the weight of each clip in a class-averaged score: 1 / (classes x clips of its class).

    Shape:
        labels: (clips,), at least one -> (clips,), sum 1.
    """
    classes, names = pd.factorize(np.asarray(labels, dtype=object))
    return 1 / (len(names) * np.bincount(classes)[classes])


def score_interval(
    scores: np.ndarray, weights: np.ndarray, labels: Sequence[str], locations: Sequence[str],
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> tuple[float, float] | None:
    """Return the 95 % interval of a weighted sum of the clips' scores over the locations.

    Args:
        scores: score of each clip.
        weights: weight of each clip, equal within a class; 1 / clips, or :func:`class_weights`.
        labels: true scene of each clip.
        locations: recording location of each clip.
        bounds: range of the score, to which the interval is cut.

    Shape:
        scores, weights, labels, locations: (clips,).

    Returns:
        The lower and the upper end, or None if the variance cannot be estimated: there is only
        one location, or no location differs from the mean of its class.
    """
    from scipy.special import stdtrit  # takes longer to import than the rest of this module

    classes, _ = pd.factorize(np.asarray(labels, dtype=object))
    location, names = pd.factorize(np.asarray(locations, dtype=object))
    # a cluster is the clips of one scene at one location, and a stratum is the clusters of one
    # scene
    clusters, cluster = np.unique(classes * len(names) + location, return_inverse=True)
    stratum = clusters // len(names)
    counts = np.bincount(stratum)

    mean = float(np.sum(scores * weights))
    class_means = np.bincount(classes, scores * weights) / np.bincount(classes, weights)
    class_means[counts == 1] = mean
    # the variance of a sum of n independent clusters around their mean, with the factor n / (n - 1)
    # in each stratum
    sums = np.bincount(cluster, weights * (scores - class_means[classes]))
    squares = np.bincount(stratum, np.square(sums))
    variance = float(np.sum(counts / np.maximum(counts - 1, 1) * squares))
    if math.sqrt(variance) <= _ROUNDING * np.abs(scores * weights).sum():
        return None
    freedom = max(1, len(clusters) - len(counts))
    margin = float(stdtrit(freedom, 1 - ALPHA / 2)) * math.sqrt(variance)
    return max(bounds[0], mean - margin), min(bounds[1], mean + margin)


def contributions(clips: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return what each location adds to the difference of each seed, and its weight.

    Both are 0 if the location was not tested with the seed.

    Shape:
        two of (seeds, locations), both in ascending order.
    """
    seeds, seed = np.unique(clips.seed.to_numpy(), return_inverse=True)
    locations, location = np.unique(clips.location.to_numpy(dtype=str), return_inverse=True)
    added, weights = np.zeros((2, len(seeds), len(locations)))
    difference, weight = clips.difference.to_numpy(np.float64), clips.weight.to_numpy(np.float64)
    np.add.at(added, (seed, location), difference * weight)
    np.add.at(weights, (seed, location), weight)
    return added, weights


def sign_flip_test(added: np.ndarray, weights: np.ndarray,
                   resamples: int = RESAMPLES) -> tuple[float, float, float]:
    """Test a difference by exchanging the two systems at locations.

    A difference theta is rejected if few of the signs s give |sum s (d - theta w)| >= |D - theta|.
    For each choice of signs, this holds between the two roots of a quadratic; so the ends of the
    interval are quantiles of the roots, and no search is needed.

    Args:
        added: d, the contribution of each location to the difference D.
        weights: w, its weight.
        resamples: maximum number of exchanges.

    Shape:
        added, weights: (locations,).

    Returns:
        p, and the lower and upper end of the 95 % interval: infinite if even the largest
        possible difference would not be significant, as with fewer than six locations.
    """
    difference, rounding = added.sum(), _ROUNDING * np.abs(added).sum()
    both = np.stack([added, weights], axis=1)
    flipped = [signs @ both for signs in _sign_flips(len(added), resamples)]
    sums, sizes = np.concatenate(flipped).T
    p = np.mean(np.abs(sums) >= np.abs(difference) - rounding)

    # sum s (d - theta w) = ±(D - theta), with the weights summing to 1
    numerators = np.stack([difference - sums, difference + sums])
    numerators[np.abs(numerators) <= rounding] = 0
    with np.errstate(divide="ignore", invalid="ignore"):
        roots = numerators / np.stack([1 - sizes, 1 + sizes])
    # exchanged at all locations or at none: both sides are the same for any theta
    all_or_none = 1 - np.abs(sizes) < _ROUNDING
    low = np.where(all_or_none, -np.inf, roots.min(axis=0))
    high = np.where(all_or_none, np.inf, roots.max(axis=0))
    rejected = math.floor(ALPHA * len(sums))
    return float(p), float(np.sort(low)[rejected]), float(np.sort(high)[::-1][rejected])


def seeds_and_locations_test(added: np.ndarray, weights: np.ndarray) -> float | None:
    """Return the p-value of the difference over seeds and locations; None for one of either.

    The variance over seeds includes the noise of the locations. That common part is subtracted, but
    the rest is not allowed to be negative. If seeds are folds, each location has one seed, and all
    of its noise is common.

    Shape:
        added, weights: (seeds, locations), see :func:`contributions`.
    """
    seeds, locations = added.shape
    if min(seeds, locations) < 2:
        return None
    from scipy.special import stdtr  # takes longer to import than a table without a comparison

    difference = added.sum(axis=1).mean()
    residuals = (added - difference * weights) / seeds
    of_locations = _variance(residuals.sum(axis=0))
    of_seeds = _variance(residuals.sum(axis=1))
    variance = of_locations + max(0.0, of_seeds - _variance(residuals[weights > 0]))
    rounding = _ROUNDING * np.abs(added).sum()
    if math.sqrt(variance) <= rounding:
        return float(abs(difference) <= rounding)
    freedom = variance ** 2 / (of_locations ** 2 / (locations - 1) + of_seeds ** 2 / (seeds - 1))
    return float(2 * stdtr(freedom, -abs(difference) / math.sqrt(variance)))


def evaluate(clips: pd.DataFrame, resamples: int = RESAMPLES) -> PairedTest:
    """Test the difference of two systems, given as a table of clips (see above).

    The same input gives the same result; exchanging the two systems only changes signs.

    Raises:
        InputError: a difference is not finite, a weight is not positive, or the weights of a seed
            do not sum to 1.
    """
    sums_to_1 = np.allclose(clips.groupby("seed").weight.sum(), 1, atol=1e-6)
    if not (np.isfinite(clips.difference).all() and (clips.weight > 0).all() and sums_to_1):
        raise InputError("clips: differences must be finite, and the weights positive with a sum of 1 "
                         "for every seed")
    added, weights = contributions(clips)
    p, low, high = sign_flip_test(added.mean(axis=0), weights.mean(axis=0), resamples)
    differences = added.sum(axis=1)
    by_seed = dict(zip(np.unique(clips.seed).tolist(), differences.tolist(), strict=True))
    p_seeds = seeds_and_locations_test(added, weights)
    return PairedTest(float(differences.mean()), low, high, p, p_seeds, by_seed, added.shape[1],
                      len(clips))


def _variance(parts: np.ndarray) -> float:
    """Estimate the variance of the sum of independent parts with the expectation 0."""
    return float(len(parts) / (len(parts) - 1) * np.square(parts).sum())


def _sign_flips(locations: int, resamples: int) -> Iterator[np.ndarray]:
    """Yield blocks (exchanges, locations) of 1 and -1, the observed assignment first."""
    exact = 2 ** locations <= resamples
    total = 2 ** locations if exact else resamples
    random = np.random.default_rng(0)
    for start in range(0, total, _BLOCK):
        number = np.arange(start, min(start + _BLOCK, total))[:, None]
        if exact:
            # the bits of the number of an exchange say where the systems are exchanged
            flipped = number >> np.arange(locations) & 1
        else:
            flipped = random.integers(0, 2, (len(number), locations), dtype=np.int8)
            flipped[number[:, 0] == 0] = 0
        yield 1.0 - 2.0 * flipped
