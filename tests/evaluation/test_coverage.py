"""How often intervals hold the truth, over 10,000 test sets each whose truth is known."""

import numpy as np
import pytest
from scipy import stats

from medvision.evaluation.intervals import delong, wilson

DRAWS = 10_000


def covered(intervals, truth):
    low, high = np.array(intervals).T
    return np.mean((low <= truth) & (truth <= high))


@pytest.mark.slow
@pytest.mark.parametrize("n", [200, 1000])
def test_accuracy_sensitivity_and_specificity_are_covered(n):
    """A patient is ill with a chance of 0.4; 0.85 of the ill and 0.75 of the well are recognised."""
    rng = np.random.default_rng(n)
    ill = rng.binomial(n, 0.4, DRAWS)
    found, spared = rng.binomial(ill, 0.85), rng.binomial(n - ill, 0.75)

    for successes, trials, truth in (
        (found + spared, np.full(DRAWS, n), 0.4 * 0.85 + 0.6 * 0.75),
        (found, ill, 0.85),
        (spared, n - ill, 0.75),
    ):
        pairs = zip(successes.tolist(), trials.tolist(), strict=True)
        assert 0.94 <= covered([wilson(*pair, 0.95) for pair in pairs], truth) <= 0.96


@pytest.mark.slow
@pytest.mark.parametrize(("ill", "well"), [(100, 100), (300, 700)])
@pytest.mark.parametrize("auroc", [0.7, 0.85, 0.95, 0.97])
def test_auroc_is_covered(ill, well, auroc):
    rng = np.random.default_rng(ill)
    positive = np.arange(ill + well) < ill
    shift = np.sqrt(2) * stats.norm.ppf(auroc) * positive

    intervals = [delong(rng.normal(size=ill + well) + shift, positive, 0.95) for _ in range(DRAWS)]

    assert 0.94 <= covered(intervals, auroc) <= 0.96
