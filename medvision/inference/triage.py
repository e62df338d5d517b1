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

    The label is the most probable class, as in the model's report. An image out of the range of the training images is
    rejected. One whose label has less than `min_confidence`, whose conformal set is not that label alone, or whose
    label lies on the other side of the operating point than its probability, is for review.

    Args:
        probs: (N, K) calibrated.
        class_names: K names.
        min_confidence: in [0, 1].
        operating_point: `positive` (class names) and `threshold`, or None.
        conformal: `quantile` q, or None: class k is in the set if 1 - p_k <= q.
        gate_reasons: N tuples, see `medvision.inference.gate.check`.
    """
    probs = np.asarray(probs, np.float64).round(6)
    labels = probs.argmax(axis=1)
    contradicted = _contradicted(probs, labels, class_names, operating_point)
    found = []
    for row, (values, label) in enumerate(zip(probs, labels, strict=True)):
        outside = gate_reasons[row] if gate_reasons is not None else ()
        classes = None if conformal is None else _conformal_set(values, float(conformal["quantile"]))
        doubts = _doubts(float(values[label]), classes, min_confidence) + contradicted[row]
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


def _contradicted(
    probs: NDArray[np.float64],
    labels: NDArray[np.intp],
    class_names: Sequence[str],
    operating_point: Mapping[str, Any] | None,
) -> list[list[str]]:
    """For each case, that label and operating point disagree; nothing where they agree."""
    if operating_point is None:
        return [[] for _ in labels]
    names, threshold = list(operating_point["positive"]), operating_point["threshold"]
    positive = np.isin(np.array(class_names), names)
    summed = probs[:, positive].sum(axis=1)
    above = summed >= threshold
    return [
        [f"{' or '.join(names)} {value:.2f} is {'above' if over else 'below'} the threshold {threshold:.2f}"]
        if over != positive[label]
        else []
        for value, over, label in zip(summed, above, labels, strict=True)
    ]


def _conformal_set(probs: NDArray[np.float64], quantile: float) -> list[int]:
    order = np.argsort(-probs, kind="stable")
    return [int(one) for one in order if 1 - probs[one] <= quantile]


def _doubts(confidence: float, classes: list[int] | None, min_confidence: float) -> list[str]:
    doubts = []
    if confidence < min_confidence:
        doubts.append(f"low confidence {confidence:.2f}, below {min_confidence:g}")
    if classes is not None and len(classes) != 1:
        doubts.append(f"{len(classes)} classes in the conformal set" if classes else "the conformal set is empty")
    return doubts
