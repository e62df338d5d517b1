import numpy as np
import pytest
from scipy.stats import binomtest, chi2, kstest

from medvision.comparison.paired_tests import EXACT_BELOW, delong_error, holm, mcnemar, paired_proportions
from medvision.comparison.shared_resamples import score_all
from medvision.metrics.bootstrap import Resampling
from medvision.metrics.definitions import compared
from medvision.metrics.influence import macro_auroc
from medvision.metrics.predictions import Predictions
from medvision.tasks import Task


def predictions(targets, probs) -> Predictions:
    return Predictions(
        ids=np.arange(len(targets)).astype(np.str_),
        groups=np.full(len(targets), "", dtype="<U1"),
        targets=np.asarray(targets, np.int64),
        logits=np.log(np.asarray(probs) + 1e-9).astype(np.float32),
        probs=np.asarray(probs, np.float64),
        task=Task.classes([f"class {c}" for c in range(np.shape(probs)[1])]),
    )


def two_models(rng, n=120, k=2, spread=(1.0, 1.0), decimals=None):
    """Targets, and two models whose scores share a part, as those of models on the same images do."""
    targets = rng.integers(0, k, n)
    shared = rng.normal(size=(n, k))
    both = []
    for one in spread:
        logits = shared + rng.normal(size=(n, k))
        logits[np.arange(n), targets] += one
        if decimals is not None:
            # Equal scores, in both columns to the last bit.
            logits = np.hstack([np.zeros((n, 1)), logits[:, 1:].round(decimals)])
        odds = np.exp(logits)
        both.append(predictions(targets, odds / odds.sum(axis=1, keepdims=True)))
    return both


@pytest.mark.parametrize(("b", "c"), [(0, 0), (0, 6), (3, 9), (12, 12), (1, 20)])
def test_few_disagreements_give_the_exact_binomial(b, c):
    expected = binomtest(b, b + c).pvalue if b + c else 1.0
    assert mcnemar(b, c) == pytest.approx(expected)
    assert mcnemar(b, c) == mcnemar(c, b)


def test_many_disagreements_give_chi_squared():
    assert EXACT_BELOW <= 40
    assert mcnemar(30, 10) == pytest.approx(chi2.sf((20 - 1) ** 2 / 40, 1))


def test_paired_proportions_hold_what_they_should():
    rng = np.random.default_rng(0)
    covered = 0
    draws = rng.multinomial(80, [0.1, 0.04, 0.86], size=4000)
    for b, c, _ in draws:
        low, high = paired_proportions(b, c, 80, 0.95)
        covered += low <= 0.06 <= high
    assert 0.94 <= covered / len(draws) <= 0.98


def test_models_that_never_disagree_still_have_an_interval():
    low, high = paired_proportions(0, 0, 20, 0.95)
    assert low == -high
    assert high == pytest.approx(1.96 * np.sqrt(2 / 22 / 22), rel=1e-3)


def auroc_influence(one: Predictions):
    return macro_auroc(one.probs, one.targets, np.arange(len(one.targets))).of_samples


def brute_force(ours: Predictions, theirs: Predictions) -> float:
    """DeLong's standard error of a difference of binary AUROCs, from all pairs of a positive and a negative."""
    positive = ours.targets == 1
    wins = []
    for one in (ours, theirs):
        score = one.probs[:, 1]
        above = np.sign(score[positive][:, None] - score[~positive][None, :])
        wins.append((above + 1) / 2)
    v10, v01 = (np.array([w.mean(axis=axis) for w in wins]) for axis in (1, 0))
    covariance = np.cov(v10) / v10.shape[1] + np.cov(v01) / v01.shape[1]
    return float(np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]))


@pytest.mark.parametrize("decimals", [None, 0])
def test_delong_agrees_with_all_pairs(decimals):
    ours, theirs = two_models(np.random.default_rng(3), decimals=decimals)
    influence = auroc_influence(ours) - auroc_influence(theirs)
    assert delong_error(influence, ours.targets) == pytest.approx(brute_force(ours, theirs))


@pytest.mark.parametrize("k", [2, 4])
def test_delong_agrees_with_a_bootstrap(k):
    ours, theirs = two_models(np.random.default_rng(5), n=400, k=k, spread=(1.0, 1.6))
    _, resampled = score_all([ours, theirs], Resampling.of(ours), 1000, seed=0)
    differences = (resampled[0] - resampled[1])[:, compared().index("macro_auroc")]
    influence = auroc_influence(ours) - auroc_influence(theirs)
    assert delong_error(influence, ours.targets) == pytest.approx(np.std(differences), rel=0.12)


def test_a_class_with_one_case_has_no_delong():
    ours, _ = two_models(np.random.default_rng(0), n=30)
    targets = np.zeros(30, int)
    targets[3] = 1
    assert np.isnan(delong_error(auroc_influence(ours), targets))
    assert np.isnan(delong_error(auroc_influence(ours), np.zeros(30, int)))


def test_holm_by_hand():
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, each at least the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    with_missing = holm([0.01, float("nan"), 0.04])
    assert with_missing[0] == pytest.approx(0.02)
    assert np.isnan(with_missing[1])
    assert np.isnan(holm([float("nan")])[0])


@pytest.mark.slow
@pytest.mark.parametrize("k", [2, 3])
def test_without_a_difference_p_values_are_uniform(k):
    """DeLong's are; McNemar's, which is discrete and corrected for continuity, is at most as often small."""
    rng = np.random.default_rng(k)
    auroc, accuracy = [], []
    for _ in range(1500):
        ours, theirs = two_models(rng, n=200, k=k)
        influence = auroc_influence(ours) - auroc_influence(theirs)
        values, _ = score_all([ours, theirs], Resampling.of(ours), 0, seed=0)
        z = (values[0] - values[1])[compared().index("macro_auroc")] / delong_error(influence, ours.targets)
        auroc.append(chi2.sf(z**2, 1))
        right = [one.preds == one.targets for one in (ours, theirs)]
        accuracy.append(mcnemar(int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())))
    assert kstest(auroc, "uniform").pvalue > 0.01
    for level in (0.01, 0.05, 0.2):
        assert np.mean(np.array(accuracy) <= level) <= level + 3 * np.sqrt(level * (1 - level) / 1500)
    assert np.mean(np.array(accuracy) <= 0.05) > 0.015
