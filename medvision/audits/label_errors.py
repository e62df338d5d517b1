"""Labels that are probably wrong, by what models say that were not trained on the image. Knows no torch."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvision.data.splits import folds
from medvision.errors import ConfigError

FOLDS = 5  # of the regression; fewer where a class has fewer images
# A tenth of scikit-learn's default: wrong labels are not to be fitted. On pixels of digits with 3 % wrong labels it
# halved the false alarms (91 to 46) and cost 6 of 48 hits; on embeddings of a network both find about the same.
C = 0.1


@dataclass(frozen=True, eq=False)
class LabelErrors:
    """Images whose label is under suspicion, the least plausible label first.

    Attributes:
        rows: (n,) positions among the images that were checked.
        suggested: (n,) int64, the class that the models hold for most probable; never the given one.
        quality: (n,) in [0, 1], the probability that the models give to the given label.
    """

    rows: NDArray[np.intp]
    suggested: NDArray[np.int64]
    quality: NDArray[np.float64]


def find_label_errors(labels: NDArray[np.int64], probs: NDArray[np.float64]) -> LabelErrors:
    """Find labels that are probably wrong by confident learning, as cleanlab does by default.

    How many labels of each pair of classes are mistaken for one another is estimated from the images that a class
    claims with more than the average confidence it has in its own. So many are picked, those first in which the given
    label loses by most.

    Args:
        labels: (N,) in [0, K).
        probs: (N, K), rows sum to 1, of models that did not train on the image.

    Raises:
        ConfigError: if cleanlab is not installed.

    Source: Northcutt et al. 2021, arXiv:1911.00068.
    """
    filter_issues, score = import_cleanlab()
    with warnings.catch_warnings():
        # A class without a single label has none that could be wrong.
        warnings.filterwarnings("ignore", "May not flag all label issues in class")
        # One process: what cleanlab would start for large data costs more than it saves.
        flagged = filter_issues(labels, probs, n_jobs=1)
    quality = np.asarray(score(labels, probs), np.float64)
    rows = np.flatnonzero(flagged)
    rows = rows[np.argsort(quality[rows], kind="stable")]
    return LabelErrors(rows, np.asarray(probs[rows].argmax(axis=1), np.int64), quality[rows])


def out_of_fold(
    embeddings: NDArray[np.floating], labels: NDArray[np.int64], units: NDArray[np.intp], class_names: tuple[str, ...]
) -> NDArray[np.float64]:
    """Probabilities of each image from logistic regression on the embeddings of the images of other folds.

    Args:
        embeddings: (N, D).
        labels: (N,) in [0, K).
        units: (N,) number of what is not divided between folds; see `medvision.data.splits.folds`.
        class_names: K names.

    Returns:
        (N, K), rows sum to 1; 0 for a class that no image has.

    Raises:
        DataError: if a class has one unit only.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    held_out = divide(labels, units, FOLDS, class_names)
    probs = np.zeros((len(labels), len(class_names)))
    for fold in np.unique(held_out):
        here = held_out == fold
        model = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=1000))
        model.fit(embeddings[~here], labels[~here])
        probs[np.ix_(here, model.classes_)] = model.predict_proba(embeddings[here])
    return probs


def divide(
    labels: NDArray[np.int64], units: NDArray[np.intp], n_folds: int, class_names: tuple[str, ...]
) -> NDArray[np.int64]:
    """(N,) fold of each image, at most `n_folds` of them: a class with fewer units means fewer folds, two at least.

    Raises:
        DataError: if a class has one unit only.
    """
    present = np.unique(labels)
    scarcest = min(len(np.unique(units[labels == label])) for label in present)
    names = [class_names[label] for label in present]
    codes = np.searchsorted(present, labels)
    return folds(codes, units, max(2, min(n_folds, scarcest)), split_seed=0, class_names=names)


def import_cleanlab() -> tuple[Any, Any]:
    """What finds label errors and what scores labels.

    Raises:
        ConfigError: if cleanlab is not installed.
    """
    try:
        from cleanlab.filter import find_label_issues  # type: ignore[import-untyped]
        from cleanlab.rank import get_label_quality_scores  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        raise ConfigError(
            "labels=true needs the package cleanlab. Install it: pip install 'medvision[labels]'."
        ) from error
    return find_label_issues, get_label_quality_scores
