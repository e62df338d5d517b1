import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from scipy.special import expit, logit
from sklearn import metrics as sk

from medvision.errors import ConfigError
from medvision.metrics.confusion import macro
from medvision.metrics.definitions import METRICS, Metric, add_metrics, metrics_of
from medvision.metrics.probabilities import Confidences, Recalibration, brier_scores, log_losses, true_class_ranks
from medvision.tasks import Task

EXACT = {"rtol": 0, "atol": 1e-12}


@st.composite
def probs_and_targets(draw, fewest=2):
    """Few distinct values, so that ties abound; few samples, so that classes are absent or never predicted."""
    k, n = draw(st.integers(fewest, fewest + 2)), draw(st.integers(1, 25))
    weights = np.array(draw(st.lists(st.lists(st.integers(0, 3), min_size=k, max_size=k), min_size=n, max_size=n)))
    weights = weights + (weights.sum(axis=1, keepdims=True) == 0)
    targets = np.array(draw(st.lists(st.integers(0, k - 1), min_size=n, max_size=n)))
    return weights / weights.sum(axis=1, keepdims=True), targets


@settings(deadline=None, max_examples=50)
@given(probs_and_targets())
def test_metrics_of_labels_are_scikit_learns(case):
    probs, targets = case
    k, preds = probs.shape[1], probs.argmax(axis=1)
    matrix = sk.confusion_matrix(targets, preds, labels=range(k))
    actual, predicted = matrix.sum(axis=1) > 0, matrix.sum(axis=0) > 0

    def by_class(score, defined):
        values = score(targets, preds, labels=range(k), average=None, zero_division=0)
        return np.where(defined, values, np.nan)

    np.testing.assert_allclose(METRICS["accuracy"](probs, targets), sk.accuracy_score(targets, preds), **EXACT)
    np.testing.assert_allclose(METRICS["sensitivity"](probs, targets), by_class(sk.recall_score, actual), **EXACT)
    np.testing.assert_allclose(METRICS["ppv"](probs, targets), by_class(sk.precision_score, predicted), **EXACT)
    np.testing.assert_allclose(METRICS["f1"](probs, targets), by_class(sk.f1_score, actual), **EXACT)
    expected = by_class(sk.recall_score, actual)[actual].mean()
    np.testing.assert_allclose(METRICS["balanced_accuracy"](probs, targets), expected, **EXACT)
    for c in range(k):
        others, others_predicted = targets != c, preds != c
        specificity = sk.recall_score(others, others_predicted, zero_division=0) if others.any() else np.nan
        npv = sk.precision_score(others, others_predicted, zero_division=0) if others_predicted.any() else np.nan
        np.testing.assert_allclose(METRICS["specificity"](probs, targets)[c], specificity, **EXACT)
        np.testing.assert_allclose(METRICS["npv"](probs, targets)[c], npv, **EXACT)
    varied = actual.sum() > 1 and predicted.sum() > 1
    mcc = sk.matthews_corrcoef(targets, preds) if varied else np.nan
    np.testing.assert_allclose(METRICS["mcc"](probs, targets), mcc, **EXACT)
    if (actual | predicted).sum() > 1:
        for found, weights in ((METRICS["kappa"], None), (METRICS["kappa_quadratic"], "quadratic")):
            expected = sk.cohen_kappa_score(targets, preds, labels=range(k), weights=weights)
            np.testing.assert_allclose(found(probs, targets), expected, **EXACT)
    else:
        assert np.isnan([METRICS[name](probs, targets) for name in ("kappa", "kappa_quadratic")]).all()


@settings(deadline=None, max_examples=50)
@given(probs_and_targets())
def test_metrics_of_ranks_are_scikit_learns(case):
    probs, targets = case
    for c in range(probs.shape[1]):
        positive = targets == c
        both = positive.any() and not positive.all()
        auroc = sk.roc_auc_score(positive, probs[:, c]) if both else np.nan
        average_precision = sk.average_precision_score(positive, probs[:, c]) if both else np.nan
        np.testing.assert_allclose(METRICS["auroc"](probs, targets)[c], auroc, **EXACT)
        np.testing.assert_allclose(METRICS["average_precision"](probs, targets)[c], average_precision, **EXACT)


