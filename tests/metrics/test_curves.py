import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from medvision.errors import ConfigError, DataError
from medvision.metrics import curves, selective
from medvision.metrics.curves import MAX_POINTS, thin


def noisy(n=300, decimals=12, seed=0, prevalence=0.3):
    rng = np.random.default_rng(seed)
    positive = rng.random(n) < prevalence
    return rng.beta(2 + 2 * positive, 3).round(decimals), positive


@pytest.mark.parametrize("decimals", [1, 12])
def test_roc_is_scikit_learns(decimals):
    scores, positive = noisy(decimals=decimals)

    found = curves.roc(scores, positive)

    false_rate, true_rate, thresholds = sk.roc_curve(positive, scores, drop_intermediate=False)
    for rate, other, threshold in zip(*found, strict=True):
        at = np.flatnonzero(thresholds == threshold)[0]
        assert (rate, other) == (false_rate[at], true_rate[at])
    # What is left out lies on the lines between what is kept.
    assert sk.auc(found.false_positive_rate, found.true_positive_rate) == pytest.approx(
        sk.auc(false_rate, true_rate), abs=1e-9
    )
    assert (found.false_positive_rate[0], found.true_positive_rate[-1], found.thresholds[0]) == (0, 1, np.inf)


@pytest.mark.parametrize("decimals", [1, 12])
def test_precision_and_recall_are_scikit_learns(decimals):
    scores, positive = noisy(decimals=decimals)

    found = curves.precision_recall(scores, positive)

    precision, recall, thresholds = sk.precision_recall_curve(positive, scores)
    for one, other, threshold in zip(found.recall, found.precision, found.thresholds, strict=True):
        at = np.flatnonzero(thresholds == threshold)[0]
        assert (one, other) == pytest.approx((recall[at], precision[at]), abs=1e-15)
    assert found.recall[-1] == 1.0
    assert found.prevalence == positive.mean()


def test_decision_curve_is_the_definition():
    scores, positive = noisy(decimals=2)

    found = curves.decision_curve(scores, positive)

    for t, model, everyone, nobody in zip(*found, strict=True):
        treated = scores >= t
        odds = t / (1 - t)
        assert model == pytest.approx((treated & positive).mean() - (treated & ~positive).mean() * odds, abs=1e-12)
        assert everyone == pytest.approx(positive.mean() - (~positive).mean() * odds, abs=1e-12)
        assert nobody == 0
    assert found.thresholds == pytest.approx(np.linspace(0.01, 0.99, 99))


def test_decision_curve_at_another_prevalence_is_that_of_a_reweighted_set():
    scores, positive = noisy(n=3000)
    rows = np.concatenate([np.flatnonzero(positive)] * 2 + [np.flatnonzero(~positive)])

    found = curves.decision_curve(scores, positive, prevalence=float(positive[rows].mean()))

    np.testing.assert_allclose(found.model, curves.decision_curve(scores[rows], positive[rows]).model, atol=1e-12)


def test_a_perfect_model_is_worth_its_prevalence_at_every_threshold():
    positive = np.arange(10) < 3

    found = curves.decision_curve(positive.astype(float), positive)

    np.testing.assert_allclose(found.model, 0.3)
    assert (found.treat_all <= found.model).all()


def test_confusion_is_scikit_learns(make_predictions):
    predictions = make_predictions(200, 4, targets=np.arange(200) % 3)

    found = curves.confusion(predictions.targets, predictions.preds, 4)

    labels = range(4)
    np.testing.assert_array_equal(
        found.counts, sk.confusion_matrix(predictions.targets, predictions.preds, labels=labels)
    )
    np.testing.assert_allclose(found.rates[:3].sum(axis=1), 1)
    assert found.rates[1, 2] == found.counts[1, 2] / found.counts[1].sum()
    assert np.isnan(found.rates[3]).all()


def test_histogram_counts_each_side():
    found = curves.histogram(np.array([0.0, 0.1, 0.5, 1.0, 1 + 1e-9]), np.array([False, True, True, True, False]), 2)

    assert (found.positive.tolist(), found.negative.tolist()) == ([1, 2], [1, 1])
    assert found.edges.tolist() == [0, 0.5, 1]


def test_risk_coverage_is_thinned(make_predictions):
    predictions = make_predictions(3000, 3)

    found, full = curves.risk_coverage(predictions), selective.risk_coverage(predictions)

    assert len(found.risk) <= MAX_POINTS < len(full.risk)
    late = full.coverage > 0.05
    assert np.abs(np.interp(full.coverage, *found) - full.risk)[late].max() < 0.005


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=40))
def test_thinning_without_a_limit_keeps_the_line(points):
    x, y = np.sort([p[0] for p in points]) / 9, np.sort([p[1] for p in points]) / 9

    kept = thin(x, y)

    assert kept[0] == 0
    assert kept[-1] == len(points) - 1
    assert (np.diff(kept) > 0).all()
    for i in range(len(x)):
        assert min(distance((x[i], y[i]), *ends) for ends in segments(x[kept], y[kept])) < 1e-8


def segments(x, y):
    points = list(zip(x, y, strict=True))
    return list(pairwise(points)) or [(points[0], points[0])]


def distance(point, start, end):
    point, start, end = map(np.array, (point, start, end))
    length = np.sum((end - start) ** 2)
    along = np.clip((point - start) @ (end - start) / length, 0, 1) if length else 0
    return np.linalg.norm(start + along * (end - start) - point)


def test_thinning_keeps_corners():
    x = np.concatenate([np.linspace(0, 0.3, 500), np.full(500, 0.3), np.linspace(0.3, 1, 500)])
    y = np.concatenate([np.zeros(500), np.linspace(0, 0.8, 500), np.full(500, 0.8)])

    kept = thin(x, y, max_points=4)

    np.testing.assert_allclose(np.stack([x, y])[:, kept], [[0, 0.3, 0.3, 1], [0, 0, 0.8, 0.8]])


@pytest.mark.parametrize(
    ("curve", "said"), [(curves.roc, "side"), (curves.decision_curve, "side"), (curves.precision_recall, "none")]
)
def test_a_side_that_is_empty_is_refused(curve, said):
    with pytest.raises(DataError, match=said):
        curve(np.array([0.2, 0.7]), np.array([False, False]))


def test_thresholds_and_prevalences_are_shares():
    scores, positive = noisy()
    with pytest.raises(ConfigError):
        curves.decision_curve(scores, positive, thresholds=np.array([0.5, 1.0]))
    with pytest.raises(ConfigError):
        curves.decision_curve(scores, positive, prevalence=1.5)
    with pytest.raises(DataError):
        curves.roc(scores, positive[:-1])


@pytest.mark.slow
def test_a_million_cases_are_drawn_from_few_points_in_two_seconds_each(make_predictions):
    scores, positive = noisy(n=1_000_000)
    for curve in (curves.roc, curves.precision_recall, curves.decision_curve, curves.histogram):
        begin = time.perf_counter()
        found = curve(scores, positive)
        assert time.perf_counter() - begin < 2
        assert all(len(array) <= MAX_POINTS for array in found if isinstance(array, np.ndarray))
    false_rate, true_rate, _ = sk.roc_curve(positive, scores)
    roc = curves.roc(scores, positive)
    assert np.abs(np.interp(false_rate, roc.false_positive_rate, roc.true_positive_rate) - true_rate).max() < 0.003
    predictions = make_predictions(1_000_000, 2)
    begin = time.perf_counter()
    assert len(curves.risk_coverage(predictions).risk) <= MAX_POINTS
    assert time.perf_counter() - begin < 2
