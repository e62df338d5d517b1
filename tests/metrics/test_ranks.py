import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from medvision.metrics.ranks import Ranking

SAMPLES = st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 3)), min_size=1, max_size=30)


@given(SAMPLES)
def test_auroc_is_the_share_of_pairs_in_order(samples):
    scores, positive, counts = (np.array(column) for column in zip(*samples, strict=True))
    ours, theirs = np.repeat(scores, counts * positive), np.repeat(scores, counts * ~positive)
    wins = np.sign(ours[:, None] - theirs[None, :]) / 2 + 0.5

    found = Ranking.of(scores.astype(float), positive).auroc(counts[None].astype(np.uint8))

    np.testing.assert_allclose(found, [wins.mean() if wins.size else np.nan], rtol=0, atol=1e-12)


@given(SAMPLES)
def test_average_precision_is_scikit_learns(samples):
    scores, positive, counts = (np.array(column) for column in zip(*samples, strict=True))
    truth = np.repeat(positive, counts)

    found = Ranking.of(scores.astype(float), positive).average_precision(counts[None].astype(np.uint8))

    both = truth.any() and not truth.all()
    expected = sk.average_precision_score(truth, np.repeat(scores, counts)) if both else np.nan
    np.testing.assert_allclose(found, [expected], rtol=0, atol=1e-12)


@pytest.mark.parametrize("metric", ["auroc", "average_precision"])
def test_units_of_several_samples_are_counted_with_all_of_them(metric):
    rng = np.random.default_rng(0)
    scores, positive, slots = rng.integers(0, 9, 60).astype(float), rng.random(60) < 0.4, rng.integers(0, 20, 60)
    counts = rng.integers(0, 4, (7, 20))

    found = getattr(Ranking.of(scores, positive, slots), metric)(counts)

    np.testing.assert_array_equal(found, getattr(Ranking.of(scores, positive), metric)(counts[:, slots]))


def test_counts_that_add_up_to_more_than_32_bits_hold():
    found = Ranking.of(np.arange(4.0), np.array([False, True, False, True])).auroc(np.full((1, 4), 2**30))

    assert found == [0.75]


def test_a_perfect_ranking_is_exactly_one():
    ranking = Ranking.of(np.arange(999.0), np.arange(999) >= 500)

    assert ranking.auroc(np.ones((1, 999), np.uint8)) == ranking.average_precision(np.ones((1, 999), np.uint8)) == 1
