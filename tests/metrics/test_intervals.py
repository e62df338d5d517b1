import numpy as np
import pytest
from scipy import stats

from medvision.metrics.definitions import METRICS
from medvision.metrics.intervals import (
    delong,
    delong_macro,
    from_resamples,
    macro_specificity,
    mean_of_wilsons,
    wilson,
    wilson_f1,
)


@pytest.mark.parametrize("confidence_level", [0.9, 0.95, 0.99])
@pytest.mark.parametrize(("successes", "trials"), [(0, 1), (1, 1), (0, 30), (30, 30), (7, 30), (9_990, 10_000)])
def test_wilson_is_scipys(successes, trials, confidence_level):
    expected = stats.binomtest(successes, trials).proportion_ci(confidence_level, method="wilson")

    assert wilson(successes, trials, confidence_level) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize("trials", [1, 3, 49, 361, 10_000])
def test_wilson_holds_the_proportion_itself(trials):
    assert wilson(trials, trials, 0.95)[1] == 1.0
    assert wilson(0, trials, 0.95)[0] == 0.0


def test_wilson_for_f1_solves_the_score_equation():
    hits, union = 40, 60

    z = stats.norm.ppf(0.975)
    for end in wilson_f1(hits, union, 0.95):
        jaccard = end / (2 - end)
        assert abs(hits / union - jaccard) == pytest.approx(z * np.sqrt(jaccard * (1 - jaccard) / union), abs=1e-12)


def delong_by_pairs(ours, theirs):
    """AUROC and the two parts of its variance from the m x n matrix of comparisons, as in the paper."""
    wins = np.sign(ours[:, None] - theirs[None, :]) / 2 + 0.5
    return wins.mean(), wins.mean(axis=1).var(ddof=1) / len(ours), wins.mean(axis=0).var(ddof=1) / len(theirs)


@pytest.mark.parametrize("decimals", [0, 1, 8])
def test_delong_is_the_papers_on_the_logit_scale(decimals):
    rng = np.random.default_rng(0)
    scores, positive = rng.normal(size=90).round(decimals), np.arange(90) < 30
    scores[:30] += 1
    auroc, *parts = delong_by_pairs(scores[:30], scores[30:])
    degrees_of_freedom = sum(parts) ** 2 / (parts[0] ** 2 / 29 + parts[1] ** 2 / 59)
    half = stats.t.ppf(0.95, degrees_of_freedom) * np.sqrt(sum(parts)) / (auroc * (1 - auroc))
    odds = np.log(auroc / (1 - auroc)) + np.array([-half, half])

    assert delong(scores, positive, 0.9) == pytest.approx(tuple(1 / (1 + np.exp(-odds))), abs=1e-12)


def test_delong_of_a_perfect_ranking_is_as_wide_as_the_smaller_side_demands():
    scores = np.arange(100.0)

    assert delong(scores, scores >= 90, 0.95) == wilson(10, 10, 0.95)
    assert delong(scores, scores < 90, 0.95) == wilson(0, 10, 0.95)


def test_delong_with_a_single_positive_is_wide():
    low, high = delong(np.arange(100.0), np.arange(100) == 80, 0.95)

    assert low < 0.3 < 0.8 < 0.97 < high


@pytest.mark.parametrize("decimals", [0, 8])
def test_the_macro_area_of_two_classes_is_that_of_each(make_predictions, decimals):
    predictions = make_predictions(120, 2, decimals=decimals)
    probs, targets = predictions.probs.round(12), predictions.targets

    expected = delong(probs[:, 1], targets == 1, 0.95)

    assert delong_macro(probs, targets, 0.95) == pytest.approx(expected, abs=1e-10)


def test_the_macro_area_varies_as_its_resamples_do(make_predictions):
    predictions = make_predictions(600, 4, decimals=1)
    rng = np.random.default_rng(0)

    low, high = delong_macro(predictions.probs, predictions.targets, 0.95)

    areas = []
    for _ in range(400):
        rows = rng.integers(600, size=600)
        areas.append(METRICS["auroc"](predictions.probs[rows], predictions.targets[rows]).mean())
    assert (high - low) / (2 * stats.norm.ppf(0.975)) == pytest.approx(np.std(areas), rel=0.1)


