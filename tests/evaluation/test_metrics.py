import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from medvision.evaluation.metrics import Ranking, Scorer, macro

EXACT = {"rtol": 0, "atol": 1e-12}


def once(predictions):
    """The metrics of the samples as they are, as plain numbers."""
    counts = np.ones((1, len(predictions.ids)), dtype=np.int32)
    return {name: float(value[0]) for name, value in Scorer(predictions)(counts).items()}


def by_scikit_learn(targets, probs, class_names, weights=None):
    """The same metrics from scikit-learn; every class must be present and predicted."""
    labels, preds = range(len(class_names)), probs.argmax(axis=1)
    per_class = {
        "precision": sk.precision_score(targets, preds, labels=labels, average=None, sample_weight=weights),
        "recall": sk.recall_score(targets, preds, labels=labels, average=None, sample_weight=weights),
        "f1": sk.f1_score(targets, preds, labels=labels, average=None, sample_weight=weights),
        "auroc": [sk.roc_auc_score(targets == c, probs[:, c], sample_weight=weights) for c in labels],
    }
    return (
        {"accuracy": sk.accuracy_score(targets, preds, sample_weight=weights)}
        | {f"macro/{metric}": np.mean(values) for metric, values in per_class.items()}
        | {f"{metric}/{name}": values[c] for metric, values in per_class.items() for c, name in enumerate(class_names)}
    )


@pytest.mark.parametrize("k", [2, 3, 10])
@pytest.mark.parametrize("decimals", [None, 0])
def test_equal_to_scikit_learn(make_predictions, k, decimals):
    predictions = make_predictions(300, k, decimals=decimals)

    expected = by_scikit_learn(predictions.targets, predictions.probs, predictions.class_names)

    found = once(predictions)
    assert found.keys() == expected.keys()
    np.testing.assert_allclose([found[name] for name in expected], list(expected.values()), **EXACT)


def test_each_resample_is_scored_as_scikit_learn_scores_weighted_samples(make_predictions):
    predictions = make_predictions(150, 3, decimals=0)
    counts = np.random.default_rng(1).poisson(1, size=(20, 150)).astype(np.int32)

    found = Scorer(predictions)(counts)

    for row, weights in enumerate(counts):
        expected = by_scikit_learn(predictions.targets, predictions.probs, predictions.class_names, weights)
        np.testing.assert_allclose([found[name][row] for name in expected], list(expected.values()), **EXACT)


def test_a_class_without_samples_is_undefined_and_left_out_of_the_mean(make_predictions):
    predictions = make_predictions(200, 4, targets=np.arange(200) % 3)

    found = once(predictions)

    assert (predictions.preds == 3).any()
    assert all(np.isnan(found[f"{metric}/class 3"]) for metric in ("recall", "f1", "auroc"))
    assert found["precision/class 3"] == 0
    assert found["macro/recall"] == pytest.approx(np.mean([found[f"recall/class {c}"] for c in range(3)]), abs=1e-12)


def test_a_class_that_is_never_predicted_has_no_precision_but_an_f1_of_zero(make_predictions):
    predictions = make_predictions(50, 2, spread=0, targets=np.arange(50) % 2)
    predictions.probs[:] = np.linspace([0.6, 0.4], [0.9, 0.1], 50)

    found = once(predictions)

    assert np.isnan(found["precision/class 1"])
    assert found["f1/class 1"] == 0
    assert found["macro/precision"] == found["precision/class 0"] == 0.5


def test_one_class_alone_has_no_auroc(make_predictions):
    found = once(make_predictions(20, 2, targets=np.zeros(20, int)))

    assert np.isnan([found["auroc/class 0"], found["auroc/class 1"], found["macro/auroc"]]).all()
    assert found["macro/recall"] == found["recall/class 0"]


def test_macro_of_nothing_is_undefined():
    np.testing.assert_array_equal(macro(np.array([[1.0, np.nan, 0.5], [np.nan] * 3])), [0.75, np.nan])


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 3)), min_size=1, max_size=30))
def test_auroc_is_the_share_of_pairs_in_order(samples):
    scores, positive, counts = (np.array(column) for column in zip(*samples, strict=True))
    ours, theirs = np.repeat(scores, counts * positive), np.repeat(scores, counts * ~positive)
    wins = np.sign(ours[:, None] - theirs[None, :]) / 2 + 0.5

    found = Ranking.of(scores.astype(float), positive).auroc(counts[None].astype(np.int32))

    np.testing.assert_allclose(found, [wins.mean() if wins.size else np.nan], **EXACT)


def test_a_perfect_ranking_is_exactly_one(make_predictions):
    found = once(make_predictions(999, 3, spread=50))

    assert found["macro/auroc"] == found["accuracy"] == found["macro/f1"] == 1.0
