"""What every predictor offers, whatever runs it: a network, a scikit-learn estimator, an ONNX file."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Predicts(Protocol):
    """Raw images in, calibrated probabilities out."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """K names."""

    @property
    def decode(self) -> dict[str, Any]:
        """How its images are read; see `medvision.data.decode.decode`."""

    def predict_probs(self, images: NDArray[np.uint8], batch_size: int | None = None) -> NDArray[np.float64]:
        """(N, K) probabilities of images (N, C, H, W); rows sum to 1."""
