"""Which cases a reader should see, and what is shown of each."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medvision.metrics.predictions import Predictions

_EACH_CLASS_UP_TO = 12  # classes that all get a typical success, however few pictures are asked for


@dataclass(frozen=True)
class Picture:
    """One case of the gallery.

    Attributes:
        section: why it is shown: "errors" (wrong and most confident), "uncertain", or "typical" (right and most
            confident, of each class).
        id: of the case, which for files is the path.
        target: its class.
        pred: the class that was predicted.
        prob: calibrated probability of `pred`.
        prob_target: calibrated probability of `target`.
        original: PNG of the image as the network saw it.
        overlay: PNG of the same with the class activation map of `pred` over it; None where there is no map.
    """

    section: str
    id: str
    target: str
    pred: str
    prob: float
    prob_target: float
    original: bytes
    overlay: bytes | None


def choose(predictions: Predictions, per_section: int) -> dict[str, NDArray[np.intp]]:
    """Pick the cases of the gallery; equal cases are taken in the order of their rows.

    Args:
        predictions: N samples.
        per_section: pictures in each section, at least 0; "typical" has one more than that for each class that would
            otherwise have none, where classes are few.

    Returns:
        Rows of each section: "errors", the wrong ones by falling confidence; "uncertain", those whose two most
        probable classes lie nearest, errors above left out; "typical", the right ones by falling confidence, one of
        each class before the second of any. No row is in two sections.
    """
    confidence = predictions.probs.max(axis=1)
    right = predictions.preds == predictions.targets
    by_confidence = np.argsort(-confidence, kind="stable")
    errors = by_confidence[~right[by_confidence]][:per_section]
    top = np.partition(predictions.probs, -2, axis=1)[:, -2:]
    by_margin = np.argsort(top[:, 1] - top[:, 0], kind="stable")
    uncertain = by_margin[~np.isin(by_margin, errors)][:per_section]
    candidates = by_confidence[right[by_confidence] & ~np.isin(by_confidence, uncertain)]
    place = _place_in_class(predictions.targets[candidates])
    classes = len(predictions.class_names)
    wanted = max(per_section, classes) if per_section and classes <= _EACH_CLASS_UP_TO else per_section
    typical = candidates[np.lexsort((predictions.targets[candidates], place))][:wanted]
    return {"errors": errors, "uncertain": uncertain, "typical": typical}


def _place_in_class(targets: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many before each are of the same class."""
    place = np.zeros(len(targets), np.int64)
    for c in np.unique(targets):
        rows = np.flatnonzero(targets == c)
        place[rows] = np.arange(len(rows))
    return place
