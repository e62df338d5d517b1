"""Fitted scikit-learn estimators as bytes and back: no pickle, and no type that is not listed here."""

import io
import json
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvision.errors import BundleError

# Types that skops does not vouch for; the trees among them because their contents could lead astray: see `_check_tree`.
_VOUCHED_FOR = (
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._TemperatureScaling",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.tree._tree.Tree",
)

ALLOWED = frozenset(
    (
        *_VOUCHED_FOR,
        *(f"builtins.{name}" for name in ("bool", "dict", "float", "int", "list", "str", "tuple")),
        *(f"numpy.{name}" for name in ("bool", "float32", "float64", "int32", "int64", "ndarray", "uint8", "uint64")),
        "numpy.random._generator.Generator",
        "sklearn._loss._loss.CyHalfBinomialLoss",
        "sklearn._loss._loss.CyHalfMultinomialLoss",
        "sklearn._loss.link.Interval",
        "sklearn._loss.link.LogitLink",
        "sklearn._loss.link.MultinomialLogit",
        "sklearn._loss.loss.HalfBinomialLoss",
        "sklearn._loss.loss.HalfMultinomialLoss",
        "sklearn.calibration.CalibratedClassifierCV",
        "sklearn.decomposition._pca.PCA",
        "sklearn.dummy.DummyClassifier",
        "sklearn.ensemble._forest.RandomForestClassifier",
        "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper",
        "sklearn.ensemble._hist_gradient_boosting.gradient_boosting.HistGradientBoostingClassifier",
        "sklearn.multiclass.OneVsRestClassifier",
        "sklearn.multiclass._ConstantPredictor",
        "sklearn.neighbors._classification.KNeighborsClassifier",
        "sklearn.pipeline.Pipeline",
        "sklearn.preprocessing._label.LabelBinarizer",
        "sklearn.preprocessing._label.LabelEncoder",
        "sklearn.svm._classes.LinearSVC",
        "sklearn.svm._classes.SVC",
        "sklearn.tree._classes.DecisionTreeClassifier",
    )
)


def estimator_to_bytes(estimator: Any) -> bytes:
    """A fitted estimator in the format of skops."""
    import skops.io as skops  # walks through all of scikit-learn, which takes a second

    return bytes(skops.dumps(estimator))


def estimator_from_bytes(content: bytes, num_classes: int, source: str) -> Any:
    """The estimator that `estimator_to_bytes` was given.

    Args:
        content: the bytes.
        num_classes: number of classes K that it must have.
        source: where the bytes are from, for messages.

    Raises:
        BundleError: if a type in it is not in `ALLOWED`, a tree is none, it cannot be loaded or has other classes.
    """
    import skops.io as skops
    from skops.io.exceptions import UntrustedTypesFoundException

    try:
        schema = json.loads(zipfile.ZipFile(io.BytesIO(content)).read("schema.json"))
        unknown = sorted(set(_types(schema)) - ALLOWED)
        if unknown:
            raise BundleError(
                f"{source} holds {unknown[0]}, which is no part of a classical model here. Do not use it."
            )
        estimator = skops.loads(content, trusted=_VOUCHED_FOR)
        classes = np.asarray(estimator.classes_)
    except UntrustedTypesFoundException as error:
        raise BundleError(f"{source} is not to be trusted: {str(error).splitlines()[0]} Do not use it.") from error
    except (zipfile.BadZipFile, AttributeError, ImportError, KeyError, TypeError, ValueError) as error:
        raise BundleError(
            f"{source} cannot be loaded ({type(error).__name__}: {error}).\n"
            "Load it with the versions of medvision and scikit-learn that wrote it; bundle.json names them."
        ) from error
    if not np.array_equal(classes, np.arange(num_classes)):
        raise BundleError(f"{source} has {len(classes)} classes, its bundle {num_classes}. Do not use it.")
    for tree in _trees(estimator):
        _check_tree(*tree, source)
    return estimator


def _types(node: Any) -> Iterator[str]:
    """Every type that a skops schema names."""
    if isinstance(node, dict):
        if "__class__" in node:
            yield f"{node['__module__']}.{node['__class__']}"
        node = list(node.values())
    if isinstance(node, list):
        for one in node:
            yield from _types(one)


def _trees(estimator: Any) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], int]]:
    """Left child, right child (-1 below leaves) and feature of each node of each tree, and the number of features."""
    model = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
    count = int(getattr(model, "n_features_in_", 0))
    for one in [*getattr(model, "estimators_", []), model]:
        if hasattr(one, "tree_"):
            tree = one.tree_
            yield tree.children_left, tree.children_right, tree.feature, count
    for one in (one for round_ in getattr(model, "_predictors", []) for one in round_):
        nodes = one.nodes
        leaf = nodes["is_leaf"].astype(bool)
        left, right = (np.where(leaf, -1, nodes[side].astype(np.int64)) for side in ("left", "right"))
        # Our features are all numbers: a question for a category would look up a table that is not there.
        yield left, right, np.where(nodes["is_categorical"], -1, nodes["feature_idx"]), count


def _check_tree(
    left: NDArray[np.int64],
    right: NDArray[np.int64],
    feature: NDArray[np.int64],
    n_features: int,
    source: str,
) -> None:
    """Refuse a tree whose nodes point outside it, backwards, or to features that there are not.

    scikit-learn follows the numbers without looking, so a forged tree would read beyond its memory or never end.
    """
    parent = np.arange(len(left))
    inner = left != -1
    fits = (left > parent) & (right > parent) & (np.maximum(left, right) < len(left))
    fits &= (feature >= 0) & (feature < n_features)
    if not (fits | (~inner & (right == -1))).all():
        raise BundleError(f"{source} holds a tree whose nodes are not a tree's. Do not use it.")
