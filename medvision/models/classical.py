"""Classical models: a scikit-learn estimator over features of the images, built by config like a network.

Support vector machines have no probabilities of their own. Theirs are the softmax of the margins at the temperature
that suits held-out folds of the training images best: no other image is needed for it, and it leaves the most probable
class what it was. The others have their own. What is done with a network's logits is done with the logarithms of these.
"""

from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from medvision.models.features import Features

# exp(-16): a tree's leaf of one class is as sure of it as a float32 softmax would be at a margin of 16.
SMALLEST = 1e-7


class Fitting(Protocol):
    """What fits a classical model; see `medvision.training.fit.Fitting`."""

    def classical(self, model: "Classical") -> Any:
        """Fit it in place."""


class Classical:
    """Classifies raw images by a scikit-learn estimator over features of them.

    Args:
        features: uint8 images (N, C, H, W) to float32 (N, D).
        estimator: has `fit(X, y)`, and `predict_proba` once it is fitted.
        num_classes: number of classes K; targets are 0 to K - 1.
    """

    has_embeddings = False

    def __init__(self, features: Features, estimator: Any, num_classes: int) -> None:
        self.features = features
        self.estimator = estimator
        self.num_classes = num_classes

    def fit(self, fitting: Fitting) -> Any:
        """Have the estimator fitted."""
        return fitting.classical(self)

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logarithms (N, K) of the probabilities of images (N, C, H, W), of `SMALLEST` where they are below it."""
        if not len(images):
            return np.empty((0, self.num_classes), np.float32)
        probs = np.asarray(self.estimator.predict_proba(self.features(images)), np.float64)
        return np.log(np.maximum(probs, SMALLEST)).astype(np.float32)

    def to(self, device: Any) -> Self:
        """Have the features made on this torch device, where a network makes them."""
        self.features.to(device)
        return self

    def __str__(self) -> str:
        """The steps, such as `PCA, SVC`."""
        inner = getattr(self.estimator, "estimator", self.estimator)
        steps = [step for _, step in getattr(inner, "steps", [("", inner)])]
        return ", ".join(type(getattr(step, "estimator", step)).__name__ for step in steps)


def classical(
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int],
    *,
    features: Features,
    estimator: Any,
    pca: int | None = None,
    one_vs_rest: bool = False,
    calibration_folds: int | None = None,
) -> Classical:
    """A scikit-learn estimator over features of the images.

    Args:
        num_classes: number of classes.
        in_channels: of the images.
        image_size: height and width in pixels.
        features: what the estimator sees of an image.
        estimator: of scikit-learn, not fitted.
        pca: number of principal components that are kept of the features; None keeps the features.
        one_vs_rest: one estimator for each class against the rest. For support vector machines: margins of pairs of
            classes end up as votes, which make poor probabilities (on 20,000 digits of MNIST, log loss 0.06 instead of
            0.14).
        calibration_folds: folds of the training images that give the temperature of an estimator without
            probabilities; a fit for each, besides the last one. None takes the estimator's own probabilities.
    """
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.decomposition import PCA
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import Pipeline

    model = OneVsRestClassifier(estimator) if one_vs_rest else estimator
    pipeline = Pipeline([*([("pca", PCA(pca))] if pca else []), ("model", model)])
    if calibration_folds is None:
        return Classical(features, pipeline, num_classes)
    # ensemble=False: the folds give the temperature only, and the one model that is kept has seen all images.
    calibrated = CalibratedClassifierCV(pipeline, method="temperature", cv=calibration_folds, ensemble=False)
    return Classical(features, calibrated, num_classes)
