"""The interface of every predictor: of a network, a scikit-learn estimator or an ONNX file."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medvision.errors import DataError
from medvision.inference.decision import Decision
from medvision.tasks import Task


class Predicts(Protocol):
    """Raw images in, calibrated probabilities out."""

    @property
    def task(self) -> Task:
        """What is asked of an image."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The K class names of the task."""

    @property
    def decode(self) -> dict[str, Any]:
        """How its images are read; see `medvision.data.decode.decode`."""

    def predict_probs(self, images: NDArray[np.uint8], batch_size: int | None = None) -> NDArray[np.float64]:
        """(N, K) probabilities of images (N, C, H, W); rows sum to 1."""


class Model(Predicts, Protocol):
    """A predictor with what was fitted on its calibration split."""

    @property
    def decision(self) -> Decision:
        """Temperature, threshold, prediction sets, out-of-distribution check."""

    @property
    def has_embeddings(self) -> bool:
        """Whether `probs_and_embeddings` works."""

    def probs_and_embeddings(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Calibrated probabilities (N, K) and embeddings (N, D) of images (N, C, H, W).

        Raises:
            ModelError: if the model has no embeddings.
        """


# Below 16 images CPU kernels round otherwise than above; a batch never holds fewer when there are as many.
_MIN_BATCH = 16
_MAX_BATCH = 512
_PIXELS_PER_BATCH = 2**22  # 83 images of 224 x 224: the activations of a ResNet-50 for them fit in 8 GB


def batches(images: NDArray[np.uint8], batch_size: int | None = None, most: int = _MAX_BATCH) -> Iterator[slice]:
    """Which rows to take at a time; a short last batch reaches back over images that are done already.

    Args:
        images: (N, C, H, W).
        batch_size: images at a time; by default as many as hold 4 million pixels, within 16 and `most`.
        most: images at a time where they are small.

    >>> [(rows.start, rows.stop) for rows in batches(np.zeros((70, 1, 8, 8), np.uint8), batch_size=32)]
    [(0, 32), (32, 64), (54, 70)]
    """
    n, _, height, width = images.shape
    step = batch_size or min(most, max(_MIN_BATCH, _PIXELS_PER_BATCH // (height * width)))
    for start in range(0, n, step):
        stop = min(start + step, n)
        yield slice(max(0, min(start, stop - _MIN_BATCH)), stop)


def check_images(images: NDArray[np.uint8], decode: Mapping[str, Any]) -> None:
    """Refuse images that are not as a model's `decode` settings make them.

    Raises:
        DataError: if `images` has another dtype or shape.
    """
    expected = (decode["channels"], *decode["size"])
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != expected:
        raise DataError(
            f"expected images as uint8 (N, {', '.join(map(str, expected))}); "
            f"found {images.dtype} {tuple(images.shape)}\n"
            "Read files with medvision.data.decode.decode(path, **model.decode)."
        )
