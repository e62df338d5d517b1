import dataclasses
from itertools import permutations

import numpy as np
import pytest

from medvision.metrics.estimates import Key
from medvision.metrics.selective import risk_coverage, selective


def by_definition(confidence, right):
    """Risk after each case, the most confident first, as the mean over all orders of equally confident cases."""
    risks = []
    for order in permutations(range(len(confidence))):
        if (np.diff(confidence[list(order)]) <= 0).all():
            risks.append(np.cumsum(~right[list(order)]) / np.arange(1, len(right) + 1))
    return np.mean(risks, axis=0)


@pytest.mark.parametrize("seed", range(8))
def test_area_and_accuracies_are_their_definitions_over_all_orders_of_ties(make_predictions, seed):
    predictions = make_predictions(7, 3, spread=0.5, seed=seed, decimals=0)

    risks = by_definition(predictions.probs.max(axis=1), predictions.preds == predictions.targets)
    found = selective(predictions, n_resamples=20)

    assert found[Key("aurc")].value == pytest.approx(risks.mean(), abs=1e-12)
    for percentage, cases in [(80, 6), (90, 6), (95, 7)]:
        assert found[Key(f"accuracy_at_{percentage}")].value == pytest.approx(1 - risks[cases - 1], abs=1e-12)
        assert found[Key(f"accuracy_at_{percentage}")].n == cases


def test_the_curve_has_a_point_after_each_run_of_equal_confidence(make_predictions):
    predictions = make_predictions(5, 2, targets=[1, 1, 0, 0, 1])
    predictions.probs[:, 1] = [0.9, 0.9, 0.7, 0.1, 0.6]
    predictions.probs[:, 0] = 1 - predictions.probs[:, 1]

    found = risk_coverage(predictions)

    np.testing.assert_allclose(found.coverage, [0.6, 0.8, 1.0])
    np.testing.assert_allclose(found.risk, [0, 0.25, 0.2])


def test_the_area_is_the_mean_of_the_curve_where_there_are_no_ties(make_predictions):
    predictions = make_predictions(400, 4)

    assert selective(predictions)[Key("aurc")].value == pytest.approx(risk_coverage(predictions).risk.mean(), abs=1e-12)


def test_confidence_without_meaning_has_the_error_rate_as_its_area(make_predictions):
    predictions = make_predictions(50, 2)
    wrong = (predictions.preds != predictions.targets).mean()
    flat = np.where(predictions.preds == 1, 0.8, 0.2)
    predictions.probs[:] = np.stack([1 - flat, flat], axis=1).round(1)

    found = selective(predictions)

    assert found[Key("aurc")].value == pytest.approx(wrong)
    assert found[Key("accuracy_at_80")].value == pytest.approx(1 - wrong)


def resampled_one_by_one(predictions, n_resamples, seed):
    rng, values = np.random.default_rng(seed), []
    confidence, wrong = predictions.probs.max(axis=1), predictions.preds != predictions.targets
    for _ in range(n_resamples):
        rows = rng.integers(0, len(wrong), len(wrong))
        order = rows[np.argsort(-confidence[rows], kind="stable")]
        risks = np.cumsum(wrong[order]) / np.arange(1, len(wrong) + 1)
        values.append([risks.mean(), risks[round(0.8 * len(wrong)) - 1]])
    return np.std(values, axis=0, ddof=1)


@pytest.mark.parametrize("n", [300, 3000])
def test_intervals_have_the_width_of_the_plain_bootstrap(make_predictions, n):
    predictions = make_predictions(n, 3)

    found = selective(predictions, n_resamples=2000)

    area, risk = resampled_one_by_one(predictions, 1000, seed=1)
    assert (found[Key("aurc")].high - found[Key("aurc")].low) / 3.92 == pytest.approx(area, rel=0.1)
    at_80 = found[Key("accuracy_at_80")]
    assert (at_80.high - at_80.low) / 3.92 == pytest.approx(risk, rel=0.1)


def test_groups_of_copies_widen_the_intervals(make_predictions):
    few = make_predictions(200, 3)
    rows = np.repeat(np.arange(200), 4)
    copies = make_predictions(800, 3, targets=few.targets[rows])
    copies.probs[:] = few.probs[rows]
    grouped = selective(dataclasses.replace(copies, groups=rows.astype(str)))
    alone, once = selective(copies), selective(few)

    for name, estimate in grouped.items():
        assert estimate.value == alone[name].value
        assert 1.6 < (estimate.high - estimate.low) / (alone[name].high - alone[name].low) < 2.5
        assert (estimate.high - estimate.low) == pytest.approx(once[name].high - once[name].low, rel=0.15)


@pytest.mark.parametrize(("spread", "accuracy", "area"), [(50, 1.0, 0.0), (-50, 0.0, 1.0)])
def test_perfect_and_hopeless_models_have_intervals(make_predictions, spread, accuracy, area):
    found = selective(make_predictions(100, 2, spread=spread))

    assert found[Key("accuracy_at_90")].value == accuracy
    assert found[Key("aurc")].value == pytest.approx(area, abs=1e-12)
    for estimate in found.values():
        assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
        assert 0.02 < estimate.high - estimate.low < 0.06


def test_errors_just_past_the_border_are_seen_by_the_interval(make_predictions):
    predictions = make_predictions(100, 2, targets=np.ones(100, int))
    scores = np.linspace(0.99, 0.51, 100)
    scores[80:] = 1 - scores[80:]
    predictions.probs[:] = np.stack([1 - scores, scores], axis=1)

    found = selective(predictions)[Key("accuracy_at_80")]

    assert found.value == found.high == 1.0
    assert found.low < 0.93


def test_a_single_case_and_equal_seeds(make_predictions):
    one = selective(make_predictions(1, 2))
    again = make_predictions(80, 3)

    assert [estimate.n for estimate in one.values()] == [1, 1, 1, 1]
    assert selective(again, seed=3) == selective(again, seed=3)
    assert selective(again, seed=3) != selective(again, seed=4)
