import dataclasses

import numpy as np
import pytest
from scipy import stats

from medvision.errors import ConfigError
from medvision.metrics.definitions import METRICS
from medvision.metrics.estimates import Estimate, Key
from medvision.metrics.evaluate import evaluate, evaluate_calibration, why_unreliable
from medvision.metrics.intervals import delong, wilson, wilson_f1
from medvision.metrics.predictions import Predictions
from medvision.tasks import Task

CALIBRATION = ("calibration_slope", "calibration_intercept", "ece", "brier", "log_loss")


def test_names_come_headline_first(make_predictions):
    estimates = evaluate(make_predictions(40, 4), n_resamples=5)

    assert [key for key in estimates if key.class_name is None] == [
        Key(name)
        for name in (
            *("accuracy", "balanced_accuracy", "macro_auroc", "macro_average_precision", "macro_f1", "macro_ppv"),
            *("macro_specificity", "macro_npv", "mcc", "kappa", "kappa_quadratic", "top_2", "top_3"),
            *("calibration_slope", "calibration_intercept", "ece", "brier", "log_loss"),
        )
    ]
    assert [key for key in estimates if key.class_name is not None] == [
        Key(name, f"class {c}")
        for name in ("sensitivity", "specificity", "ppv", "npv", "f1", "auroc", "average_precision")
        for c in range(4)
    ]


def test_values_are_those_of_the_plain_functions(make_predictions):
    predictions = make_predictions(150, 4, decimals=0)
    probs, targets = predictions.probs, predictions.targets

    estimates = evaluate(predictions, n_resamples=2)

    for key, estimate in estimates.items():
        metric = METRICS[key.metric]
        value = metric(probs, targets)
        expected = value if key.class_name is None else value[predictions.class_names.index(key.class_name)]
        assert estimate.value == pytest.approx(float(expected), abs=1e-12), key
        if metric.mean_of is not None:
            assert estimate.value == pytest.approx(METRICS[metric.mean_of](probs, targets).mean(), abs=1e-12)


def test_every_value_lies_inside_its_interval_and_says_how_many_samples_it_rests_on(make_predictions):
    predictions = make_predictions(300, 3)
    preds, targets = predictions.preds, predictions.targets

    estimates = evaluate(predictions)

    for name, estimate in estimates.items():
        assert estimate.low < estimate.value < estimate.high, name
        assert name.metric.startswith("calibration") or 0 <= estimate.low < estimate.high <= 1, name
        assert estimate.reason is estimate.caution is None, name
    assert estimates[Key("accuracy")].n == estimates[Key("macro_f1")].n == estimates[Key("auroc", "class 1")].n == 300
    assert estimates[Key("sensitivity", "class 1")].n == (targets == 1).sum()
    assert estimates[Key("specificity", "class 1")].n == (targets != 1).sum()
    assert estimates[Key("ppv", "class 1")].n == (preds == 1).sum()
    assert estimates[Key("npv", "class 1")].n == (preds != 1).sum()
    assert estimates[Key("f1", "class 1")].n == ((targets == 1) | (preds == 1)).sum()


def test_independent_samples_get_the_closed_forms(make_predictions):
    predictions = make_predictions(300, 3)
    targets = predictions.targets
    right, ours, named = predictions.preds == targets, targets == 2, predictions.preds == 2

    estimates = evaluate(predictions, confidence_level=0.9, n_resamples=5)

    for name, expected in {
        Key("accuracy"): wilson(right.sum(), 300, 0.9),
        Key("sensitivity", "class 2"): wilson((right & ours).sum(), ours.sum(), 0.9),
        Key("specificity", "class 2"): wilson((~ours & ~named).sum(), (~ours).sum(), 0.9),
        Key("ppv", "class 2"): wilson((right & named).sum(), named.sum(), 0.9),
        Key("npv", "class 2"): wilson((~ours & ~named).sum(), (~named).sum(), 0.9),
        Key("top_2"): wilson((predictions.probs.argmin(axis=1) != targets).sum(), 300, 0.9),
        Key("f1", "class 2"): wilson_f1((right & ours).sum(), (ours | named).sum(), 0.9),
        Key("auroc", "class 2"): delong(predictions.probs[:, 2], ours, 0.9),
    }.items():
        assert (estimates[name].low, estimates[name].high) == pytest.approx(expected, abs=1e-12)


def test_repeated_images_of_a_patient_do_not_narrow_the_interval(make_predictions):
    alone = make_predictions(100, 2)
    tenfold = np.repeat(np.arange(100), 10)
    repeated = Predictions.from_logits(
        ids=np.arange(1000),
        groups=tenfold,
        targets=alone.targets[tenfold],
        logits=alone.logits[tenfold],
        class_names=alone.class_names,
    )

    one, many = evaluate(alone), evaluate(repeated)

    for name in one:
        assert many[name].value == pytest.approx(one[name].value, abs=1e-12)
        width, alone_width = many[name].high - many[name].low, one[name].high - one[name].low
        assert width == pytest.approx(alone_width, rel=0.4 if name.metric == "ece" else 0.25), name


