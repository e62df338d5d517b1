import numpy as np
import pytest
from scipy.stats import kstest

from medvision.comparison.differences import Difference, Scale, Score, corrected
from medvision.comparison.shared_resamples import score_all
from medvision.metrics.bootstrap import Resampling
from medvision.metrics.definitions import compared
from medvision.metrics.predictions import Predictions


def model(rng, shared, targets, strength, noise, groups=None):
    logits = shared + noise * rng.normal(size=shared.shape)
    logits[np.arange(len(targets)), targets] += strength
    return Predictions.from_logits(
        ids=np.arange(len(targets)), targets=targets, logits=logits, class_names=["a", "b"], groups=groups
    )


def test_what_counts_is_the_corrected_p_and_the_interval():
    found = corrected(
        [
            Difference(0.3, 0.1, 0.5, 0.01, "McNemar"),
            Difference(0.3, 0.1, 0.5, 0.04, "McNemar"),
            Difference(0.3, -0.1, 0.7, 0.001, "McNemar"),
            Difference(None, None, None, None, "undefined"),
        ],
        0.95,
    )
    assert [one.distinguishable for one in found] == [True, True, False, False]
    assert [one.p_holm for one in found[:3]] == pytest.approx([0.02, 0.04, 0.003])
    assert found[3].p_holm is None


def test_the_variance_between_seeds_is_added():
    rng = np.random.default_rng(0)
    targets, shared = rng.integers(0, 2, 200), rng.normal(size=(200, 2))
    seeds = [model(rng, shared, targets, strength, 0.1) for strength in (0.5, 1.0, 1.5)]
    other = model(rng, shared, targets, 1.0, 0.1)
    resampling = Resampling.of(other)
    values, resampled = score_all([*seeds, other], resampling, 400, 0)
    scale = Scale(other, resampling, 0.95)
    several, one = Score.of(seeds[0], values[:3], resampled[:3]), Score.of(other, values[3:], resampled[3:])
    found = scale.difference("log_loss", several, one)
    m = compared().index("log_loss")
    assert found.value == pytest.approx(values[:3, m].mean() - values[3, m])
    assert found.test == "paired bootstrap and seeds"
    between = values[:3, m].var(ddof=1) / 3
    cases = (resampled[:3, :, m].mean(axis=0) - resampled[3, :, m]).var(ddof=1) * 200 / 199
    # Nearly all of it is between seeds, so that Student's t has little more than two degrees of freedom.
    assert between > 5 * cases
    assert (found.high - found.value) / np.sqrt(between + cases) == pytest.approx(4.1, abs=0.3)
    estimate = scale.estimate("accuracy", several)
    assert estimate.low < estimate.value < estimate.high


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "group_size"), [(1, 1), (1, 4), (3, 1)])
def test_intervals_of_differences_cover(seeds, group_size):
    """Models of one distribution: every true difference is 0, so that p-values are uniform and intervals hold 0."""
    rng = np.random.default_rng(seeds + group_size)
    units, rounds = 160, 400
    n = units * group_size
    differences = {name: [] for name in compared()}
    for _ in range(rounds):
        targets = np.repeat(rng.integers(0, 2, units), group_size)
        shared = np.repeat(rng.normal(size=(units, 2)), group_size, axis=0)
        groups = None if group_size == 1 else np.repeat(np.arange(units), group_size)
        models = []
        for _ in range(2):
            # What a model sees alike in all cases of a group, and what a seed does to all cases.
            own = np.repeat(rng.normal(size=(units, 2)), group_size, axis=0)
            strengths = 1.0 + (0.3 * rng.normal(size=seeds) if seeds > 1 else np.zeros(1))
            models += [model(rng, shared + own, targets, strength, 0.3, groups) for strength in strengths]
        assert len(models[0].ids) == n
        resampling = Resampling.of(models[0])
        values, resampled = score_all(models, resampling, 200, 0)
        scale = Scale(models[0], resampling, 0.95)
        first = Score.of(models[0], values[:seeds], resampled[:seeds])
        second = Score.of(models[seeds], values[seeds:], resampled[seeds:])
        for name in compared():
            differences[name].append(scale.difference(name, first, second))
    for name, found in differences.items():
        covered = np.mean([one.low <= 0 <= one.high for one in found])
        assert 0.91 <= covered <= 0.995, (name, covered)
        if found[0].test != "McNemar":
            assert kstest([one.p for one in found], "uniform").pvalue > 1e-3, name
