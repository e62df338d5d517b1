import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_curve

from medvision.errors import ConfigError, DataError
from medvision.metrics.estimates import Key
from medvision.metrics.intervals import wilson
from medvision.metrics.operating_point import (
    OperatingPoint,
    apply,
    choose,
    default_positive,
    positive_scores,
    positive_truth,
)
from medvision.metrics.predictions import Predictions
from medvision.tasks import Task


def binary(scores, truth, groups=None):
    scores = np.asarray(scores, dtype=float)
    return Predictions(
        ids=np.arange(len(scores)).astype(str),
        groups=np.full(len(scores), "") if groups is None else np.asarray(groups).astype(str),
        targets=np.asarray(truth).astype(np.int64),
        logits=np.zeros((len(scores), 2), np.float32),
        probs=np.stack([1 - scores, scores], axis=1),
        task=Task.classes(("no", "yes")),
    )


def rates(scores, truth, threshold):
    called = scores >= threshold
    return called[truth].mean(), (~called)[~truth].mean()


def better(rule, target, scores, truth):
    """What a rule wants to be high, as a function of the threshold; None where it is not allowed."""

    def judge(threshold):
        sensitivity, specificity = rates(scores, truth, threshold)
        if rule == "youden":
            return sensitivity + specificity
        if rule == "sensitivity":
            return (specificity, sensitivity) if sensitivity >= target else None
        if rule == "specificity":
            return (sensitivity, specificity) if specificity >= target else None
        return -(target * (1 - sensitivity) * truth.sum() + (1 - specificity) * (~truth).sum())

    return judge


RULES = [
    ("youden", None),
    ("sensitivity", 0.9),
    ("sensitivity", 1.0),
    ("specificity", 0.95),
    ("specificity", 1.0),
    ("cost", 5.0),
    ("cost", 0.2),
]


@pytest.mark.parametrize(("rule", "target"), RULES)
@pytest.mark.parametrize("decimals", [1, 2, 12])
def test_no_other_threshold_is_better(rule, target, decimals):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        truth = np.arange(60) < rng.integers(1, 59)
        scores = np.clip(rng.normal(0.4 + 0.2 * truth, 0.2), 0, 1).round(decimals)
        judge = better(rule, target, scores, truth)

        found = choose(binary(scores, truth), ("yes",), rule, target)

        others = [judge(t) for t in np.append(np.unique(scores), [0.0, 1.1])]
        best = max(value for value in others if value is not None)
        assert judge(found.threshold) == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_youden_is_the_corner_of_scikit_learns_curve(seed):
    rng = np.random.default_rng(seed)
    truth = rng.random(200) < 0.3
    scores = rng.beta(2 + 2 * truth, 3)

    found = choose(binary(scores, truth), ("yes",), "youden")

    false_alarms, found_positives, _ = roc_curve(truth, scores)
    sensitivity, specificity = rates(scores, truth, found.threshold)
    assert sensitivity + specificity - 1 == pytest.approx((found_positives - false_alarms).max(), abs=1e-12)


def test_the_threshold_lies_halfway_between_scores():
    found = choose(binary([0.1, 0.2, 0.6, 0.9], [0, 0, 1, 1]), ("yes",), "youden")

    assert found == OperatingPoint(("yes",), 0.4, "youden", None)


def test_ties_miss_least_except_where_alarms_count():
    scores, truth = np.array([0.2, 0.4, 0.6, 0.8]), np.array([0, 1, 0, 1])

    # Above 0.6 and above 0.2 sensitivity + specificity is 1.5.
    assert choose(binary(scores, truth), ("yes",), "youden").threshold == pytest.approx(0.3)
    # All cases, or all but the lowest, are both without a miss; between 0.6 and 0.8 both are without an alarm.
    assert choose(binary(scores, truth), ("yes",), "sensitivity", 1.0).threshold == pytest.approx(0.3)
    assert choose(binary(scores, truth), ("yes",), "specificity", 1.0).threshold == pytest.approx(0.7)


@pytest.mark.parametrize("top", [0.8, 1.0, 1 + 1e-9])
def test_a_rule_may_call_nobody_positive(top):
    scores = np.array([0.1, 0.2, top])
    predictions = binary(np.minimum(scores, 1.0), [1, 1, 0])
    predictions.probs[:, 1] = scores

    point = choose(predictions, ("yes",), "specificity", 1.0)

    assert point.threshold > top
    assert apply(point, predictions)[Key("specificity")].value == 1.0
    assert apply(point, predictions)[Key("ppv")].reason == "no case was called positive"


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=2, max_size=20), st.sampled_from(RULES))
def test_every_case_stays_on_the_side_that_it_was_counted_on(cases, rule):
    scores, truth = np.array([c[0] for c in cases]), np.array([c[1] for c in cases])
    if truth.all() or not truth.any():
        return
    judge = better(*rule, scores, truth)

    point = choose(binary(scores, truth), ("yes",), *rule)

    others = [judge(t) for t in np.append(np.unique(scores), [0.0, 1.1])]
    assert judge(point.threshold) == pytest.approx(max(v for v in others if v is not None), abs=1e-9)


