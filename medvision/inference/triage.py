"""Who may decide on an image: the model alone, the model with a human, or nobody. Knows no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Status = Literal["auto", "review", "rejected"]


@dataclass(frozen=True)
class Annotation:
    """What is said of one image.

    Attributes:
        status: auto (the label can stand), review (a human should look), rejected (the model has no say on it).
        reason: why it is not auto; "" where it is.
        label: the class; None where the image could not be read.
        confidence: calibrated probability of the label.
        classes: the conformal set, most probable first; None where the model has no conformal quantile.
        probs: (K,) calibrated probability of each class; None where the image could not be read.
    """

    status: Status
    reason: str
    label: str | None = None
    confidence: float | None = None
    classes: tuple[str, ...] | None = None
    probs: tuple[float, ...] | None = None


def unreadable(reason: str) -> Annotation:
    """The annotation of a file that is no usable image."""
    return Annotation("rejected", f"unreadable: {reason}")


def triage(
    probs: NDArray[np.floating],
    class_names: Sequence[str],
    *,
    min_confidence: float,
    operating_point: Mapping[str, Any] | None = None,
    conformal: Mapping[str, Any] | None = None,
    gate_reasons: Sequence[tuple[str, ...]] | None = None,
) -> list[Annotation]:
    """Decide on images.

    The label is the most probable class; with an operating point, it is the most probable one on the side of the
    threshold that the case falls. An image out of the range of the training images is rejected; one whose label has
    less than `min_confidence`, or whose conformal set is not that label alone, is for review.

    Args:
        probs: (N, K) calibrated.
        class_names: K names.
        min_confidence: in [0, 1].
        operating_point: `positive` (class names) and `threshold`, or None.
        conformal: `quantile` q, or None: class k is in the set if 1 - p_k <= q.
        gate_reasons: N tuples, see `medvision.inference.gate.check`.
    """
    probs = np.asarray(probs, np.float64).round(6)
    labels = _labels(probs, class_names, operating_point)
    found = []
    for row, (values, label) in enumerate(zip(probs, labels, strict=True)):
        outside = gate_reasons[row] if gate_reasons is not None else ()
        classes = None if conformal is None else _conformal_set(values, float(conformal["quantile"]))
        doubts = _doubts(float(values[label]), int(label), classes, min_confidence)
        status: Status = "rejected" if outside else "review" if doubts else "auto"
        reasons = ([f"out of range: {', '.join(outside)}"] if outside else []) + doubts
        found.append(
            Annotation(
                status,
                "; ".join(reasons),
                class_names[label],
                float(values[label]),
                None if classes is None else tuple(class_names[one] for one in classes),
                tuple(map(float, values)),
            )
        )
    return found


def _labels(
    probs: NDArray[np.float64], class_names: Sequence[str], operating_point: Mapping[str, Any] | None
) -> NDArray[np.intp]:
    if operating_point is None:
        return np.asarray(probs.argmax(axis=1))
    positive = np.isin(np.array(class_names), list(operating_point["positive"]))
    is_positive = probs[:, positive].sum(axis=1) >= operating_point["threshold"]
    # Classes on the other side are out of the question, however probable.
    return np.asarray(np.where(positive == is_positive[:, np.newaxis], probs, -1.0).argmax(axis=1))


def _conformal_set(probs: NDArray[np.float64], quantile: float) -> list[int]:
    order = np.argsort(-probs, kind="stable")
    return [int(one) for one in order if 1 - probs[one] <= quantile]


def _doubts(confidence: float, label: int, classes: list[int] | None, min_confidence: float) -> list[str]:
    doubts = []
    if confidence < min_confidence:
        doubts.append(f"low confidence {confidence:.2f}, below {min_confidence:g}")
    if classes is not None and len(classes) != 1:
        doubts.append(f"{len(classes)} classes in the conformal set" if classes else "the conformal set is empty")
    elif classes is not None and classes != [label]:
        doubts.append("the conformal set holds another class than the label")
    return doubts
