"""The statistics against enumeration by hand, scipy, and simulated clips whose truth is known."""
from itertools import product

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from evaluation.compare.intervals import (
    PairedTest,
    class_weights,
    contributions,
    evaluate,
    score_interval,
    seeds_and_locations_test,
    sign_flip_test,
    spread,
)
from task1a.errors import InputError

CLIPS = pd.DataFrame({"seed": [0, 0, 0, 1, 1], "location": ["oslo-1", "oslo-1", "rome-2", "oslo-1", "bonn-3"],
                      "difference": [4.0, 0.0, 2.0, 1.0, -1.0], "weight": [0.25, 0.25, 0.5, 0.5, 0.5]})


def enumerated(added, weights, theta=0.0):
    """p-value of the difference theta, pattern by pattern."""
    rest = [d - theta * w for d, w in zip(added, weights, strict=True)]
    sums = [abs(sum(sign * part for sign, part in zip(signs, rest, strict=True)))
            for signs in product((1, -1), repeat=len(rest))]
    return sum(value >= abs(sum(rest)) - 1e-9 for value in sums) / len(sums)


def even(locations):
    return np.full(locations, 1 / locations)


def test_spread_is_the_sample_deviation():
    assert spread([60.0, 62.0, 64.0]) == (62, pytest.approx(2))
    assert spread([61.5]) == (61.5, None) and spread([]) == (None, None)


def test_class_weights_count_every_class_alike():
    assert class_weights(["bus", "bus", "park"]).tolist() == [0.25, 0.25, 0.5]


def test_contributions_sum_clips_of_a_location():
    added, weights = contributions(CLIPS)  # bonn-3, oslo-1, rome-2
    assert added.tolist() == [[0, 1, 1], [-0.5, 0.5, 0]]
    assert weights.tolist() == [[0, 0.5, 0.5], [0.5, 0.5, 0]]


@pytest.mark.parametrize(("added", "p"), [
    ([1, 2, 3], 2 / 8),           # only all or none exchanged is as great
    ([3, 1, -1], 6 / 8),          # 3 and more: 3+1+1, 3+1-1, 3-1+1, and their negatives
    ([1, 1, 1, 1], 2 / 16),
    ([2, 1, 1, -2], 12 / 16),     # 2 and more, by all patterns but the four that sum to 0
    ([0, 0, 0], 1),
])
def test_p_by_hand(added, p):
    assert sign_flip_test(np.array(added, float), even(len(added)))[0] == p == enumerated(added, even(len(added)))


@pytest.mark.parametrize("locations", [3, 5])
def test_too_few_locations_have_no_interval(locations):
    p, low, high = sign_flip_test(np.ones(locations), even(locations))
    assert (p, low, high) == (2 ** (1 - locations), -np.inf, np.inf) and p > 0.05


def test_six_locations_that_agree_are_enough():
    p, low, high = sign_flip_test(np.arange(1.0, 7.0), even(6))
    assert p == 2 / 64 and 0 < low < 21 < high < np.inf


@pytest.mark.parametrize("seed", range(4))
def test_the_interval_holds_what_the_test_does_not_reject(seed):
    random = np.random.default_rng(seed)
    added, weights = random.normal(0.3, 1, 8), random.dirichlet(np.full(8, 3.0))
    p, low, high = sign_flip_test(added, weights)
    assert p == enumerated(added, weights) and (p <= 0.05) == (not low <= 0 <= high)
    for end, outwards in ((low, -1e-6), (high, 1e-6)):
        assert enumerated(added, weights, end + outwards) <= 0.05 < enumerated(added, weights, end - outwards)