def test_several_classes_may_be_positive_together(make_predictions):
    predictions = make_predictions(300, 4)
    positive = ("class 1", "class 3")

    point = choose(predictions, positive, "sensitivity", 0.9)

    called = predictions.probs[:, 1] + predictions.probs[:, 3] >= point.threshold
    truth = np.isin(predictions.targets, [1, 3])
    np.testing.assert_array_equal(positive_truth(predictions, positive), truth)
    np.testing.assert_array_equal(
        positive_scores(predictions.probs, predictions.class_names, positive) >= point.threshold, called
    )
    assert called[truth].mean() >= 0.9
    assert apply(point, predictions)[Key("sensitivity")].value == pytest.approx(called[truth].mean())


def test_apply_counts_and_takes_wilsons_intervals():
    truth = np.array([True] * 30 + [False] * 70)
    scores = np.where(np.arange(100) % 10 < 8, truth, ~truth) * 0.6 + 0.2

    found = apply(OperatingPoint(("yes",), 0.5, "youden"), binary(scores, truth), confidence_level=0.9)

    for name, successes, trials in [
        ("sensitivity", 24, 30),
        ("specificity", 56, 70),
        ("ppv", 24, 38),
        ("npv", 56, 62),
        ("accuracy", 80, 100),
    ]:
        estimate = found[Key(name)]
        assert (estimate.value, estimate.n) == (pytest.approx(successes / trials), trials)
        assert (estimate.low, estimate.high) == wilson(successes, trials, 0.9)
    assert [key.metric for key in found] == ["sensitivity", "specificity", "ppv", "npv", "accuracy"]


def test_predictive_values_at_a_prevalence_follow_bayes():
    rng = np.random.default_rng(0)
    truth = rng.random(400) < 0.5
    predictions = binary(rng.beta(2 + 2 * truth, 3), truth)
    point = choose(predictions, ("yes",), "youden")

    found = apply(point, predictions, prevalence=0.02)
    same = apply(point, predictions, prevalence=float(truth.mean()))

    sensitivity, specificity = found[Key("sensitivity")].value, found[Key("specificity")].value
    assert found[Key("ppv_at_prevalence")].value == pytest.approx(
        0.02 * sensitivity / (0.02 * sensitivity + 0.98 * (1 - specificity))
    )
    assert found[Key("npv_at_prevalence")].value == pytest.approx(
        0.98 * specificity / (0.98 * specificity + 0.02 * (1 - sensitivity))
    )
    for name in ("ppv", "npv"):
        there = Key(f"{name}_at_prevalence")
        assert same[there].value == pytest.approx(same[Key(name)].value)
        assert found[there].low < found[there].value < found[there].high


@pytest.mark.parametrize(("positives", "negatives", "prevalence"), [(50, 50, 0.05), (200, 100, 0.3)])
def test_intervals_at_a_prevalence_cover(positives, negatives, prevalence):
    sensitivity, specificity = 0.9, 0.85
    truth = np.arange(positives + negatives) < positives
    point, rng = OperatingPoint(("yes",), 0.5, "youden"), np.random.default_rng(0)
    expected = {
        "ppv_at_prevalence": prevalence
        * sensitivity
        / (prevalence * sensitivity + (1 - prevalence) * (1 - specificity)),
        "npv_at_prevalence": (1 - prevalence)
        * specificity
        / ((1 - prevalence) * specificity + prevalence * (1 - sensitivity)),
    }

    covered = dict.fromkeys(expected, 0)
    for _ in range(1000):
        right = rng.random(len(truth)) < np.where(truth, sensitivity, specificity)
        found = apply(point, binary((right == truth) * 0.8 + 0.1, truth), prevalence=prevalence)
        for name, value in expected.items():
            covered[name] += found[Key(name)].low <= value <= found[Key(name)].high

    # 0.95 less, or more, three standard errors of a share of 1,000.
    assert all(0.925 < count / 1000 < 0.985 for count in covered.values()), covered


def test_predictive_values_without_a_call_are_undefined_at_any_prevalence():
    point = OperatingPoint(("yes",), 0.5, "youden")

    nobody = apply(point, binary([0.1, 0.2, 0.3], [0, 1, 0]), prevalence=0.1)
    one_side = apply(point, binary([0.1, 0.7, 0.3], [0, 0, 0]), prevalence=0.1)

    assert nobody[Key("ppv_at_prevalence")].reason == nobody[Key("ppv")].reason == "no case was called positive"
    assert nobody[Key("npv_at_prevalence")].value == pytest.approx(0.9)
    assert one_side[Key("sensitivity")].reason == one_side[Key("npv_at_prevalence")].reason == "no case is positive"


