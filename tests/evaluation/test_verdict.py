import dataclasses
import json

import numpy as np
import pytest
from scipy import stats

from medvision.errors import ConfigError
from medvision.evaluation import Estimate, Predictions, evaluate
from medvision.evaluation.intervals import delong, wilson, wilson_f1


def test_names_come_headline_first(make_predictions):
    estimates = evaluate(make_predictions(40, 2), n_resamples=5)

    assert list(estimates) == [
        *("accuracy", "macro/recall", "macro/precision", "macro/f1", "macro/auroc"),
        *("recall/class 0", "recall/class 1", "precision/class 0", "precision/class 1"),
        *("f1/class 0", "f1/class 1", "auroc/class 0", "auroc/class 1"),
    ]


def test_every_value_lies_inside_its_interval_and_says_how_many_samples_it_rests_on(make_predictions):
    predictions = make_predictions(300, 3)
    preds, targets = predictions.preds, predictions.targets

    estimates = evaluate(predictions)

    for estimate in estimates.values():
        assert 0 <= estimate.low < estimate.value < estimate.high <= 1
        assert estimate.reason is None
    assert estimates["accuracy"].n == estimates["macro/f1"].n == estimates["auroc/class 1"].n == 300
    assert estimates["recall/class 1"].n == (targets == 1).sum()
    assert estimates["precision/class 1"].n == (preds == 1).sum()
    assert estimates["f1/class 1"].n == ((targets == 1) | (preds == 1)).sum()


