import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from medvision.audits.label_errors import divide, find_label_errors, out_of_fold
from medvision.errors import ConfigError, DataError

NAMES = tuple("0123456789")


@pytest.fixture(scope="module")
def digits():
    """Features, true labels, labels of which 54 are wrong, and which these are."""
    images, truth = load_digits(return_X_y=True)
    # Linear models tell digits apart by these as by what a network makes of them.
    images = Nystroem(gamma=5e-4, n_components=300, random_state=0).fit_transform(images)
    rng = np.random.default_rng(0)
    wrong = rng.choice(len(truth), 54, replace=False)
    labels = truth.astype(np.int64)
    labels[wrong] = (labels[wrong] + rng.integers(1, 10, 54)) % 10
    return images, truth, labels, set(wrong.tolist())


def test_most_planted_errors_are_found_and_few_others(digits):
    images, truth, labels, wrong = digits
    probs = out_of_fold(images, labels, np.arange(len(labels)), NAMES)
    np.testing.assert_allclose(probs.sum(axis=1), 1)
    found = find_label_errors(labels, probs)
    flagged = found.rows.tolist()
    assert len(wrong & set(flagged)) >= 43  # 80 %
    assert len(set(flagged) - wrong) <= 6
    right = [row for row in range(len(flagged)) if flagged[row] in wrong]
    assert np.mean(found.suggested[right] == truth[found.rows[right]]) > 0.9
    assert (found.suggested != labels[found.rows]).all()
    assert (np.diff(found.quality) >= 0).all()
    np.testing.assert_allclose(found.quality, probs[found.rows, labels[found.rows]])


def test_out_of_fold_is_as_good_as_the_cross_validation_of_scikit_learn(digits):
    images, truth, *_ = digits
    ours = out_of_fold(images, truth, np.arange(len(truth)), NAMES).argmax(axis=1)
    theirs = cross_val_predict(LogisticRegression(max_iter=1000), images, truth, cv=5)
    assert np.mean(ours == truth) == pytest.approx(np.mean(theirs == truth), abs=0.05)


def test_nothing_is_learnt_of_labels_that_mean_nothing():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 400)
    # Copies of every image: whoever trains on one of them knows the other.
    embeddings = np.repeat(rng.standard_normal((200, 300)), 2, axis=0)
    labels = np.repeat(labels[:200], 2)
    preds = out_of_fold(embeddings, labels, np.arange(400) // 2, ("a", "b")).argmax(axis=1)
    assert np.mean(preds == labels) < 0.65
    apart = out_of_fold(embeddings, labels, np.arange(400), ("a", "b")).argmax(axis=1)
    assert np.mean(apart == labels) > 0.75


def test_rare_and_absent_classes():
    labels = np.array([0] * 20 + [2] * 3)
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((23, 2)) + 5 * labels[:, np.newaxis]
    probs = out_of_fold(embeddings, labels, np.arange(23), ("a", "b", "c"))
    assert len(np.unique(divide(labels, np.arange(23), 5, ("a", "b", "c")))) == 3
    assert (probs[:, 1] == 0).all()
    assert find_label_errors(labels, probs).rows.tolist() == []
    with pytest.raises(DataError, match=r"too few of c \(1\)"):
        divide(labels[:21], np.arange(21), 5, ("a", "b", "c"))


def test_without_cleanlab_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cleanlab.filter", None)
    with pytest.raises(ConfigError, match=r"medvision\[labels\]"):
        find_label_errors(np.array([0, 1]), np.eye(2))