def test_p_is_that_of_scipy():
    from scipy.stats import permutation_test
    added = np.random.default_rng(5).normal(0.4, 1, 10)
    theirs = permutation_test((added,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip_test(added, even(10))[0] == pytest.approx(theirs.pvalue, abs=1e-12)


def test_a_choice_of_exchanges_repeats_and_is_near_all_of_them():
    added = np.random.default_rng(6).normal(0.5, 1, 14)
    every, some = sign_flip_test(added, even(14)), sign_flip_test(added, even(14), resamples=8000)
    assert some == sign_flip_test(added, even(14), resamples=8000) and some != every
    assert some[0] == pytest.approx(every[0], abs=0.01)  # 4 deviations of 8000 draws
    assert some[1:] == pytest.approx(every[1:], abs=0.03 * (every[2] - every[1]))


def test_a_choice_of_exchanges_never_has_p_zero():
    assert sign_flip_test(np.ones(200), even(200), resamples=1000)[0] == 1 / 1000


@pytest.mark.parametrize("locations", [9, 30])
def test_exchanging_the_systems_changes_signs_only(locations):
    random = np.random.default_rng(7)
    clips = pd.DataFrame({"seed": np.repeat([0, 1], 4 * locations), "location": np.tile(np.arange(locations), 8),
                          "difference": random.normal(0.2, 1, 8 * locations), "weight": 1 / (4 * locations)})
    one, other = evaluate(clips, 2000), evaluate(clips.assign(difference=-clips.difference), 2000)
    assert (other.difference, other.low, other.high) == pytest.approx((-one.difference, -one.high, -one.low))
    assert (other.p_locations, other.p_seeds) == pytest.approx((one.p_locations, one.p_seeds))
    assert other.by_seed == pytest.approx({seed: -value for seed, value in one.by_seed.items()})


def test_variances_of_seeds_and_locations_by_hand():
    from scipy.stats import t
    # residuals .5 0 / 0 -.5: 1 over locations, 1 over seeds, 2/3 in both
    added, weights = np.array([[2.0, 1.0], [1.0, 0.0]]), np.full((2, 2), 0.5)
    variance = 1 + (1 - 2 / 3)
    assert seeds_and_locations_test(added, weights) == pytest.approx(2 * t.sf(2 / variance ** 0.5, variance ** 2 / 2))
    # folds: two locations of each seed; residuals 1 -1 / .5 -.5, so nothing over seeds and 10/3 over locations
    added, weights = np.array([[3.0, -1.0, 0, 0], [0, 0, 2.0, 0.0]]), np.array([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]])
    assert seeds_and_locations_test(added, weights) == pytest.approx(2 * t.sf(2 / (10 / 3) ** 0.5, 3))
    assert seeds_and_locations_test(added[:1], weights[:1]) is None
    assert seeds_and_locations_test(np.ones((2, 2)), np.full((2, 2), 0.5)) == 0
    assert seeds_and_locations_test(np.zeros((2, 2)), np.full((2, 2), 0.5)) == 1


def test_evaluate_averages_the_seeds():
    test = evaluate(CLIPS)
    assert test.by_seed == {0: 2.0, 1: 0.0} and test.difference == 1
    assert (test.locations, test.clips) == (3, 5)
    assert test.p_locations == enumerated([-0.25, 0.75, 0.5], [0.25, 0.5, 0.25]) and not test.significant


@pytest.mark.parametrize(("p_locations", "p_seeds", "significant"), [
    (0.05, None, True), (0.051, None, False), (0.01, 0.05, True), (0.01, 0.2, False), (0.06, 0.01, False)])
def test_both_p_values_must_be_significant(p_locations, p_seeds, significant):
    assert PairedTest(1.0, 0.0, 2.0, p_locations, p_seeds, {0: 1.0}, 9, 9).significant is significant


def test_clips_of_a_location_are_no_sample():
    """No true difference: the test by location is wrong in 5 % of cases, one that takes clips for a sample far more."""
    random = np.random.default_rng(8)
    locations, clips, trials = 25, 20, 300
    wrong = np.zeros(2)
    for _ in range(trials):
        effect = random.normal(0, 0.2, (locations, 1))
        either = random.random((locations, clips))
        difference = np.where(either < 0.2 + effect, 1.0, np.where(either > 0.8 + effect, -1.0, 0.0))
        by_location = sign_flip_test(difference.mean(axis=1) / locations, even(locations), resamples=1000)[0]
        standard_error = difference.std() / np.sqrt(difference.size)
        wrong += by_location <= 0.05, abs(difference.mean()) > 1.96 * standard_error
    assert 0.02 < wrong[0] / trials < 0.09 and wrong[1] / trials > 0.25


@pytest.mark.parametrize("folds", [False, True])
def test_training_is_noise_too(folds):
    """No true difference but what the seeds happen to learn: the test over locations alone takes it for one."""
    random = np.random.default_rng(9)
    seeds, locations, trials = 3, 45, 400
    weights = np.full((seeds, locations), 1 / locations)
    if folds:
        weights = np.kron(np.eye(seeds), np.full((1, locations // seeds), seeds / locations))
    wrong = np.zeros(2)
    for _ in range(trials):
        training = random.normal(0, 0.4, (seeds, 1)) + random.normal(0, 0.5, weights.shape)
        added = (random.normal(0, 1, locations) + training) * weights
        by_location = sign_flip_test(added.mean(axis=0), weights.mean(axis=0), resamples=500)[0]
        wrong += by_location <= 0.05, seeds_and_locations_test(added, weights) <= 0.05
    assert wrong[0] / trials > 0.15 and wrong[1] / trials < 0.09


@pytest.mark.parametrize("spoiled", [CLIPS.assign(difference=np.nan), CLIPS.assign(weight=0.0), CLIPS[:4]])
def test_invalid_clips_are_refused(spoiled):
    with pytest.raises(InputError, match="differences must be finite, and the weights positive with a sum of 1"):
        evaluate(spoiled)


def simulated_scores(random, locations, correlation, metric):
    """Scores of clips of nine devices at each location, ten scenes in turn, and the true mean of all scenes."""
    scene = np.arange(locations) % 10
    place = np.repeat(np.arange(locations), 9)
    if metric == "accuracy":
        truth = np.linspace(0.3, 0.75, 10)
        chance = truth[scene]
        if correlation:  # beta-binomial: the correlation of two clips of a location is 1 / (a + b + 1)
            size = 1 / correlation - 1
            chance = random.beta(size * truth[scene], size * (1 - truth[scene]))
        scores = (random.random(len(place)) < chance[place]).astype(float)
    else:
        truth = np.linspace(0.8, 2.2, 10)
        of_location, of_clip = random.gamma(2, 0.5, locations), random.gamma(2, 0.5, len(place))
        share = np.sqrt(correlation) / (np.sqrt(correlation) + np.sqrt(1 - correlation))
        scores = truth[scene][place] * (share * of_location[place] + (1 - share) * of_clip)
    return scores, scene[place], place, truth.mean()


@pytest.mark.parametrize("correlation", [0, 0.3, 0.9])
@pytest.mark.parametrize("locations", [20, 60, 500])
@pytest.mark.parametrize("metric", ["accuracy", "logloss"])
def test_intervals_of_scores_cover_the_truth(metric, locations, correlation):
    random = np.random.default_rng(0)
    covered, repeats = 0, 1000 if locations < 500 else 250
    for _ in range(repeats):
        scores, scene, place, truth = simulated_scores(random, locations, correlation, metric)
        low, high = score_interval(scores, class_weights(scene), scene, place)
        covered += low <= truth <= high
    assert covered / repeats == pytest.approx(0.945, abs=0.025 * np.sqrt(1000 / repeats))


def test_an_interval_by_hand():
    # two scenes, each with two locations of one clip: class means 0.5 and 1, half weight each
    scores, labels = np.array([0.0, 1, 1, 1]), ["bus", "bus", "park", "park"]
    low, high = score_interval(scores, class_weights(labels), labels, ["a", "b", "c", "d"])
    margin = scipy.stats.t.ppf(0.975, 2) * np.sqrt(2 * 2 * (0.5 * 0.25) ** 2)
    assert (low, high) == (pytest.approx(0.75 - margin), pytest.approx(0.75 + margin))


def test_an_interval_needs_two_locations_that_differ():
    labels = ["bus", "bus"]
    assert score_interval(np.array([0.0, 1.0]), class_weights(labels), labels, ["a", "a"]) is None
    assert score_interval(np.array([1.0, 1.0]), class_weights(labels), labels, ["a", "b"]) is None
    # the only location of each scene is compared with the mean of all
    labels = ["bus", "park"]
    low, high = score_interval(np.array([0.0, 1.0]), class_weights(labels), labels, ["a", "b"])
    margin = scipy.stats.t.ppf(0.975, 1) * np.sqrt(2 * 0.25 ** 2)
    assert (low, high) == (pytest.approx(0.5 - margin), pytest.approx(0.5 + margin))