def test_a_perfect_point_has_an_interval_all_the_same():
    found = apply(
        OperatingPoint(("yes",), 0.5, "youden"), binary([0.1] * 20 + [0.9] * 20, [0] * 20 + [1] * 20), prevalence=0.1
    )

    assert found[Key("ppv_at_prevalence")].value == found[Key("ppv_at_prevalence")].high == 1.0
    assert 0.2 < found[Key("ppv_at_prevalence")].low < 0.6


def test_groups_widen_the_intervals():
    rng = np.random.default_rng(0)
    scores, truth = np.repeat(rng.beta(3, 3, 60), 5), np.repeat(rng.random(60) < 0.5, 5)
    point = OperatingPoint(("yes",), 0.5, "youden")

    alone = apply(point, binary(scores, truth), prevalence=0.1)
    grouped = apply(point, binary(scores, truth, groups=np.arange(300) // 5), prevalence=0.1)
    again = apply(point, binary(scores, truth, groups=np.arange(300) // 5), prevalence=0.1)

    assert grouped == again
    for name, estimate in alone.items():
        assert grouped[name].value == estimate.value
        # Five equal images carry the information of one: sqrt(5) = 2.2 times as wide, and up to a fifth more by
        # Student's quantile where few groups count.
        assert 1.7 < (grouped[name].high - grouped[name].low) / (estimate.high - estimate.low) < 2.8


def test_a_perfect_specificity_among_groups_does_not_make_the_predictive_value_certain():
    # 12 of 36 positives found, no false alarm: at 5 % the specificity's lower end leaves next to nothing of the PPV.
    truth = np.repeat([True, False], 36)
    scores = np.where(np.arange(72) < 12, 0.9, 0.1)
    found = apply(
        OperatingPoint(("yes",), 0.5, "youden"), binary(scores, truth, groups=np.arange(72) // 2), prevalence=0.05
    )
    ppv, specificity = found[Key("ppv_at_prevalence")], found[Key("specificity")]
    assert ppv.value == specificity.value == 1
    worst = 0.05 * found[Key("sensitivity")].value
    assert ppv.low == pytest.approx(worst / (worst + 0.95 * (1 - specificity.low)), abs=0.05)


def test_two_classes_have_a_positive_one_and_more_have_none():
    assert default_positive(("healthy", "ill")) == ("ill",)
    assert default_positive(("a", "b", "c")) is None


def test_json_and_back():
    point = OperatingPoint(("a", "b/c"), 0.1 + 0.2, "cost", 5.0)

    assert OperatingPoint.from_json(json.loads(json.dumps(point.to_json()))) == point
    assert point.to_json() == {"positive": ["a", "b/c"], "threshold": 0.1 + 0.2, "rule": "cost", "target": 5.0}


@pytest.mark.parametrize(
    "found",
    [
        None,
        {},
        {"positive": "yes", "threshold": 0.5, "rule": "youden", "target": None},
        {"positive": [1], "threshold": 0.5, "rule": "youden", "target": None},
        {"positive": ["yes"], "threshold": "high", "rule": "youden", "target": None},
        {"positive": ["yes"], "threshold": float("nan"), "rule": "youden", "target": None},
        {"positive": ["yes"], "threshold": 0.5, "rule": "best", "target": None},
        {"positive": ["yes"], "threshold": 0.5, "rule": "cost", "target": None},
    ],
)
def test_json_that_is_no_operating_point_is_refused(found):
    with pytest.raises(DataError, match="operating point"):
        OperatingPoint.from_json(found)


@pytest.mark.parametrize(
    ("positive", "rule", "target", "said"),
    [
        (("maybe",), "youden", None, "'maybe' is unknown; the classes are no, yes"),
        (("no", "yes"), "youden", None, "some but not all"),
        ((), "youden", None, "some but not all"),
        (("yes", "yes"), "youden", None, "each once"),
        (("yes",), "best", None, "youden, sensitivity, specificity, cost"),
        (("yes",), "youden", 0.9, "no target"),
        (("yes",), "sensitivity", None, "> 0 and <= 1"),
        (("yes",), "specificity", 1.1, "> 0 and <= 1"),
        (("yes",), "cost", 0.0, "> 0"),
        (("yes",), "cost", float("nan"), "> 0"),
    ],
)
def test_what_cannot_be_chosen_is_refused(positive, rule, target, said):
    with pytest.raises(ConfigError, match=said):
        choose(binary([0.1, 0.9], [0, 1]), positive, rule, target)


@pytest.mark.parametrize(("truth", "side"), [([0, 0], "positive"), ([1, 1], "negative")])
def test_one_side_alone_gives_no_operating_point(truth, side):
    with pytest.raises(DataError, match=f"none of 2 cases is {side}"):
        choose(binary([0.1, 0.9], truth), ("yes",), "youden")


@pytest.mark.parametrize("prevalence", [0.0, 1.0, float("nan")])
def test_a_prevalence_is_a_share(prevalence):
    with pytest.raises(ConfigError, match="prevalence"):
        apply(OperatingPoint(("yes",), 0.5, "youden"), binary([0.1, 0.9], [0, 1]), prevalence=prevalence)
