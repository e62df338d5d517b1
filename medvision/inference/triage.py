"""Triage: label, prediction set and status of an image, decided as the report decides. Knows no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medvision.errors import ModelError
from medvision.inference import ood
from medvision.inference.decision import Decision
from medvision.inference.predicts import Model
from medvision.metrics.conformal import sets
from medvision.metrics.operating_point import OperatingPoint, positive_scores
from medvision.tasks import Task

Status = Literal["auto", "review", "rejected"]


@dataclass(frozen=True)
class Annotation:
    """The result for one image.

    Attributes:
        status: auto (the label can stand), review (a human should look), rejected (the model must not decide).
        reason: why it is not auto; "" where it is.
        label: the class; None where the image could not be read.
        confidence: calibrated probability of the label.
        classes: the prediction set, most probable first; None where the model has no conformal quantile.
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


def label(
    model: Model, images: NDArray[np.uint8], min_confidence: float
) -> tuple[list[Annotation], NDArray[np.float32] | None]:
    """Label images that are in memory.

    Args:
        model: a predictor.
        images: (N, C, H, W) uint8, at the size and channels of `model.decode`.
        min_confidence: probability below which a human should look.

    Returns:
        N annotations, and embeddings (N, D) if the model has them.
    """
    embeddings: NDArray[np.float32] | None = None
    if model.has_embeddings:
        probs, embeddings = model.probs_and_embeddings(images)
    else:
        probs = model.predict_probs(images)
    found = decide(
        model.task,
        probs,
        model.decision,
        min_confidence,
        None if model.decision.ood is None else ood.check(model.decision.ood, images, embeddings),
    )
    return found, embeddings


def decide(
    task: Task,
    probs: NDArray[np.floating],
    decision: Decision,
    min_confidence: float,
    out_of_range: Sequence[tuple[str, ...]] | None = None,
) -> list[Annotation]:
    """Decide on images.

    Args:
        task: what is asked.
        probs: (N, K) calibrated.
        decision: of the model.
        min_confidence: in [0, 1].
        out_of_range: N tuples, see `medvision.inference.ood.check`; None where nothing was checked.

    Raises:
        ModelError: if a probability is not a number.
    """
    match task.kind:
        case "classes":
            return _classes(task, np.asarray(probs, np.float64), decision, min_confidence, out_of_range)


def _classes(
    task: Task,
    probs: NDArray[np.float64],
    decision: Decision,
    min_confidence: float,
    out_of_range: Sequence[tuple[str, ...]] | None,
) -> list[Annotation]:
    """The label is the most probable class. An image out of range of the training images is rejected.

    For review is one whose label has less than `min_confidence`, whose prediction set is not that label alone, or whose
    label and operating point disagree.
    """
    if not np.isfinite(probs).all():
        # In a comparison NaN lets everything pass: the image would get the status auto.
        raise ModelError("The model returned a probability that is not a number. Do not use it.")
    names, labels = task.class_names, probs.argmax(axis=1)
    contradictions = _contradictions(task, probs, labels, decision.operating_point)
    members = None if decision.conformal is None else sets(probs, decision.conformal["quantile"])
    found = []
    for row, (values, chosen) in enumerate(zip(probs, labels, strict=True)):
        outside = out_of_range[row] if out_of_range is not None else ()
        classes = None
        if members is not None:
            classes = tuple(names[c] for c in np.argsort(-values, kind="stable") if members[row, c])
        doubts = _doubts(float(values[chosen]), classes, min_confidence) + contradictions[row]
        status: Status = "rejected" if outside else "review" if doubts else "auto"
        reasons = ([f"out of range: {', '.join(outside)}"] if outside else []) + doubts
        found.append(
            Annotation(
                status, "; ".join(reasons), names[chosen], float(values[chosen]), classes, tuple(map(float, values))
            )
        )
    return found


def _contradictions(
    task: Task, probs: NDArray[np.float64], labels: NDArray[np.intp], point: OperatingPoint | None
) -> list[list[str]]:
    """For each image, that label and operating point disagree; empty where they agree."""
    if point is None:
        return [[] for _ in labels]
    names, threshold = point.positive, point.threshold
    positive = np.isin(np.array(task.class_names), names)
    scores = positive_scores(probs, task.class_names, names)
    return [
        [f"{' or '.join(names)} {score:.2f} is {'above' if over else 'below'} the threshold {threshold:.2f}"]
        if over != positive[chosen]
        else []
        for score, over, chosen in zip(scores, scores >= threshold, labels, strict=True)
    ]


def _doubts(confidence: float, classes: tuple[str, ...] | None, min_confidence: float) -> list[str]:
    doubts = []
    if confidence < min_confidence:
        doubts.append(f"low confidence {confidence:.2f}, below {min_confidence:g}")
    if classes is not None and len(classes) != 1:
        doubts.append(f"{len(classes)} classes in the prediction set" if classes else "the prediction set is empty")
    return doubts
