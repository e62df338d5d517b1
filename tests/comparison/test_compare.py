import json
import time

import numpy as np
import pytest

from medvision.comparison.compare import Candidate, compare
from medvision.comparison.replicates import Replicate
from medvision.errors import ConfigError, DataError
from medvision.metrics.definitions import compared
from medvision.metrics.estimates import Key
from medvision.metrics.evaluate import evaluate
from medvision.metrics.predictions import Predictions


def model(rng, shared, targets, strength, noise=1.0, groups=None):
    logits = shared + noise * rng.normal(size=shared.shape)
    logits[np.arange(len(targets)), targets] += strength
    return Predictions.from_logits(
        ids=np.arange(len(targets)),
        targets=targets,
        logits=logits,
        class_names=[f"c{c}" for c in range(shared.shape[1])],
        groups=groups,
    )


@pytest.fixture
def make_models():
    """`make_models([1.0, 2.0])`: a model of each strength, on the same cases, whose errors are alike."""

    def make(strengths, n=300, k=3, seed=0, groups=None):
        rng = np.random.default_rng(seed)
        targets, shared = rng.integers(0, k, n), rng.normal(size=(n, k))
        return [model(rng, shared, targets, strength, groups=groups) for strength in strengths]

    return make


def single(predictions):
    return [Candidate.of(f"model {place}", one) for place, one in enumerate(predictions)]


def test_values_and_intervals_are_those_of_the_evaluation(make_models):
    models = make_models([1.0, 2.0])
    found = compare(single(models), n_resamples=200)
    assert [row.name for row in found.rows] == ["model 0", "model 1"]
    for row, one in zip(found.rows, models, strict=True):
        alone = evaluate(one, n_resamples=200)
        assert row.estimates == {name: alone[Key(name)] for name in compared()}


def test_each_metric_has_its_test(make_models):
    (pair,) = compare(single(make_models([1.0, 2.0])), n_resamples=100).pairs
    assert {name: one.test for name, one in pair.differences.items()} == {
        "accuracy": "McNemar",
        "balanced_accuracy": "paired bootstrap",
        "macro_auroc": "DeLong",
        "macro_f1": "paired bootstrap",
        "log_loss": "paired bootstrap",
    }
    assert all(one.distinguishable for one in pair.differences.values())
    assert pair.differences["accuracy"].value < 0 < pair.differences["log_loss"].value


def test_groups_replace_the_tests(make_models):
    groups = [f"patient {i // 5}" for i in range(300)]
    found = compare(single(make_models([1.0, 2.0], groups=groups)), n_resamples=100)
    assert (found.grouped, found.units) == (True, 60)
    assert {one.test for one in found.pairs[0].differences.values()} == {"paired bootstrap of groups"}


def test_groups_of_copies_do_not_count_as_more_cases():
    """Each case five times, in a group: intervals as wide as those of the cases once."""
    rng = np.random.default_rng(0)
    targets, shared = rng.integers(0, 3, 80), rng.normal(size=(80, 3))
    once = [model(rng, shared, targets, strength) for strength in (1.0, 1.3)]
    five = [
        Predictions.from_logits(
            ids=np.arange(400),
            targets=np.repeat(one.targets, 5),
            logits=np.repeat(one.logits, 5, axis=0),
            class_names=one.class_names,
            groups=np.repeat(np.arange(80), 5),
        )
        for one in once
    ]
    alone, together = (compare(single(both), n_resamples=1000).pairs[0].differences for both in (once, five))
    for name in ("accuracy", "balanced_accuracy", "log_loss"):
        assert together[name].high - together[name].low == pytest.approx(alone[name].high - alone[name].low, rel=0.12)


