import numpy as np
import pytest
from sklearn import metrics as sk

from medvision.errors import ConfigError, DataError
from medvision.metrics import curves


def noisy(n=300, decimals=12, seed=0, prevalence=0.3):
    rng = np.random.default_rng(seed)
    positive = rng.random(n) < prevalence
    return rng.beta(2 + 2 * positive, 3).round(decimals), positive


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


def test_a_side_that_is_empty_is_refused():
    with pytest.raises(DataError, match="side"):
        curves.decision_curve(np.array([0.2, 0.7]), np.array([False, False]))


def test_thresholds_and_prevalences_are_shares():
    scores, positive = noisy()
    with pytest.raises(ConfigError):
        curves.decision_curve(scores, positive, thresholds=np.array([0.5, 1.0]))
    with pytest.raises(ConfigError):
        curves.decision_curve(scores, positive, prevalence=1.5)
