import dataclasses
from math import comb

import numpy as np
import pytest
from sklearn import metrics as sk

from medvision.errors import ConfigError
from medvision.metrics.estimates import Key
from medvision.metrics.evaluate import evaluate
from medvision.metrics.intervals import wilson
from medvision.metrics.predictions import Predictions
from medvision.metrics.subgroups import MIN_CASES, subgroups

METRICS = ("accuracy", "balanced_accuracy", "macro_auroc")


def of(metric, *names):
    return Key(metric, section="subgroups", names=names)


def with_columns(predictions, **meta):
    columns = {name: np.asarray(column).astype(str) for name, column in meta.items()}
    return dataclasses.replace(predictions, meta=columns)


def test_each_value_is_scored_on_its_own_cases(make_predictions):
    sex = np.random.default_rng(5).choice(["F", "M", ""], 400)
    predictions = with_columns(make_predictions(400, 3), sex=sex)

    found = subgroups(predictions, 0.9).estimates

    assert list(found) == [of(metric, "sex", value) for value in ("F", "M", "missing") for metric in METRICS]
    ours = predictions.take(np.flatnonzero(sex == "M"))
    right = int((ours.preds == ours.targets).sum())
    accuracy = found[of("accuracy", "sex", "M")]
    assert (accuracy.value, accuracy.n) == (right / len(ours.ids), len(ours.ids))
    assert (accuracy.low, accuracy.high) == pytest.approx(wilson(right, len(ours.ids), 0.9))
    balanced, auroc = found[of("balanced_accuracy", "sex", "M")], found[of("macro_auroc", "sex", "M")]
    assert balanced.value == pytest.approx(sk.balanced_accuracy_score(ours.targets, ours.preds))
    assert auroc.value == pytest.approx(
        np.mean([sk.roc_auc_score(ours.targets == c, ours.probs[:, c]) for c in range(3)])
    )
    assert balanced.low < balanced.value < balanced.high
    assert auroc.low < auroc.value < auroc.high


@pytest.mark.parametrize("k", [2, 4])
def test_estimates_are_those_of_the_verdict_on_the_subgroup(make_predictions, k):
    predictions = with_columns(make_predictions(300, k), site=np.arange(300) % 2)

    found = subgroups(predictions, 0.9).estimates

    verdict = evaluate(predictions.take(np.arange(0, 300, 2)), 0.9, n_resamples=10)
    for metric in METRICS:
        ours, theirs = found[of(metric, "site", "0")], verdict[Key(metric)]
        assert (ours.value, ours.low, ours.high) == pytest.approx((theirs.value, theirs.low, theirs.high), abs=1e-12)
        assert (ours.n, ours.reason, ours.caution) == (theirs.n, theirs.reason, theirs.caution)


