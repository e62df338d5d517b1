import numpy as np
import pytest
from scipy import stats

from medvision.comparison.replicates import Replicate, Spread, aligned, ensemble, join_folds
from medvision.errors import DataError
from medvision.metrics.predictions import Predictions


def some(ids, targets, *, classes=("cat", "dog"), groups=None, seed=0, meta=None):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(len(ids), len(classes)))
    return Predictions.from_logits(
        ids=list(ids), targets=targets, logits=logits, class_names=classes, groups=groups, meta=meta
    )


def test_another_order_of_cases_is_the_same_test_set():
    first = some(["a", "b", "c"], [0, 1, 1])
    second = first.take(np.array([2, 0, 1]))
    (same, back) = aligned([("one", first), ("two", second)])
    assert same is first
    np.testing.assert_array_equal(back.ids, first.ids)
    np.testing.assert_array_equal(back.probs, first.probs)
    np.testing.assert_array_equal(back.targets, first.targets)


def test_another_order_of_classes_is_the_same_classes():
    first = some(["a", "b"], [0, 1])
    turned = Predictions.from_logits(
        ids=["a", "b"], targets=[1, 0], logits=first.logits[:, ::-1], class_names=["dog", "cat"]
    )
    _, back = aligned([("one", first), ("two", turned)])
    np.testing.assert_array_equal(back.targets, first.targets)
    np.testing.assert_allclose(back.probs, first.probs)
    assert back.class_names == first.class_names


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (some(["a", "b", "x", "y"], [0, 1, 0, 0]), ["3 cases", "4", "1 only in one (such as 'c')", "2 only in two"]),
        (some(["a", "b"], [0, 1]), ["1 only in one (such as 'c')"]),
        (some(["a", "b", "c"], [0, 1, 0]), ["target of 1 of 3", "'c'"]),
        (some(["a", "b", "c"], [0, 1, 1], groups=["p", "p", "q"]), ["group of 1 of 3", "'b'"]),
        (some(["a", "b", "c"], [0, 1, 1], classes=("cat", "cow", "dog")), ["2 classes", "only two knows cow"]),
        (some(["a", "b", "c"], [0, 1, 1], classes=("cat", "cow")), ["only one knows dog; only two knows cow"]),
    ],
)
def test_other_test_cases_are_refused(other, said):
    with pytest.raises(DataError) as refusal:
        aligned([("one", some(["a", "b", "c"], [0, 1, 1])), ("two", other)])
    for words in said:
        assert words in str(refusal.value)
    assert len(str(refusal.value).splitlines()) <= 3


def test_groups_may_have_other_names():
    first = some(["a", "b", "c"], [0, 1, 1], groups=["p", "p", "q"])
    aligned([("one", first), ("two", some(["a", "b", "c"], [0, 1, 1], groups=["x", "x", ""]))])


def test_folds_become_one_set():
    parts = [some(["a", "b"], [0, 1], meta={"sex": ["f", "m"]}), some(["c"], [1], seed=1)]
    joined = join_folds([("fold 0", parts[0]), ("fold 1", parts[1])])
    assert joined.ids.tolist() == ["a", "b", "c"]
    np.testing.assert_array_equal(joined.probs[2], parts[1].probs[0])
    assert joined.meta == {}
    assert Replicate.of(3, [("one", parts[0])]).predictions is parts[0]


def test_overlapping_folds_are_refused():
    with pytest.raises(DataError, match=r"2 case\(s\).*'b' in fold 0 and fold 1"):
        join_folds([("fold 0", some("abc", [0, 1, 1])), ("fold 1", some("bcd", [1, 1, 0]))])
    with pytest.raises(DataError, match="only fold 1 knows cow"):
        join_folds([("fold 0", some("ab", [0, 1])), ("fold 1", some("cd", [1, 1], classes=("cat", "cow", "dog")))])


def test_an_ensemble_is_the_mean_probability():
    members = [some("abc", [0, 1, 1], seed=seed) for seed in range(3)]
    joint = ensemble(members)
    np.testing.assert_allclose(joint.probs, sum(member.probs for member in members) / 3)
    np.testing.assert_allclose(np.exp(joint.logits), joint.probs, rtol=1e-5)


def test_the_interval_over_seeds_is_students():
    values = [0.91, 0.93, 0.90, 0.95]
    spread = Spread.over_seeds(values, 0.9)
    expected = stats.t.interval(0.9, 3, np.mean(values), stats.sem(values))
    assert (spread.low, spread.high) == pytest.approx(expected)
    assert spread.standard_deviation == pytest.approx(np.std(values, ddof=1))
    assert Spread.over_folds(values).low is None