def test_seeds_are_averaged_and_their_variance_counts(make_models):
    models = make_models([1.0, 1.1, 1.2, 1.0, 1.1, 1.2])
    two = [
        Candidate(name, tuple(Replicate.of(seed, [(name, one)]) for seed, one in enumerate(part)), {"size_bytes": 10.0})
        for name, part in (("one", models[:3]), ("other", models[3:]))
    ]
    found = compare(two, n_resamples=200)
    assert [row.name for row in found.rows] == ["one", "one, ensemble of 3", "other", "other, ensemble of 3"]
    assert len(found.pairs) == 1
    row, joint, *_ = found.rows
    accuracies = [(one.preds == one.targets).mean() for one in models[:3]]
    assert row.estimates["accuracy"].value == pytest.approx(np.mean(accuracies))
    assert row.over_seeds["accuracy"].standard_deviation == pytest.approx(np.std(accuracies, ddof=1))
    mean = np.mean([one.probs for one in models[:3]], axis=0)
    assert joint.estimates["accuracy"].value == pytest.approx((mean.argmax(axis=1) == models[0].targets).mean())
    assert (row.cost, joint.cost) == ({"size_bytes": 10.0}, {"size_bytes": 30.0})
    # Wider than by the cases alone, as the variance between three seeds is added.
    width = found.pairs[0].differences["accuracy"]
    assert width.test == "paired bootstrap and seeds"
    cases_only = [np.mean([one.preds == one.targets for one in part], axis=0) for part in (models[:3], models[3:])]
    assert width.high - width.low > 2 * 1.96 * np.std(cases_only[0] - cases_only[1]) / np.sqrt(300)


def test_folds_are_joined_and_told_apart(make_models):
    (one,) = make_models([1.5])
    folds = [one.take(np.arange(start, 300, 3)) for start in range(3)]
    found = compare([Candidate("cv", (Replicate.of(0, [(f"fold {i}", fold) for i, fold in enumerate(folds)]),))])
    (row,) = found.rows
    assert (row.seeds, row.folds, found.n) == (1, 3, 300)
    assert row.estimates["accuracy"].value == pytest.approx((one.preds == one.targets).mean())
    assert row.over_folds["accuracy"].values == pytest.approx([(f.preds == f.targets).mean() for f in folds])
    assert found.pairs == ()


def test_identical_models_are_not_told_apart(make_models):
    (one,) = make_models([1.5])
    (pair,) = compare([Candidate.of("a", one), Candidate.of("b", one)], n_resamples=50).pairs
    assert pair.identical
    for name, found in pair.differences.items():
        assert (found.value, found.p, found.distinguishable) == (0, 1, False)
        # None of the bounded metrics claims to be sure of no difference.
        assert found.low < 0 < found.high or name == "log_loss"


def test_perfect_models_have_intervals(make_models):
    found = compare(single(make_models([60.0, 60.0], n=40)), n_resamples=50)
    for row in found.rows:
        for name in ("accuracy", "balanced_accuracy", "macro_auroc", "macro_f1"):
            assert row.estimates[name].value == 1
            assert row.estimates[name].low < 0.95
    assert not any(one.distinguishable for one in found.pairs[0].differences.values())


def test_a_test_set_of_one_class_leaves_the_auroc_undefined():
    rng = np.random.default_rng(0)
    targets = np.zeros(30, int)
    models = [model(rng, rng.normal(size=(30, 2)), targets, 1.0) for _ in range(2)]
    found = compare(single(models), n_resamples=50)
    assert found.rows[0].estimates["macro_auroc"].value is None
    assert found.pairs[0].differences["macro_auroc"].value is None
    assert found.pairs[0].differences["accuracy"].p is not None


def test_holm_counts_all_pairs(make_models):
    found = compare(single(make_models([1.0, 1.2, 1.4, 3.0])), n_resamples=100)
    assert len(found.pairs) == 6
    for name in compared():
        raw = sorted(pair.differences[name].p for pair in found.pairs)
        assert min(pair.differences[name].p_holm for pair in found.pairs) == pytest.approx(min(1, 6 * raw[0]))
    json.dumps(found.to_json())


def test_what_cannot_be_compared_is_refused(make_models):
    one, two = make_models([1.0, 2.0])
    with pytest.raises(ConfigError, match="one name"):
        compare([Candidate.of("a", one), Candidate.of("a", two)])
    with pytest.raises(ConfigError, match="confidence_level"):
        compare(single([one, two]), confidence_level=95)
    with pytest.raises(DataError, match="10 only in a "):
        compare([Candidate.of("a", one), Candidate.of("b", two.take(np.arange(290)))])


@pytest.mark.slow
def test_ten_models_of_ten_thousand_cases_take_seconds(make_models):
    """6 s of one core on 2026-11-22; the promise is 30."""
    models = single(make_models(np.linspace(1, 2, 10), n=10_000, k=10))
    started = time.process_time()
    assert len(compare(models).pairs) == 45
    assert time.process_time() - started < 30