@settings(deadline=None)
@given(probs_and_targets())
def test_proper_scores_are_scikit_learns(case):
    probs, targets = case
    labels = range(probs.shape[1])

    np.testing.assert_allclose(METRICS["log_loss"](probs, targets), sk.log_loss(targets, probs, labels=labels), **EXACT)
    stated = probs[:, 1] if probs.shape[1] == 2 else probs
    np.testing.assert_allclose(
        METRICS["brier"](probs, targets), sk.brier_score_loss(targets, stated, labels=list(labels)), **EXACT
    )


@settings(deadline=None)
@given(probs_and_targets(fewest=3), st.integers(1, 4))
def test_top_k_is_scikit_learns_where_equal_classes_come_last_first(case, k):
    """Of equal classes scikit-learn takes the last one; ours takes the first, as the prediction does."""
    probs, targets = case
    num_classes = probs.shape[1]

    expected = (
        sk.top_k_accuracy_score(num_classes - 1 - targets, probs[:, ::-1], k=k, labels=range(num_classes))
        if (k < num_classes)
        else 1.0
    )

    np.testing.assert_allclose((true_class_ranks(probs, targets) < k).mean(), expected, **EXACT)
    if k in (2, 3) and k < num_classes:
        np.testing.assert_allclose(METRICS[f"top_{k}"](probs, targets), expected, **EXACT)


@pytest.mark.parametrize("k", [2, 3])
def test_a_certain_mistake_costs_as_much_as_in_scikit_learn(k):
    probs, targets = np.eye(k)[[0, 1, 0]], np.array([0, 1, 1])

    assert METRICS["log_loss"](probs, targets) == pytest.approx(sk.log_loss(targets, probs, labels=range(k)), abs=1e-12)
    assert log_losses(probs, targets)[:2].tolist() == [0, 0]
    assert brier_scores(probs, targets).tolist() == [0, 0, 1 if k == 2 else 2]


@settings(deadline=None)
@given(probs_and_targets(), st.integers(1, 15))
def test_calibration_error_is_the_sum_over_its_bins(case, n_bins):
    probs, targets = case
    confidence, right = probs.max(axis=1), probs.argmax(axis=1) == targets

    expected = 0.0
    for b in range(n_bins):
        # Edges by the same product of whole numbers as the bins, so that a confidence on an edge goes one way.
        inside = (np.ceil(confidence * n_bins) == b + 1) | ((b == 0) & (confidence == 0))
        if inside.any():
            expected += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())

    assert Confidences.of(probs, targets, n_bins).error() == pytest.approx(expected, abs=1e-12)
    assert Confidences.of(probs, targets, n_bins).bins.max() < n_bins
    if n_bins == 15:
        assert METRICS["ece"](probs, targets) == pytest.approx(expected, abs=1e-12)


def event_of(probs, targets):
    if probs.shape[1] == 2:
        return logit(probs[:, 1]), targets == 1
    return logit(probs.max(axis=1)), probs.argmax(axis=1) == targets


@pytest.mark.parametrize("k", [2, 4])
def test_slope_and_intercept_maximise_the_likelihood(make_predictions, k):
    predictions = make_predictions(300, k)
    logits, event = event_of(predictions.probs, predictions.targets)

    def cost(intercept, slope):
        return np.logaddexp(0, -np.where(event, 1, -1) * (intercept + slope * logits)).sum()

    both = optimize.minimize(lambda b: cost(*b), [0, 1], tol=1e-12)
    alone = optimize.minimize_scalar(lambda a: cost(a, 1), tol=1e-12)
    assert METRICS["calibration_slope"](predictions.probs, predictions.targets) == pytest.approx(both.x[1], abs=1e-4)
    assert METRICS["calibration_intercept"](predictions.probs, predictions.targets) == pytest.approx(alone.x, abs=1e-6)


