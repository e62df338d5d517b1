import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve

from medvision.errors import ConfigError, DataError
from medvision.metrics.calibration import COLDEST, HOTTEST, fit_temperature, reliability
from medvision.metrics.predictions import softmax


def log_loss(logits, targets, temperature):
    return -log_softmax(logits / temperature, axis=1)[np.arange(len(targets)), targets].mean()


def noisy(n=400, k=3, scale=1.0, seed=0):
    """Logits of which `scale` is the right temperature."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, k)) * 2
    targets = np.array([rng.choice(k, p=p) for p in softmax(logits)])
    return logits * scale, targets


@pytest.mark.parametrize("k", [2, 3, 10])
@pytest.mark.parametrize("scale", [0.3, 1.0, 5.0])
def test_the_temperature_minimises_the_log_loss(k, scale):
    logits, targets = noisy(k=k, scale=scale)

    found = fit_temperature(logits, targets)

    best = minimize_scalar(
        lambda log_t: log_loss(logits, targets, np.exp(log_t)),
        bounds=(-3, 4),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert found == pytest.approx(np.exp(best.x), rel=1e-6)
    assert found == pytest.approx(scale, rel=0.25)


def test_lbfgs_finds_the_same_temperature():
    logits, targets = noisy(scale=3.0)
    temperature = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([temperature], lr=0.5, max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-14)

    def closure():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(torch.from_numpy(logits) / temperature, torch.from_numpy(targets))
        loss.backward()
        return loss

    optimizer.step(closure)

    assert fit_temperature(logits, targets) == pytest.approx(temperature.item(), rel=1e-6)


def test_temperature_scales_with_the_logits_and_ignores_what_is_added_to_all_of_a_row():
    logits, targets = noisy()
    once = fit_temperature(logits, targets)

    assert fit_temperature(7 * logits, targets) == pytest.approx(7 * once, rel=1e-8)
    shifted = logits + np.random.default_rng(1).normal(size=(len(logits), 1)) * 1e3
    assert fit_temperature(shifted, targets) == pytest.approx(once, rel=1e-8)


@given(st.lists(st.tuples(st.integers(0, 2), st.lists(st.floats(-50, 50), min_size=3, max_size=3)), min_size=1))
def test_no_temperature_nearby_is_better(cases):
    targets, logits = np.array([c[0] for c in cases]), np.array([c[1] for c in cases])

    found = fit_temperature(logits, targets)

    assert COLDEST <= found <= HOTTEST
    wrong = logits[np.arange(len(targets)), targets] < logits.max(axis=1)
    if wrong.any():
        for other in (found * 0.99, found * 1.01):
            if COLDEST <= other <= HOTTEST:
                assert log_loss(logits, targets, found) <= log_loss(logits, targets, other) + 1e-9


def test_without_an_error_the_temperature_stays_as_it_is():
    logits = np.eye(3)[[0, 1, 2, 2]] * 4

    assert fit_temperature(logits, np.array([0, 1, 2, 2])) == 1.0
    assert fit_temperature(np.zeros((5, 3)), np.zeros(5, int)) == 1.0


def test_logits_that_are_always_wrong_are_flattened_as_far_as_allowed():
    assert fit_temperature(np.eye(2)[[0] * 9], np.ones(9, int)) == HOTTEST


def test_one_error_among_very_timid_logits_stops_at_the_lower_bound():
    logits = np.full((1000, 2), [0.0, 0.001])

    assert fit_temperature(logits, np.array([1] * 999 + [0])) == COLDEST


def test_a_class_without_cases_is_no_obstacle():
    logits, targets = noisy(k=4)
    few = targets < 2

    found = fit_temperature(logits[few], targets[few])

    assert log_loss(logits[few], targets[few], found) < log_loss(logits[few], targets[few], found * 1.1)


@pytest.mark.parametrize(
    ("logits", "targets", "said"),
    [
        (np.zeros((0, 2)), np.zeros(0, int), "found"),
        (np.zeros((3, 1)), np.zeros(3, int), "found"),
        (np.zeros((3, 2)), np.zeros(2, int), "found"),
        (np.array([[0, 1], [np.nan, 0]]), np.zeros(2, int), "row 1"),
        (np.zeros((2, 2)), np.array([0, 2]), "row 1"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(logits, targets, said):
    with pytest.raises(DataError, match=said):
        fit_temperature(logits, targets)


def test_reliability_is_scikit_learns_calibration_curve_with_scipys_intervals():
    logits, targets = noisy(n=500, k=3)
    probs = softmax(logits)

    found = reliability(probs, targets, n_bins=8, confidence_level=0.9)

    observed, predicted = calibration_curve(probs.argmax(axis=1) == targets, probs.max(axis=1), n_bins=8)
    some = found.counts > 0
    np.testing.assert_allclose(found.observed[some], observed, atol=1e-12)
    np.testing.assert_allclose(found.predicted[some], predicted, atol=1e-12)
    for b, share in zip(np.flatnonzero(some), observed, strict=True):
        n = int(found.counts[b])
        ends = binomtest(round(share * n), n).proportion_ci(0.9, method="wilson")
        np.testing.assert_allclose([found.low[b], found.high[b]], [ends.low, ends.high], atol=1e-12)


def test_reliability_compares_confidence_with_accuracy():
    logits, targets = noisy(n=300, k=4)
    probs = softmax(logits)

    found = reliability(probs, targets, n_bins=10)

    confidence, right = probs.max(axis=1), probs.argmax(axis=1) == targets
    inside = (confidence > found.edges[4]) & (confidence <= found.edges[5])
    assert found.counts[4] == inside.sum() > 0
    assert found.predicted[4] == pytest.approx(confidence[inside].mean())
    assert found.observed[4] == pytest.approx(right[inside].mean())
    assert found.counts.sum() == 300
    # No confidence over four classes is below a quarter.
    assert np.isnan([found.predicted[0], found.observed[0], found.low[0], found.high[0]]).all()


def test_probabilities_of_zero_and_one_have_their_bins():
    certain = np.array([[1.0, 0.0], [0.0, 1 + 1e-16], [0.5, 0.5]])

    found = reliability(certain, np.array([0, 0, 1]), n_bins=4)

    assert found.counts.tolist() == [0, 1, 0, 2]


def test_reliability_refuses_what_it_cannot_count():
    with pytest.raises(ConfigError, match="bin"):
        reliability(np.full((2, 2), 0.5), np.array([0, 1]), n_bins=0)
