import numpy as np
import pytest
from sklearn import metrics as sk

from medvision.metrics import influence

ALONE = np.arange(240)


def by_scikit_learn(name, probs, targets):
    if name == "accuracy":
        return sk.accuracy_score(targets, probs.argmax(axis=1))
    if name == "balanced_accuracy":
        return sk.balanced_accuracy_score(targets, probs.argmax(axis=1))
    return np.mean([sk.roc_auc_score(targets == c, probs[:, c]) for c in np.unique(targets)])


@pytest.mark.parametrize("name", ["accuracy", "balanced_accuracy", "macro_auroc"])
@pytest.mark.parametrize("decimals", [None, 0])
def test_values_are_scikit_learns(make_predictions, name, decimals):
    predictions = make_predictions(240, 4, decimals=decimals)

    found = getattr(influence, name)(predictions.probs, predictions.targets, ALONE)

    assert found.value == pytest.approx(by_scikit_learn(name, predictions.probs, predictions.targets), abs=1e-12)
    assert found.of_samples.sum() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", ["accuracy", "balanced_accuracy", "macro_auroc"])
@pytest.mark.parametrize("slots", [ALONE, ALONE // 4])
def test_standard_errors_are_those_of_the_bootstrap_over_units(make_predictions, name, slots):
    predictions = make_predictions(240, 3)
    # Alike within a group, as the images of a patient are.
    probs = np.repeat(predictions.probs[::4], 4, axis=0) * 0.6 + predictions.probs * 0.4
    targets = np.repeat(predictions.targets[::4], 4)
    rng, values = np.random.default_rng(0), []
    units = slots.max() + 1
    members = [np.flatnonzero(slots == unit) for unit in range(units)]
    for _ in range(400):
        rows = np.concatenate([members[unit] for unit in rng.integers(0, units, units)])
        values.append(by_scikit_learn(name, probs[rows], targets[rows]))

    found = getattr(influence, name)(probs, targets, slots).standard_error(slots)

    assert found == pytest.approx(np.std(values), rel=0.12)


@pytest.mark.parametrize("decimals", [None, 0])
def test_the_auroc_of_two_classes_has_delongs_standard_error(make_predictions, decimals):
    predictions = make_predictions(240, 2, decimals=decimals)
    scores, positive = predictions.probs[:, 1], predictions.targets == 1
    ours, theirs = scores[positive][:, None], scores[~positive]
    wins = (ours > theirs) + (ours == theirs) / 2  # every pair

    found = influence.macro_auroc(predictions.probs, predictions.targets, ALONE)

    variance = wins.mean(axis=1).var(ddof=1) / len(ours) + wins.mean(axis=0).var(ddof=1) / len(theirs)
    assert found.standard_error(ALONE) == pytest.approx(np.sqrt(variance), rel=1e-9)


def test_a_class_alone_has_no_auroc_and_absent_classes_are_left_out(make_predictions):
    alone = make_predictions(20, 3, targets=np.zeros(20, int))
    two = make_predictions(240, 3, targets=np.arange(240) % 2)

    undefined = influence.macro_auroc(alone.probs, alone.targets, np.arange(20))
    found = influence.macro_auroc(two.probs, two.targets, ALONE)

    assert np.isnan(undefined.value)
    assert not undefined.of_samples.any()
    assert found.classes == influence.balanced_accuracy(two.probs, two.targets, ALONE).classes == 2
    assert found.value == pytest.approx(by_scikit_learn("macro_auroc", two.probs, two.targets), abs=1e-12)


def test_units_are_those_of_the_smallest_side(make_predictions):
    predictions = make_predictions(12, 2, targets=[0] * 8 + [1] * 4)
    slots = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 4, 5])

    assert influence.accuracy(predictions.probs, predictions.targets, slots).units == 6
    assert influence.balanced_accuracy(predictions.probs, predictions.targets, slots).units == 2
    assert influence.macro_auroc(predictions.probs, predictions.targets, slots).units == 2