def test_independent_samples_get_the_closed_forms(make_predictions):
    predictions = make_predictions(300, 3)
    right, ours, named = predictions.preds == predictions.targets, predictions.targets == 2, predictions.preds == 2

    estimates = evaluate(predictions, confidence_level=0.9, n_resamples=5)

    for name, expected in {
        "accuracy": wilson(right.sum(), 300, 0.9),
        "recall/class 2": wilson((right & ours).sum(), ours.sum(), 0.9),
        "precision/class 2": wilson((right & named).sum(), named.sum(), 0.9),
        "f1/class 2": wilson_f1((right & ours).sum(), (ours | named).sum(), 0.9),
        "auroc/class 2": delong(predictions.probs[:, 2], ours, 0.9),
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
        assert width == pytest.approx(alone_width, rel=0.25), name


def test_equal_seeds_give_equal_intervals(make_predictions):
    predictions = make_predictions()

    assert evaluate(predictions, n_resamples=50) == evaluate(predictions, n_resamples=50)
    assert (
        evaluate(predictions, n_resamples=50)["macro/f1"] != evaluate(predictions, n_resamples=50, seed=1)["macro/f1"]
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

    assert estimates["recall/class 2"] == Estimate(None, None, None, 0, "no sample of this class")
    assert estimates["f1/class 2"] == Estimate(None, None, None, 10, "no sample of this class")
    assert estimates["auroc/class 2"] == Estimate(None, None, None, 60, "no sample of this class")
    assert estimates["precision/class 1"] == Estimate(None, None, None, 0, "this class was never predicted")
    assert estimates["macro/recall"].reason == "mean over 2 of 3 classes"
    assert estimates["macro/precision"].reason == "mean over 2 of 3 classes"
    assert estimates["accuracy"].reason is None


def test_a_test_set_of_one_class_says_so(make_predictions):
    estimates = evaluate(make_predictions(10, 2, spread=9, targets=np.zeros(10, int)), n_resamples=20)

    assert estimates["auroc/class 0"].reason == "every sample is of this class"
    assert estimates["auroc/class 1"].reason == "no sample of this class"
    assert estimates["macro/auroc"] == Estimate(None, None, None, 10, "undefined for every class")


@pytest.mark.parametrize("groups", [None, np.arange(200) // 4, np.zeros(200, int)])
def test_a_perfect_score_is_not_a_certain_one(make_predictions, groups):
    estimates = evaluate(make_predictions(200, 2, spread=60, groups=groups), n_resamples=20)

    for estimate in estimates.values():
        assert estimate.value == estimate.high == 1
        assert 0.2 < estimate.low < 0.99
    units = 200 if groups is None else len(np.unique(groups))
    assert estimates["accuracy"].low == pytest.approx(wilson(units, units, 0.95)[0])


def test_a_perfect_macro_mean_is_as_sure_as_its_smallest_class_allows(make_predictions):
    targets = np.repeat([0, 1, 2], [80, 15, 5])

    estimates = evaluate(make_predictions(targets=targets, spread=60), n_resamples=20)

    assert estimates["macro/recall"].low == pytest.approx(wilson(15, 15, 0.95)[0])


def test_one_sample_is_scored(make_predictions):
    estimates = evaluate(make_predictions(1, 2, spread=9), n_resamples=3)

    assert (estimates["accuracy"].value, estimates["accuracy"].n) == (1, 1)
    assert estimates["accuracy"].low < 0.25


def test_json_has_numbers_and_a_reason_only_where_there_is_one(make_predictions):
    estimates = evaluate(make_predictions(10, 2, targets=np.zeros(10, int)), n_resamples=3)

    content = json.loads(
        json.dumps({name: estimate.to_json() for name, estimate in estimates.items()}, allow_nan=False)
    )

    assert set(content["accuracy"]) == {"value", "low", "high", "n"}
    assert content["auroc/class 0"] == {
        **{"value": None, "low": None, "high": None},
        **{"n": 10, "reason": "every sample is of this class"},
    }


@pytest.mark.parametrize("settings", [{"confidence_level": 0}, {"confidence_level": 1}, {"n_resamples": 1}])
def test_impossible_settings_are_refused(make_predictions, settings):
    with pytest.raises(ConfigError, match="confidence_level between 0 and 1"):
        evaluate(make_predictions(), **settings)


@pytest.mark.parametrize("name", ["a/b", "macro", "f1/x", "<script>", "日本"])
def test_class_names_may_be_anything(make_predictions, name):
    predictions = dataclasses.replace(make_predictions(30, 2), class_names=(name, "other"))

    assert evaluate(predictions, n_resamples=3)[f"recall/{name}"].n == (predictions.targets == 0).sum()


def test_a_proportion_of_groups_is_covered_where_wilson_would_not_be(make_predictions):
    """20 patients with 10 images each, all right or all wrong: 16 of 20, not 160 of 200."""
    targets = np.repeat(np.arange(20) % 2, 10)
    predictions = make_predictions(targets=targets, k=2, spread=60, groups=np.repeat(np.arange(20), 10))
    wrong = np.isin(np.arange(200) // 10, [0, 1, 2, 3])
    predictions.probs[wrong] = predictions.probs[wrong, ::-1]

    accuracy = evaluate(predictions)["accuracy"]

    low, high = stats.binom.ppf([0.025, 0.975], 20, 0.8) / 20
    assert (accuracy.low, accuracy.high) == pytest.approx((low, high), abs=0.051)


@pytest.mark.slow
def test_the_intervals_hold_the_truth_as_often_as_they_say():
    """600 test sets of 200 images drawn from a known population, alone and in patients of four like images."""
    rng = np.random.default_rng(0)
    priors, spread, draws = np.array([0.5, 0.3, 0.2]), 1.5, 600
    truth = _population_values(rng, priors, spread)
    for patients, images in ((200, 1), (150, 4)):
        hits = dict.fromkeys(truth, 0)
        for _ in range(draws):
            estimates = evaluate(_draw(rng, priors, spread, patients, images), n_resamples=300)
            for name, value in truth.items():
                hits[name] += estimates[name].low <= value <= estimates[name].high
        for name, count in hits.items():
            # 95 % plus or minus what 600 draws can tell, and what a bootstrap of 150 patients is known to lack.
            assert 0.915 <= count / draws <= 0.985, (name, images, count / draws)


def _draw(rng, priors, spread, patients, images):
    targets = np.repeat(rng.choice(len(priors), size=patients, p=priors), images)
    # Half of what is seen belongs to the patient and is the same in each of their images.
    shared = np.repeat(rng.normal(size=(patients, len(priors))), images, axis=0)
    own = rng.normal(size=shared.shape) if images > 1 else shared
    logits = (shared + own) / (np.sqrt(2) if images > 1 else 2)
    logits[np.arange(len(targets)), targets] += spread
    return Predictions.from_logits(
        ids=np.arange(len(targets)),
        groups=np.repeat(np.arange(patients), images),
        targets=targets,
        logits=logits,
        class_names=[f"class {c}" for c in range(len(priors))],
    )


def _population_values(rng, priors, spread):
    """The metrics themselves, from a sample so large that its own error does not matter."""
    estimates = evaluate(_draw(rng, priors, spread, 400_000, 1), n_resamples=2)
    return {name: estimate.value for name, estimate in estimates.items()}