def test_with_groups_estimates_come_near_the_bootstraps_of_the_verdict(make_predictions):
    predictions = with_columns(make_predictions(600, 3, groups=np.arange(600) // 3), site=np.arange(600) // 3 % 2)

    found = subgroups(predictions).estimates

    verdict = evaluate(predictions.take(np.flatnonzero(predictions.meta["site"] == "1")), n_resamples=1000)
    for metric in METRICS:
        ours, theirs = found[of(metric, "site", "1")], verdict[Key(metric)]
        assert ours.value == pytest.approx(theirs.value, abs=1e-12)
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.006)


def test_the_widest_gap_comes_first_and_says_between_whom(make_predictions):
    rng = np.random.default_rng(5)
    site = rng.choice(["A", "B", "C"], 900)
    good, bad = make_predictions(900, 2, spread=2.5, seed=1), make_predictions(900, 2, spread=0.2, seed=1)
    predictions = with_columns(good, site=site, noise=rng.choice(["x", "y"], 900))
    predictions.probs[site == "B"] = bad.probs[site == "B"]

    found = subgroups(predictions)

    widest = found.gaps[0]
    assert [gap.estimate.value for gap in found.gaps] == sorted((g.estimate.value for g in found.gaps), reverse=True)
    assert (widest.column, widest.worst, widest.distinguishable) == ("site", "B", True)
    a, b = (found.estimates[of(widest.metric, "site", value)] for value in (widest.best, "B"))
    assert widest.estimate.value == pytest.approx(a.value - b.value)
    assert widest.estimate.n == a.n + b.n
    assert not any(gap.distinguishable for gap in found.gaps if gap.column == "noise")
    assert found.comparisons == 3 * comb(3, 2) + 3 * comb(2, 2)


def test_the_gap_of_two_accuracies_is_newcombes():
    """56 of 70 against 48 of 80: the example of the paper, table II (a), method 10."""
    right = np.array([True] * 56 + [False] * 14 + [True] * 48 + [False] * 32)
    predictions = two_classes(right, site=["a"] * 70 + ["b"] * 80)

    gap = next(gap for gap in subgroups(predictions).gaps if gap.metric == "accuracy")

    assert gap.estimate.value == pytest.approx(0.2)
    assert (gap.estimate.low, gap.estimate.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def two_classes(right, **meta):
    targets = np.arange(len(right)) % 2
    scores = np.where(right, targets, 1 - targets) * 0.8 + 0.1
    predictions = Predictions.from_logits(
        ids=np.arange(len(right)), targets=targets, logits=np.zeros((len(right), 2)), class_names=["n", "y"]
    )
    predictions.probs[:] = np.stack([1 - scores, scores], axis=1)
    return with_columns(predictions, **meta)


def test_a_patient_on_both_sides_makes_the_gap_surer():
    rng = np.random.default_rng(0)
    hard = rng.random(150) < 0.4
    # Both images of a patient are about equally hard; left and right differ by little.
    right = np.repeat(~hard, 2) ^ (rng.random(300) < 0.05)
    side = np.tile(["left", "right"], 150)
    paired = dataclasses.replace(two_classes(right, side=side), groups=(np.arange(300) // 2).astype(str))

    apart = next(g for g in subgroups(two_classes(right, side=side)).gaps if g.metric == "accuracy").estimate
    together = next(g for g in subgroups(paired).gaps if g.metric == "accuracy").estimate

    difference = right[0::2].astype(float) - right[1::2]
    expected = 2 * 1.96 * difference.std(ddof=1) / np.sqrt(150)
    assert together.value == pytest.approx(apart.value)
    assert together.high - together.low == pytest.approx(expected, rel=0.03)
    assert together.high - together.low < 0.6 * (apart.high - apart.low)


def test_groups_within_a_subgroup_widen_its_intervals(make_predictions):
    few = make_predictions(120, 3)
    rows = np.repeat(np.arange(120), 4)
    copies = make_predictions(480, 3, targets=few.targets[rows])
    copies.probs[:] = few.probs[rows]
    copies = with_columns(copies, site=rows % 2)

    alone = subgroups(copies).estimates
    grouped = subgroups(dataclasses.replace(copies, groups=rows.astype(str))).estimates

    for name, estimate in alone.items():
        assert grouped[name].value == pytest.approx(estimate.value)
        assert 1.7 < (grouped[name].high - grouped[name].low) / (estimate.high - estimate.low) < 2.5


def test_columns_without_subgroups_are_named_with_their_reason(make_predictions):
    predictions = with_columns(make_predictions(50), scanner=["X"] * 50, image=[f"i{i}" for i in range(50)])

    found = subgroups(predictions)

    assert found.estimates == {}
    assert (found.gaps, found.comparisons) == ((), 0)
    assert list(found.left_out) == ["scanner", "image"]
    assert subgroups(make_predictions(50)).left_out == {}


def test_names_may_hold_any_sign(make_predictions):
    found = subgroups(with_columns(make_predictions(60), **{"kV/mA": ["80/2", "90/3"] * 30}))

    assert {key.names for key in found.estimates} == {("kV/mA", "80/2"), ("kV/mA", "90/3")}
    assert found.gaps[0].column == "kV/mA"
    assert {found.gaps[0].best, found.gaps[0].worst} == {"80/2", "90/3"}


def test_small_subgroups_are_shown_but_not_compared(make_predictions):
    site = ["rare"] * (MIN_CASES - 1) + ["a", "b"] * 60
    found = subgroups(with_columns(make_predictions(len(site)), site=site))

    assert found.estimates[of("accuracy", "site", "rare")].n == MIN_CASES - 1
    assert all("rare" not in (gap.best, gap.worst) for gap in found.gaps)
    assert found.comparisons == 3


def test_a_subgroup_of_one_class_has_no_auroc(make_predictions):
    predictions = make_predictions(120, 3, targets=[0] * 40 + [0, 1] * 40)

    found = subgroups(with_columns(predictions, site=["a"] * 40 + ["b"] * 80)).estimates

    assert found[of("macro_auroc", "site", "a")].value is None
    assert found[of("macro_auroc", "site", "a")].reason == "every case of this subgroup is of one class"
    assert found[of("balanced_accuracy", "site", "a")].reason == "mean over 1 of 3 classes"
    assert found[of("macro_auroc", "site", "b")].reason == "mean over 2 of 3 classes"


def test_perfect_and_tiny_subgroups_have_wide_intervals():
    right = np.array([True] * 30 + [True, False, True])
    found = subgroups(two_classes(right, site=["a"] * 30 + ["b"] * 3)).estimates

    assert found[of("macro_auroc", "site", "a")].value == found[of("macro_auroc", "site", "a")].high == 1.0
    assert found[of("macro_auroc", "site", "a")].low < 0.85
    assert found[of("balanced_accuracy", "site", "a")].low < 0.95
    tiny = found[of("balanced_accuracy", "site", "b")]
    assert 0 <= tiny.low < 0.35
    assert tiny.high == pytest.approx(1, abs=0.2)


def test_a_confidence_level_is_a_share(make_predictions):
    with pytest.raises(ConfigError, match="confidence_level"):
        subgroups(make_predictions(20), 95)


@pytest.mark.slow
def test_where_nothing_differs_hardly_anything_is_called_distinguishable(make_predictions):
    """Five columns without meaning: at 95 % one run in twenty may claim a difference."""
    claims = 0
    for seed in range(300):
        rng = np.random.default_rng(1000 + seed)
        meta = {f"c{i}": rng.choice(list("abc"), 300) for i in range(5)}
        found = subgroups(with_columns(make_predictions(300, 2, seed=seed), **meta))
        claims += any(gap.distinguishable for gap in found.gaps)

    assert claims / 300 < 0.08
