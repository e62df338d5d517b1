"""Two classifiers that should fail: the label from what is not in the picture, and the split from the picture."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medvision.audits.near_duplicates import SIDE
from medvision.randomness import generator, key

# Bytes and brightness follow what a picture shows: they predict the label of the digits with an AUROC of 0.66 and of
# MNIST, as PNG files, of 0.71, which is no shortcut; those of brain_mri's files reach 0.85. Splits have no reason to
# differ: MNIST's test split, of other writers, is predicted with 0.54.
METADATA_ALARM = 0.75
MEMBERSHIP_ALARM = 0.6
STANDARD_ERRORS = 4  # standard errors above 0.5 that chance does not reach, however few the images
_MOST = 4000  # images that are enough for either question
_FOLDS = 5
_BLOCK = 4  # thumbnails are averaged over squares of so many pixels


@dataclass(frozen=True)
class Guess:
    """How well something can be predicted that should not be.

    Attributes:
        auroc: cross-validated area under the ROC curve, 0.5 for guessing; None where there is too little to say.
        limit: what it has to exceed to be an alarm.
        n: images it was computed on.
        alone: the same for each feature on its own, where that was asked.
    """

    auroc: float | None
    limit: float
    n: int
    alone: dict[str, float]

    @property
    def alarms(self) -> bool:
        """Whether it can be predicted."""
        return self.auroc is not None and self.auroc > self.limit

    def to_json(self) -> dict[str, Any]:
        """Its values and its verdict."""
        return asdict(self) | {"alarms": self.alarms}


def guess_label(features: pd.DataFrame, labels: NDArray[np.int64], units: NDArray[np.intp]) -> Guess:
    """Predict the class from metadata alone.

    Args:
        features: one row for each of N images, numbers and text; columns with one value throughout are left out.
        labels: (N,) class.
        units: (N,) number of what must not be divided between folds: patients, and copies of a picture.

    Returns:
        The mean over classes of one class against the rest.
    """
    varying = {name: _numbers(column) for name, column in features.items() if column.nunique() > 1}
    table = pd.DataFrame(varying, index=features.index)
    rows = _sample(labels, "label")
    values, labels, units = table.to_numpy(np.float64)[rows], labels[rows], units[rows]
    known = np.unique(labels)
    scores = _out_of_fold(_forest(), values, labels, units)
    if scores is None:
        return Guess(None, METADATA_ALARM, len(rows), {})
    error = float(np.mean([_standard_error(labels == one) for one in known]))
    alone = {}
    for number, name in enumerate(table.columns):
        single = _out_of_fold(_tree(len(rows)), values[:, [number]], labels, units)
        assert single is not None
        alone[str(name)] = _macro(labels, single)
    return Guess(_macro(labels, scores), max(METADATA_ALARM, 0.5 + STANDARD_ERRORS * error), len(rows), alone)


def guess_split(
    small: NDArray[np.uint8], inside: NDArray[np.bool_], labels: NDArray[np.int64], units: NDArray[np.intp]
) -> Guess:
    """Predict from its small picture whether an image is in a split or in the training images.

    Classes are scored one by one and averaged: other class shares are no other pictures.

    Args:
        small: (N, SIDE, SIDE) uint8 thumbnails.
        inside: (N,) whether the image is in the split, not in train.
        labels: (N,) class.
        units: (N,) as in `guess_label`.
    """
    rows = _sample(inside.astype(np.int64), "split")
    small, inside, labels, units = small[rows], inside[rows], labels[rows], units[rows]
    count = SIDE // _BLOCK
    blocks = small.reshape(-1, count, _BLOCK, count, _BLOCK).mean(axis=(2, 4)).reshape(len(rows), -1)
    features = np.column_stack([blocks, small.std(axis=(1, 2))])
    scores = _out_of_fold(_forest(), features, inside.astype(np.int64), units)
    parts = [labels == one for one in np.unique(labels)]
    parts = [part for part in parts if inside[part].any() and not inside[part].all()]
    if scores is None or not parts:
        return Guess(None, MEMBERSHIP_ALARM, len(rows), {})
    from sklearn.metrics import roc_auc_score

    areas = np.array([roc_auc_score(inside[part], scores[part, 1]) for part in parts])
    errors = np.array([_standard_error(inside[part]) for part in parts])
    weights = errors**-2.0 / (errors**-2.0).sum()  # of least variance
    error = float(np.sqrt(np.square(weights * errors).sum()))
    return Guess(float(weights @ areas), max(MEMBERSHIP_ALARM, 0.5 + STANDARD_ERRORS * error), len(rows), {})


def _forest() -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(100, min_samples_leaf=5, random_state=key("audit") % 2**32, n_jobs=-1)


def _tree(n: int) -> Any:
    """For a single feature, whose values a tree cuts into ranges."""
    from sklearn.tree import DecisionTreeClassifier

    return DecisionTreeClassifier(min_samples_leaf=max(5, n // 30), random_state=key("audit") % 2**32)


def _out_of_fold(
    model: Any, features: NDArray[np.floating[Any]], targets: NDArray[np.int64], units: NDArray[np.intp]
) -> NDArray[np.float64] | None:
    """(N, K) probabilities, each image's by a model that saw nothing of its unit; None where units are too few."""
    from sklearn.base import clone
    from sklearn.model_selection import StratifiedGroupKFold

    known, targets = np.unique(targets, return_inverse=True)
    each = [len(np.unique(units[targets == one])) for one in range(len(known))]
    if features.shape[1] == 0 or len(known) < 2 or min(each) < _FOLDS:
        return None
    folds = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=key("audit") % 2**32)
    scores = np.zeros((len(targets), len(known)))
    for train, test in folds.split(features, targets, units):
        fitted = clone(model).fit(features[train], targets[train])
        scores[np.ix_(test, fitted.classes_)] = fitted.predict_proba(features[test])
    return scores


def _macro(labels: NDArray[np.int64], scores: NDArray[np.float64]) -> float:
    from sklearn.metrics import roc_auc_score

    known = np.unique(labels)
    return float(np.mean([roc_auc_score(labels == one, scores[:, place]) for place, one in enumerate(known)]))


def _standard_error(positive: NDArray[np.bool_]) -> float:
    """Of the AUROC of guesses (Hanley & McNeil 1982, at 0.5)."""
    inside, outside = int(positive.sum()), int((~positive).sum())
    return float(np.sqrt((inside + outside + 1) / (12 * inside * outside)))


def _sample(strata: NDArray[np.int64], name: str) -> NDArray[np.intp]:
    """At most `_MOST` rows, as many of each stratum as there are or as its equal part."""
    order = generator("audit", name).permutation(len(strata))
    place = pd.Series(order).groupby(strata[order]).cumcount().to_numpy()
    return np.sort(order[np.argsort(place, kind="stable")[:_MOST]])


def _numbers(column: "pd.Series[Any]") -> NDArray[np.float64]:
    """A column as numbers: text by how often it occurs, what is missing as -1."""
    if pd.api.types.is_numeric_dtype(column):
        return column.fillna(-1).to_numpy(np.float64)
    ranks = {value: rank for rank, value in enumerate(column.value_counts().index)}
    return column.map(ranks).to_numpy(np.float64)
