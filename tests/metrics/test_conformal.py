import numpy as np
import pytest
from mapie.classification import SplitConformalClassifier
from sklearn.base import BaseEstimator, ClassifierMixin

from medvision.errors import ConfigError
from medvision.metrics.conformal import conformalise, evaluate_sets, sets
from medvision.metrics.estimates import Key
from medvision.metrics.intervals import wilson


class Given(ClassifierMixin, BaseEstimator):
    """A classifier whose features are its probabilities, for mapie."""

    def __init__(self, k=3):
        self.k = k
        self.classes_ = np.arange(k)

    def fit(self, features, targets):
        return self

    def predict_proba(self, features):
        return features

    def predict(self, features):
        return features.argmax(axis=1)

    def __sklearn_is_fitted__(self):
        return True


@pytest.mark.parametrize("k", [2, 3, 5])
@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9, 0.99])
def test_the_sets_are_mapies(make_predictions, k, coverage):
    calibration, test = make_predictions(150, k, seed=1), make_predictions(200, k, seed=2)
    mapie = SplitConformalClassifier(Given(k), confidence_level=coverage, conformity_score="lac", prefit=True)
    mapie.conformalize(calibration.probs, calibration.targets)

    found = sets(test.probs, conformalise(calibration, coverage).quantile)

    np.testing.assert_array_equal(found, mapie.predict_set(test.probs)[1][:, :, 0])


@pytest.mark.parametrize(("n", "coverage", "rank"), [(9, 0.9, 9), (19, 0.95, 19), (99, 0.9, 90), (100, 0.9, 91)])
def test_the_quantile_is_an_order_statistic(make_predictions, n, coverage, rank):
    calibration = make_predictions(n, 3)

    found = conformalise(calibration, coverage)

    scores = np.sort(1 - calibration.probs[np.arange(n), calibration.targets])
    assert (found.quantile, found.n, found.reason) == (scores[rank - 1], n, None)
    assert found.to_json() == {"coverage": coverage, "quantile": scores[rank - 1]}


@pytest.mark.parametrize(("n", "coverage", "needed"), [(8, 0.9, 9), (18, 0.95, 19), (1, 0.99, 99), (2, 0.7, 3)])
def test_too_few_cases_give_no_quantile_but_a_reason(make_predictions, n, coverage, needed):
    found = conformalise(make_predictions(n, 2), coverage)

    assert found.quantile is found.to_json() is None
    assert found.reason == f"a coverage of {coverage} needs at least {needed} calibration cases; there are {n}"
    assert conformalise(make_predictions(needed, 2), coverage).quantile is not None


@pytest.mark.parametrize("coverage", [0.0, 1.0, float("nan")])
def test_a_coverage_is_a_share(make_predictions, coverage):
    with pytest.raises(ConfigError, match="coverage"):
        conformalise(make_predictions(50), coverage)


@pytest.mark.parametrize(("n", "coverage"), [(19, 0.9), (60, 0.8), (200, 0.95)])
def test_a_new_case_is_covered_as_often_as_stated(make_predictions, n, coverage):
    covered = []
    for seed in range(500):
        both = make_predictions(n + 40, 3, seed=seed)
        quantile = conformalise(both.take(np.arange(n)), coverage).quantile
        test = both.take(np.arange(n, n + 40))
        covered.append(sets(test.probs, quantile)[np.arange(40), test.targets].mean())

    # At least the coverage, at most 1 / (n + 1) more; three standard errors either way.
    error = 3 * np.std(covered) / np.sqrt(len(covered))
    assert coverage - error < np.mean(covered) < coverage + 1 / (n + 1) + error


def test_what_is_counted(make_predictions):
    predictions = make_predictions(120, 3)
    chosen = sets(predictions.probs, 0.7)
    covered = chosen[np.arange(120), predictions.targets]

    found = evaluate_sets(predictions, 0.7)

    assert list(found) == [
        *(Key("coverage"), *(Key("coverage", f"class {c}") for c in range(3))),
        *(Key("set_size"), Key("single")),
    ]
    assert found[Key("coverage")].value == pytest.approx(covered.mean())
    assert (found[Key("coverage")].low, found[Key("coverage")].high) == wilson(covered.sum(), 120, 0.95)
    ours = predictions.targets == 1
    assert (found[Key("coverage", "class 1")].value, found[Key("coverage", "class 1")].n) == (
        covered[ours].mean(),
        ours.sum(),
    )
    assert found[Key("single")].value == pytest.approx((chosen.sum(axis=1) == 1).mean())
    assert found[Key("set_size")].value == pytest.approx(chosen.sum(axis=1).mean())


def test_the_size_of_sets_has_the_standard_error_of_a_mean(make_predictions):
    predictions = make_predictions(2000, 4, spread=1.0)
    sizes = sets(predictions.probs, 0.8).sum(axis=1)

    found = evaluate_sets(predictions, 0.8, n_resamples=4000)[Key("set_size")]

    assert (found.high - found.low) / 2 == pytest.approx(1.96 * sizes.std() / np.sqrt(2000), rel=0.06)
    assert evaluate_sets(predictions, 0.8, n_resamples=4000)[Key("set_size")] == found


def test_sets_that_are_all_equal_have_an_interval(make_predictions):
    found = evaluate_sets(make_predictions(50, 3), 1.0)

    assert (found[Key("set_size")].value, found[Key("set_size")].high) == (3.0, 3.0)
    assert 2.5 < found[Key("set_size")].low < 3
    assert found[Key("single")].value == 0.0


def test_groups_widen_the_intervals(make_predictions):
    few = make_predictions(60, 3)
    rows = np.repeat(np.arange(60), 4)
    copies = make_predictions(240, 3, targets=few.targets[rows])
    copies.probs[:] = few.probs[rows]
    copies.groups[:] = ""

    alone = evaluate_sets(copies, 0.7)
    grouped = evaluate_sets(make_grouped(copies, rows), 0.7)

    for name in (Key("coverage"), Key("set_size"), Key("single")):
        assert grouped[name].value == pytest.approx(alone[name].value)
        assert 1.6 < (grouped[name].high - grouped[name].low) / (alone[name].high - alone[name].low) < 2.5


def make_grouped(predictions, groups):
    return type(predictions)(
        predictions.ids,
        groups.astype(str),
        predictions.targets,
        predictions.logits,
        predictions.probs,
        predictions.task,
    )


def test_a_class_without_cases_has_no_coverage(make_predictions):
    found = evaluate_sets(make_predictions(30, 3, targets=np.arange(30) % 2), 0.7)

    assert found[Key("coverage", "class 2")].value is None
    assert found[Key("coverage", "class 2")].reason == "no sample of this class"
