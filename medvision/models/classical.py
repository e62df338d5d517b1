"""Classical models: scikit-learn pipelines behind features of the images, built by config like a network.

Support vector machines have no probabilities of their own. Theirs are the softmax of the margins at the temperature
that suits held-out folds of the training images best: no other image is needed for it, and it leaves the most probable
class what it was. The others have their own. What is done with a network's logits is done with the logarithms of these.
"""

from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from medvision.models.features import Embedding, Features

# exp(-16): a tree's leaf of one class is as sure of it as a float32 softmax would be at a margin of 16.
SMALLEST = 1e-7

ClassWeights = Literal["none", "balanced"]


class Classical:
    """Classifies raw images by a scikit-learn estimator over features of them.

    Args:
        features: uint8 images (N, C, H, W) to float32 (N, D).
        estimator: has `fit(X, y)`, and `predict_proba` once it is fitted.
        num_classes: number of classes K; targets are 0 to K - 1.
    """

    def __init__(self, features: Features, estimator: Any, num_classes: int) -> None:
        self.features = features
        self.estimator = estimator
        self.num_classes = num_classes

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logarithms (N, K) of the probabilities of images (N, C, H, W), of `SMALLEST` where they are below it."""
        if not len(images):
            return np.empty((0, self.num_classes), np.float32)
        probs = np.asarray(self.estimator.predict_proba(self.features(images)), np.float64)
        return np.log(np.maximum(probs, SMALLEST)).astype(np.float32)

    def to(self, device: Any) -> Self:
        """Have the features made on this torch device, where a network makes them."""
        if isinstance(self.features, Embedding) and self.features.network is not None:
            self.features.network.to(device)
        return self

    def __str__(self) -> str:
        """The steps, such as `PCA, SVC`."""
        inner = getattr(self.estimator, "estimator", self.estimator)
        steps = [step for _, step in getattr(inner, "steps", [("", inner)])]
        return ", ".join(type(getattr(step, "estimator", step)).__name__ for step in steps)


def svm(
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int],
    *,
    features: Features,
    pca: int | None = 50,
    C: float = 10.0,
    gamma: float | Literal["scale", "auto"] = "scale",
    class_weights: ClassWeights = "none",
    calibration_folds: int = 3,
) -> Classical:
    """A support vector machine with a radial basis function, one class against the rest.

    Against the rest and not in pairs: margins of pairs end up as votes, which make poor probabilities (on 20,000 digits
    of MNIST, log loss 0.06 instead of 0.14).

    Args:
        num_classes: number of classes.
        in_channels: of the images.
        image_size: height and width in pixels.
        features: what is seen of an image.
        pca: number of principal components that are kept of the features; None keeps the features.
        C: above 0; what a training image on the wrong side costs. Small values give smooth boundaries.
        gamma: reach of a training image, small is far; scale is 1 / (number of features x their variance).
        class_weights: balanced makes an image cost more the rarer its class is.
        calibration_folds: of the training images, for the temperature; a fit for each, besides the last one.
    """
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.svm import SVC

    machine = SVC(C=C, gamma=gamma, class_weight=_weights(class_weights), cache_size=500)
    return Classical(features, _calibrated(_piped(OneVsRestClassifier(machine), pca), calibration_folds), num_classes)


def linear_svm(
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int],
    *,
    features: Features,
    pca: int | None = None,
    C: float = 0.1,
    class_weights: ClassWeights = "none",
    calibration_folds: int = 3,
) -> Classical:
    """A linear support vector machine, one class against the rest; arguments as of `svm`."""
    from sklearn.svm import LinearSVC

    machine = LinearSVC(C=C, class_weight=_weights(class_weights), max_iter=5000)
    return Classical(features, _calibrated(_piped(machine, pca), calibration_folds), num_classes)


def decision_tree(
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int],
    *,
    features: Features,
    pca: int | None = None,
    criterion: Literal["gini", "entropy"] = "gini",
    max_depth: int | None = None,
    min_samples_leaf: int = 1,
    class_weights: ClassWeights = "none",
) -> Classical:
    """A single decision tree (CART).

    Args:
        num_classes: number of classes.
        in_channels: of the images.
        image_size: height and width in pixels.
        features: what is seen of an image.
        pca: as of `svm`.
        criterion: what a question should lower most: the Gini impurity or the entropy of the classes.
        max_depth: questions in a row at the most; None asks until a leaf has one class.
        min_samples_leaf: training images that a leaf keeps at least.
        class_weights: as of `svm`.
    """
    from sklearn.tree import DecisionTreeClassifier

    tree = DecisionTreeClassifier(
        criterion=criterion,
        max_depth=max_depth,
        min_samples_leaf=min_samples_leaf,
        class_weight=_weights(class_weights),
    )
    return Classical(features, _piped(tree, pca), num_classes)


def random_forest(
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int],
    *,
    features: Features,
    pca: int | None = None,
    n_estimators: int = 100,
    max_depth: int | None = None,
    min_samples_leaf: int = 1,
    class_weights: ClassWeights = "none",
) -> Classical:
    """Decision trees on resampled images, each split choosing among a few features at random; their mean decides.

    Args:
        num_classes: number of classes.
        in_channels: of the images.
        image_size: height and width in pixels.
        features: what is seen of an image.
        pca: as of `svm`.
        n_estimators: number of trees.
        max_depth: as of `decision_tree`.
        min_samples_leaf: as of `decision_tree`.
        class_weights: as of `svm`.
    """
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(
        n_estimators=n_estimators,
        max_depth=max_depth,
        min_samples_leaf=min_samples_leaf,
        class_weight=_weights(class_weights),
        n_jobs=-1,
    )
    return Classical(features, _piped(forest, pca), num_classes)


def gradient_boosting(
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int],
    *,
    features: Features,
    pca: int | None = None,
    max_iter: int = 100,
    learning_rate: float = 0.1,
    max_leaf_nodes: int = 31,
    class_weights: ClassWeights = "none",
) -> Classical:
    """Gradient boosting of trees over binned features (Ke et al. 2017, LightGBM).

    Args:
        num_classes: number of classes.
        in_channels: of the images.
        image_size: height and width in pixels.
        features: what is seen of an image.
        pca: as of `svm`.
        max_iter: rounds, of a tree for each class.
        learning_rate: share of each tree that is added.
        max_leaf_nodes: leaves of a tree.
        class_weights: as of `svm`.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    boosting = HistGradientBoostingClassifier(
        max_iter=max_iter,
        learning_rate=learning_rate,
        max_leaf_nodes=max_leaf_nodes,
        class_weight=_weights(class_weights),
        early_stopping=False,  # it would hold out images at random, whatever their group
    )
    return Classical(features, _piped(boosting, pca), num_classes)


