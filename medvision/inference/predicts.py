"""What every predictor offers, whatever runs it: a network, a scikit-learn estimator, an ONNX file."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

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
