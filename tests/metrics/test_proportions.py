import numpy as np
import pytest
from scipy.stats import binomtest

from medvision.metrics.bootstrap import Resampling
from medvision.metrics.intervals import from_resamples
from medvision.metrics.proportions import Proportion, proportions, resampled_proportions, resampled_sums


def counted(n, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "all": Proportion(rng.random(n) < 0.8, np.ones(n, bool), "none"),
        "some": Proportion(rng.random(n) < 0.8, rng.random(n) < 0.4, "none"),
    }


def test_independent_samples_have_wilsons_interval_of_the_trials(make_predictions):
    shares = counted(90)

    found = proportions(Resampling.of(make_predictions(90)), shares, 0.9, 100, 0)

    for name, (successes, trials, _) in shares.items():
        hits, n = int((successes & trials).sum()), int(trials.sum())
        ends = binomtest(hits, n).proportion_ci(0.9, method="wilson")
        assert (found[name].value, found[name].n) == (hits / n, n)
        assert (found[name].low, found[name].high) == pytest.approx((ends.low, ends.high), abs=1e-12)


def test_no_trials_are_undefined_with_the_reason_given(make_predictions):
    none = {"x": Proportion(np.ones(9, bool), np.zeros(9, bool), "nobody was asked")}

    for groups in (None, ["a"] * 9):
        found = proportions(Resampling.of(make_predictions(9, groups=groups)), none, 0.95, 50, 0)["x"]
        assert found.to_json() == {"value": None, "low": None, "high": None, "n": 0, "reason": "nobody was asked"}


def test_groups_are_resampled_whole(make_predictions):
    groups = np.arange(80) // 4
    resampling, shares = Resampling.of(make_predictions(80, groups=groups)), counted(80)

    found = proportions(resampling, shares, 0.95, 3000, 0)["some"]

    rng, values = np.random.default_rng(9), []
    successes, trials, _ = shares["some"]
    for _ in range(3000):
        rows = np.concatenate([np.arange(4) + 4 * g for g in rng.integers(0, 20, 20)])
        values.append((successes & trials)[rows].sum() / trials[rows].sum())
    assert (found.low, found.high) == pytest.approx(from_resamples(found.value, np.array(values), 20, 0.95), abs=0.012)


def test_sums_of_resamples_are_those_of_the_samples_drawn(make_predictions):
    groups = [f"p{i // 3}" if i < 30 else "" for i in range(60)]
    resampling = Resampling.of(make_predictions(60, groups=groups))
    columns = np.random.default_rng(0).random((60, 3))

    found = resampled_sums(resampling, np.column_stack([columns, np.ones(60)]), 4000, 0)

    means = columns.sum(axis=0)
    np.testing.assert_allclose(found[:, :3].mean(axis=0), means, rtol=0.01)
    # Ten groups of three and thirty alone: forty units a resample.
    assert set((found[:, 3] - 40) % 2) == {0.0}
    units = np.concatenate([np.arange(30) // 3, 10 + np.arange(30)])
    by_unit = np.stack([np.bincount(units, weights=column) for column in columns.T])
    np.testing.assert_allclose(found[:, :3].std(axis=0), by_unit.std(axis=1) * np.sqrt(40), rtol=0.05)


def test_a_perfect_proportion_is_as_sure_as_its_groups_are_many(make_predictions):
    resampling = Resampling.of(make_predictions(50, groups=np.arange(50) // 5))
    perfect = {"x": Proportion(np.ones(50, bool), np.arange(50) < 25, "none")}

    found = proportions(resampling, perfect, 0.95, 100, 0)["x"]

    assert found.low == pytest.approx(binomtest(5, 5).proportion_ci(method="wilson").low)


def test_equal_seeds_give_equal_resamples(make_predictions):
    resampling, shares = Resampling.of(make_predictions(40, groups=np.arange(40) // 2)), counted(40)

    once, again = (resampled_proportions(resampling, shares, 30, 5)["all"] for _ in range(2))

    np.testing.assert_array_equal(once, again)
    assert (resampled_proportions(resampling, shares, 30, 6)["all"] != once).any()