@pytest.mark.parametrize("targets", [np.arange(60) % 3, np.r_[np.zeros(30, int), np.ones(29, int), 2]])
def test_a_perfect_macro_area_or_a_class_of_one_is_as_sure_as_its_smallest_class(targets):
    probs = np.eye(3)[targets]

    assert delong_macro(probs, targets, 0.95) == wilson(min(np.bincount(targets)), min(np.bincount(targets)), 0.95)


def test_the_mean_of_one_proportion_is_wilsons():
    found = mean_of_wilsons(np.array([30, 0]), np.array([40, 0]), 0.9)

    assert found == pytest.approx(wilson(30, 40, 0.9), abs=1e-12)


def test_the_mean_of_proportions_adds_up_squares():
    ends = np.array([wilson(30, 40, 0.9), wilson(9, 10, 0.9)])

    low, high = mean_of_wilsons(np.array([30, 9]), np.array([40, 10]), 0.9)

    assert low == pytest.approx(0.825 - np.hypot(0.75 - ends[0, 0], 0.9 - ends[1, 0]) / 2, abs=1e-12)
    assert high == pytest.approx(0.825 + np.hypot(ends[0, 1] - 0.75, ends[1, 1] - 0.9) / 2, abs=1e-12)


def test_the_macro_specificity_of_two_classes_is_their_balanced_accuracy():
    matrix = np.array([[50, 7], [3, 20]])

    expected = mean_of_wilsons(np.diag(matrix), matrix.sum(axis=1), 0.95)

    assert macro_specificity(matrix, 0.95) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("matrix", [[[50, 7, 1], [3, 20, 0], [2, 2, 2]], [[9, 0, 1], [0, 5, 0], [0, 0, 0]]])
def test_the_macro_specificity_lies_inside(matrix):
    matrix = np.array(matrix)
    others = matrix.sum() - matrix.sum(axis=1)
    value = 1 - np.mean((matrix.sum(axis=0) - np.diag(matrix)) / others)

    low, high = macro_specificity(matrix, 0.95)

    assert 0 <= low < value < high <= 1


def test_the_spread_of_defined_resamples_is_the_standard_error():
    resampled = np.array([0.7, np.nan, 0.8, 0.9])

    low, high = from_resamples(0.8, resampled, 10, 0.95)

    # Of ten units, whose resamples vary too little by a tenth.
    half = stats.t.ppf(0.975, 9) * 0.1 * np.sqrt(10 / 9) / (0.8 * 0.2)
    np.testing.assert_allclose([low, high], stats.logistic.cdf(np.log(4) + np.array([-half, half])), atol=1e-12)


@pytest.mark.parametrize("resampled", [[1.0] * 9, [np.nan] * 9, [np.nan, 0.4]])
def test_resamples_that_do_not_vary_fall_back_on_the_number_of_units(resampled):
    assert from_resamples(1.0, np.array(resampled), 12, 0.95) == wilson(12, 12, 0.95)


def test_without_bounds_the_interval_is_symmetric():
    low, high = from_resamples(1.0, np.array([0.7, 0.8, 0.9]), 4, 0.95, (-np.inf, np.inf))

    half = stats.t.ppf(0.975, 3) * 0.1 * np.sqrt(4 / 3)
    assert (low, high) == pytest.approx((1 - half, 1 + half), abs=1e-12)


def test_other_bounds_only_move_and_stretch():
    resampled = np.array([0.7, 0.8, 0.9])

    expected = [2 * end - 1 for end in from_resamples(0.8, resampled, 10, 0.95)]

    assert from_resamples(0.6, 2 * resampled - 1, 10, 0.95, (-1, 1)) == pytest.approx(expected, abs=1e-12)
    assert from_resamples(1.0, np.ones(3), 10, 0.95, (-1, 1)) == (2 * wilson(10, 10, 0.95)[0] - 1, 1)