def test_what_was_made_too_extreme_has_the_slope_that_mends_it():
    rng = np.random.default_rng(0)
    true = rng.normal(size=200_000)
    targets = (rng.random(len(true)) < expit(true)).astype(int)
    stated = expit(2 * true)

    assert METRICS["calibration_slope"](np.stack([1 - stated, stated], 1), targets) == pytest.approx(0.5, abs=0.01)
    stated = expit(true + 0.7)
    assert METRICS["calibration_intercept"](np.stack([1 - stated, stated], 1), targets) == pytest.approx(-0.7, abs=0.02)


@pytest.mark.parametrize("k", [2, 3])
def test_the_influence_of_a_sample_is_what_counting_it_twice_does(make_predictions, k):
    predictions = make_predictions(400, k)
    whole = Recalibration.of(predictions.probs, predictions.targets)

    for row in (0, 17, 300):
        rows = np.r_[np.arange(400), row]
        more = Recalibration.of(predictions.probs[rows], predictions.targets[rows])
        assert more.slope - whole.slope == pytest.approx(whole.slope_influence[row], rel=0.1, abs=1e-4)
        assert more.intercept - whole.intercept == pytest.approx(whole.intercept_influence[row], rel=0.1, abs=1e-4)


@pytest.mark.parametrize(
    ("stated", "targets", "why"),
    [
        ([0.2, 0.7, 0.9], [1, 1, 1], "only one class is present"),
        ([0.5, 0.5, 0.5], [0, 1, 1], "all probabilities are equal"),
        ([0.2, 0.4, 0.9], [0, 0, 1], "separate"),
        ([0.2, 0.4, 0.4], [0, 0, 1], "separate"),
        ([0.9, 0.4, 0.3], [0, 1, 1], "separate"),
    ],
)
def test_a_slope_that_does_not_exist_is_undefined(stated, targets, why):
    stated = np.array(stated)

    found = Recalibration.of(np.stack([1 - stated, stated], axis=1), np.array(targets))

    assert np.isnan(found.slope)
    assert why in found.slope_reason
    assert np.isnan(found.intercept) == (found.intercept_reason is not None) == all(targets)


def test_with_more_classes_calibration_needs_a_wrong_prediction():
    found = Recalibration.of(np.full((3, 3), 0.1) + 0.7 * np.eye(3), np.arange(3))

    assert found.slope_reason == found.intercept_reason == "every prediction is right"


@settings(deadline=None, max_examples=100)
@given(probs_and_targets())
def test_calibration_of_anything_is_finite_or_undefined(case):
    found = Recalibration.of(*case)

    assert np.isfinite(found.slope) == (found.slope_reason is None)
    assert np.isfinite(found.intercept) == (found.intercept_reason is None)
    assert np.isfinite(found.slope_influence).all()


def test_a_class_without_samples_is_left_out_of_the_mean():
    np.testing.assert_array_equal(macro(np.array([[1.0, np.nan, 0.5], [np.nan] * 3])), [0.75, np.nan])


def test_every_record_says_what_it_is():
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.label
        assert metric.meaning.endswith(".")
        assert (metric.function is None) == (metric.statistic is None) == (metric.section == "")
        assert metric.mean_of is None or METRICS[metric.mean_of].per_class
        assert metric.bounds_of(3)[0] < metric.bounds_of(3)[1]
    assert {metric.name for metric in metrics_of(Task.classes("ab"))} < {
        m.name for m in metrics_of(Task.classes("abcdef"))
    }


def test_a_metric_of_another_package_is_entered_once(monkeypatch):
    monkeypatch.setattr("medvision.metrics.definitions.METRICS", METRICS.copy())
    mine = Metric("informedness", "Informedness", "Sensitivity plus specificity less 1.", "labels", lambda tally: tally)
    add_metrics([mine])
    add_metrics([mine])
    with pytest.raises(ConfigError, match="informedness"):
        add_metrics([Metric("informedness", "Another", "Another.", "labels", lambda tally: tally)])
    with pytest.raises(ConfigError, match="accuracy"):
        add_metrics([Metric("accuracy", "Mine", "Mine.", "labels", lambda tally: tally)])
    with pytest.raises(ConfigError, match="Metric"):
        add_metrics(["accuracy"])
