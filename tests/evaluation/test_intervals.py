import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from medvision.evaluation import intervals
from medvision.evaluation.intervals import Resampling, bootstrap, delong, from_resamples, wilson, wilson_f1
from medvision.evaluation.metrics import Scorer
from medvision.randomness import generator


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
    """AUROC and its variance from the m x n matrix of comparisons, as in the paper."""
    wins = np.sign(ours[:, None] - theirs[None, :]) / 2 + 0.5
    return wins.mean(), wins.mean(axis=1).var(ddof=1) / len(ours) + wins.mean(axis=0).var(ddof=1) / len(theirs)


@pytest.mark.parametrize("decimals", [0, 1, 8])
def test_delong_is_the_papers_on_the_logit_scale(decimals):
    rng = np.random.default_rng(0)
    scores, positive = rng.normal(size=90).round(decimals), np.arange(90) < 30
    scores[:30] += 1
    auroc, variance = delong_by_pairs(scores[:30], scores[30:])
    half = stats.norm.ppf(0.95) * np.sqrt(variance) / (auroc * (1 - auroc))
    odds = np.log(auroc / (1 - auroc)) + np.array([-half, half])

    assert delong(scores, positive, 0.9) == pytest.approx(tuple(1 / (1 + np.exp(-odds))), abs=1e-12)


def test_delong_of_a_perfect_ranking_is_as_wide_as_the_smaller_side_demands():
    scores = np.arange(100.0)

    assert delong(scores, scores >= 90, 0.95) == wilson(10, 10, 0.95)
    assert delong(scores, scores < 90, 0.95) == wilson(0, 10, 0.95)


def test_delong_with_a_single_positive_is_wide():
    low, high = delong(np.arange(100.0), np.arange(100) == 80, 0.95)

    assert low < 0.3 < 0.8 < 0.97 < high


def test_independent_samples_are_drawn_alone(make_predictions):
    resampling = Resampling.of(make_predictions(60))

    counts = resampling.draw(np.random.default_rng(0), 4_000)

    assert not resampling.grouped
    assert (counts.sum(axis=1) == 60).all()
    # Counts are multinomial: mean 1, variance 1 - 1/60, covariance -1/60.
    np.testing.assert_allclose(np.cov(counts.T), np.eye(60) - 1 / 60, atol=0.12)


def test_groups_are_drawn_whole_and_samples_without_a_group_alone(make_predictions):
    groups = np.array(["p1", "p1", "", "p2", "p2", "p2", "", "p3"])
    predictions = make_predictions(groups=groups, targets=[0, 1, 0, 1, 0, 1, 0, 1], k=2)

    resampling = Resampling.of(predictions)
    counts = resampling.draw(np.random.default_rng(0), 4_000)

    assert resampling.grouped
    assert (counts[:, 0] == counts[:, 1]).all()
    assert (counts[:, 3] == counts[:, 4]).all()
    assert (counts[:, 2] != counts[:, 6]).any()
    assert (counts[:, [0, 2, 3, 6, 7]].sum(axis=1) == 5).all()
    np.testing.assert_allclose(counts.mean(axis=0), 1, atol=0.06)


def test_groups_of_one_are_independent_samples(make_predictions):
    assert not Resampling.of(make_predictions(groups=np.arange(200))).grouped


@pytest.mark.parametrize("groups", [None, np.arange(120) // 4])
def test_the_bootstrap_is_scikit_learn_on_the_same_resampled_indices(make_predictions, groups):
    predictions = make_predictions(120, 3, decimals=1, groups=groups)
    resampling = Resampling.of(predictions)
    targets, preds, probs = predictions.targets, predictions.preds, predictions.probs

    found = bootstrap(Scorer(predictions), resampling, 30, seed=5)

    expected = []
    for counts in resampling.draw(generator("bootstrap", 5), 30):
        rows = np.repeat(np.arange(120), counts)
        expected.append(
            [
                sk.accuracy_score(targets[rows], preds[rows]),
                sk.f1_score(targets[rows], preds[rows], average="macro"),
                np.mean([sk.roc_auc_score(targets[rows] == c, probs[rows, c]) for c in range(3)]),
            ]
        )
    found = np.stack([found["accuracy"], found["macro/f1"], found["macro/auroc"]], axis=1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_the_bootstrap_does_not_depend_on_how_much_fits_in_memory(make_predictions, monkeypatch):
    predictions = make_predictions(50)
    scorer, resampling = Scorer(predictions), Resampling.of(predictions)
    at_once = bootstrap(scorer, resampling, 20, seed=0)

    monkeypatch.setattr(intervals, "_CHUNK", 150)

    for name, values in bootstrap(scorer, resampling, 20, seed=0).items():
        np.testing.assert_array_equal(values, at_once[name])


def test_the_spread_of_defined_resamples_is_the_standard_error():
    resampled = np.array([0.7, np.nan, 0.8, 0.9])

    low, high = from_resamples(0.8, resampled, 10, 0.95)

    half = stats.norm.ppf(0.975) * 0.1 / (0.8 * 0.2)
    np.testing.assert_allclose([low, high], stats.logistic.cdf(np.log(4) + np.array([-half, half])), atol=1e-12)


@pytest.mark.parametrize("resampled", [[1.0] * 9, [np.nan] * 9, [np.nan, 0.4]])
def test_resamples_that_do_not_vary_fall_back_on_the_number_of_units(resampled):
    assert from_resamples(1.0, np.array(resampled), 12, 0.95) == wilson(12, 12, 0.95)


def test_the_bootstraps_standard_error_is_scipys(make_predictions):
    predictions = make_predictions(120, 3)
    right = predictions.preds == predictions.targets

    found = bootstrap(Scorer(predictions), Resampling.of(predictions), 4_000, seed=0)["accuracy"].std(ddof=1)

    expected = stats.bootstrap((right,), np.mean, n_resamples=4_000, rng=np.random.default_rng(0)).standard_error
    assert found == pytest.approx(expected, rel=0.05)