def knn(
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int],
    *,
    features: Features,
    pca: int | None = 50,
    n_neighbors: int = 5,
    weighting: Literal["uniform", "distance"] = "distance",
) -> Classical:
    """The k nearest training images decide; they are kept in the bundle.

    Args:
        num_classes: number of classes.
        in_channels: of the images.
        image_size: height and width in pixels.
        features: what is seen of an image.
        pca: as of `svm`.
        n_neighbors: number of neighbours k.
        weighting: uniform, or distance: near ones count more.
    """
    from sklearn.neighbors import KNeighborsClassifier

    neighbours = KNeighborsClassifier(n_neighbors=n_neighbors, weights=weighting, algorithm="brute", n_jobs=-1)
    return Classical(features, _piped(neighbours, pca), num_classes)


def majority(
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int],
    *,
    features: Features,
) -> Classical:
    """The share of each class among the training images, whatever the image: what every other model must beat."""
    from sklearn.dummy import DummyClassifier

    return Classical(features, DummyClassifier(strategy="prior"), num_classes)


def _weights(class_weights: ClassWeights) -> str | None:
    return None if class_weights == "none" else class_weights


def _piped(model: Any, pca: int | None) -> Any:
    from sklearn.decomposition import PCA
    from sklearn.pipeline import Pipeline

    return Pipeline([*([("pca", PCA(pca))] if pca else []), ("model", model)])


def _calibrated(pipeline: Any, folds: int) -> Any:
    from sklearn.calibration import CalibratedClassifierCV

    # ensemble=False: the folds give the temperature only, and the one model that is kept has seen all images.
    return CalibratedClassifierCV(pipeline, method="temperature", cv=folds, ensemble=False)