def test_equal_seeds_give_equal_intervals(make_predictions):
    predictions = make_predictions()

    assert evaluate(predictions, n_resamples=50) == evaluate(predictions, n_resamples=50)
    assert (
        evaluate(predictions, n_resamples=50)[Key("macro_f1")]
        != evaluate(predictions, n_resamples=50, seed=1)[Key("macro_f1")]
    )


def test_more_confidence_is_wider(make_predictions):
    predictions = make_predictions(groups=np.arange(200) // 2)

    narrow, wide = evaluate(predictions, 0.5), evaluate(predictions, 0.99)

    assert all(wide[name].low < narrow[name].low < narrow[name].high < wide[name].high for name in narrow)


def test_what_is_undefined_is_null_with_its_reason(make_predictions):
    predictions = make_predictions(60, 3, targets=np.arange(60) % 2)
    predictions.probs[:, 1] = 0.1
    predictions.probs[:, 0] = np.where(np.arange(60) < 50, 0.8, 0.2)
    predictions.probs[:, 2] = 0.9 - predictions.probs[:, 0]

    estimates = evaluate(predictions, n_resamples=20)

    assert estimates[Key("sensitivity", "class 2")] == Estimate(None, None, None, 0, "no sample of this class")
    assert estimates[Key("average_precision", "class 2")] == Estimate(None, None, None, 60, "no sample of this class")
    assert estimates[Key("specificity", "class 2")].value is not None
    assert estimates[Key("f1", "class 2")] == Estimate(None, None, None, 10, "no sample of this class")
    assert estimates[Key("auroc", "class 2")] == Estimate(None, None, None, 60, "no sample of this class")
    assert estimates[Key("ppv", "class 1")] == Estimate(None, None, None, 0, "this class was never predicted")
    assert estimates[Key("balanced_accuracy")].reason == "mean over 2 of 3 classes"
    assert estimates[Key("macro_ppv")].reason == "mean over 2 of 3 classes"
    assert estimates[Key("accuracy")].reason is None


def test_a_test_set_of_one_class_says_so(make_predictions):
    estimates = evaluate(make_predictions(10, 2, spread=9, targets=np.zeros(10, int)), n_resamples=20)

    assert estimates[Key("auroc", "class 0")].reason == "every sample is of this class"
    assert estimates[Key("auroc", "class 1")].reason == "no sample of this class"
    assert estimates[Key("macro_auroc")] == Estimate(None, None, None, 10, "undefined for every class")
    assert estimates[Key("specificity", "class 0")] == Estimate(None, None, None, 0, "every sample is of this class")
    assert estimates[Key("npv", "class 0")] == Estimate(None, None, None, 0, "every prediction is of this class")
    assert estimates[Key("mcc")].reason == "only one class is present, or predicted"
    assert estimates[Key("kappa")].reason == "only one class is present and predicted"
    assert estimates[Key("calibration_slope")].reason == "only one class is present"


@pytest.mark.parametrize("groups", [None, np.arange(200) // 4, np.zeros(200, int)])
def test_a_perfect_score_is_not_a_certain_one(make_predictions, groups):
    estimates = evaluate(make_predictions(200, 2, spread=60, groups=groups), n_resamples=20)

    assert "separate" in estimates[Key("calibration_slope")].reason
    for name in estimates.keys() - {Key(name) for name in CALIBRATION}:
        assert estimates[name].value == estimates[name].high == 1, name
        assert -1 + 0.2 < estimates[name].low < 0.99, name
    assert estimates[Key("brier")].low == 0 < estimates[Key("brier")].high < 0.8
    units = 200 if groups is None else len(np.unique(groups))
    assert estimates[Key("accuracy")].low == pytest.approx(wilson(units, units, 0.95)[0])


def test_a_perfect_macro_mean_is_as_sure_as_its_classes_allow(make_predictions):
    targets = np.repeat([0, 1, 2], [80, 15, 5])

    estimates = evaluate(make_predictions(targets=targets, spread=60), n_resamples=20)

    ends = np.array([wilson(n, n, 0.95)[0] for n in (80, 15, 5)])
    assert estimates[Key("balanced_accuracy")].low == pytest.approx(1 - np.linalg.norm(1 - ends) / 3)


def test_one_sample_is_scored(make_predictions):
    estimates = evaluate(make_predictions(1, 2, spread=9), n_resamples=3)

    assert (estimates[Key("accuracy")].value, estimates[Key("accuracy")].n) == (1, 1)
    assert estimates[Key("accuracy")].low < 0.25


@pytest.mark.parametrize("settings", [{"confidence_level": 0}, {"confidence_level": 1}, {"n_resamples": 1}])
def test_impossible_settings_are_refused(make_predictions, settings):
    with pytest.raises(ConfigError, match="confidence_level between 0 and 1"):
        evaluate(make_predictions(), **settings)


@pytest.mark.parametrize("name", ["a/b", "macro", "f1/x", "<script>", "日本"])
def test_class_names_may_be_anything(make_predictions, name):
    predictions = dataclasses.replace(make_predictions(30, 2), task=Task.classes((name, "other")))

    assert evaluate(predictions, n_resamples=3)[Key("sensitivity", name)].n == (predictions.targets == 0).sum()


def test_a_proportion_of_groups_is_covered_where_wilson_would_not_be(make_predictions):
    """20 patients with 10 images each, all right or all wrong: 16 of 20, not 160 of 200."""
    targets = np.repeat(np.arange(20) % 2, 10)
    predictions = make_predictions(targets=targets, k=2, spread=60, groups=np.repeat(np.arange(20), 10))
    wrong = np.isin(np.arange(200) // 10, [0, 1, 2, 3])
    predictions.probs[wrong] = predictions.probs[wrong, ::-1]

    accuracy = evaluate(predictions)[Key("accuracy")]

    low, high = stats.binom.ppf([0.025, 0.975], 20, 0.8) / 20
    assert (accuracy.low, accuracy.high) == pytest.approx((low, high), abs=0.051)


def test_calibration_alone_is_as_in_the_whole(make_predictions):
    predictions = make_predictions(200, 3)

    alone, whole = evaluate_calibration(predictions), evaluate(predictions)

    assert list(alone) == [Key(name) for name in CALIBRATION]
    for name, estimate in alone.items():
        assert estimate.value == whole[name].value
        assert estimate.high - estimate.low == pytest.approx(whole[name].high - whole[name].low, rel=0.15)


def test_a_small_calibration_error_may_be_none_at_all():
    """Outcomes drawn from the very probabilities that were stated."""
    rng = np.random.default_rng(0)
    stated = rng.uniform(0.05, 0.95, 500)
    predictions = Predictions.from_logits(
        ids=np.arange(500),
        targets=(rng.random(500) < stated).astype(int),
        logits=np.stack([np.log(1 - stated), np.log(stated)], axis=1),
        class_names=["no", "yes"],
    )

    ece = evaluate(predictions)[Key("ece")]

    assert ece.low == 0 < ece.value < ece.high


def test_what_is_too_little_carries_a_caution(make_predictions):
    perfect = evaluate(make_predictions(400, 2, spread=60), n_resamples=20)
    few = evaluate(make_predictions(targets=np.repeat([0, 1], [180, 9]), k=2), n_resamples=20)
    groups = evaluate(make_predictions(groups=np.arange(200) // 5), n_resamples=20)

    assert "perfect" in perfect[Key("macro_auroc")].caution
    assert perfect[Key("accuracy")].caution is None
    assert perfect[Key("log_loss")].caution == "fewer than 10 cases with a wrong prediction"
    assert few[Key("auroc", "class 0")].caution == "fewer than 20 cases in the smaller group"
    assert (
        few[Key("sensitivity", "class 1")].caution
        == few[Key("balanced_accuracy")].caution
        == "rests on fewer than 10 cases"
    )
    assert few[Key("sensitivity", "class 0")].caution is few[Key("accuracy")].caution is None
    assert {estimate.caution for estimate in groups.values()} == {"fewer than 50 groups"}


def test_one_group_alone_says_nothing_about_the_slope(make_predictions):
    estimates = evaluate(make_predictions(groups=np.zeros(200, int)), n_resamples=5)

    assert estimates[Key("calibration_slope")].value is None
    assert "one group" in estimates[Key("calibration_slope")].reason


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("groups", [None, [0, 0, 0, 1, 1, 2]])
@pytest.mark.parametrize("targets", [[0], [0, 0], [0, 1], [1, 0, 0, 0, 0, 1]])
def test_however_little_there_is_nothing_is_beyond_its_bounds(make_predictions, k, groups, targets):
    for seed in range(5):
        some = None if groups is None else groups[: len(targets)]
        predictions = make_predictions(targets=targets, k=k, seed=seed, groups=some)

        for name, estimate in evaluate(predictions, n_resamples=10).items():
            if estimate.value is None:
                assert estimate.reason, name
            else:
                assert np.isfinite([estimate.low, estimate.high]).all(), name
                assert estimate.low - 1e-12 <= estimate.value <= estimate.high + 1e-12, name


@pytest.mark.parametrize(
    ("name", "value", "units", "wrong", "groups", "found"),
    [
        ("accuracy", 0.9, 200, 20, None, None),
        ("accuracy", 0.9, 9, 1, None, "rests on fewer than 10 cases"),
        ("sensitivity", 0.9, 9, 30, 60, "rests on fewer than 10 groups"),
        ("sensitivity", 0.9, 10, 30, None, None),
        ("mcc", 0.9, 200, 20, 49, "fewer than 50 groups"),
        ("macro_auroc", 1.0, 500, 20, None, "perfect"),
        ("auroc", 0.9, 19, 20, None, "fewer than 20 cases"),
        ("average_precision", 0.99, 150, 20, None, "only 150 cases"),
        ("auroc", 0.98, 150, 20, None, None),
        ("ece", 0.1, 500, 9, None, "fewer than 10 cases with a wrong prediction"),
        ("log_loss", 0.1, 500, 10, None, None),
    ],
)
def test_an_unreliable_interval_has_its_reason(name, value, units, wrong, groups, found):
    reason = why_unreliable(METRICS[name], value, units, wrong, groups)
    assert reason is None if found is None else found in reason
