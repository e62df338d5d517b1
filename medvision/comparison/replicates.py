"""Runs of one configuration that differ in seed or fold: aligned, joined, averaged, and how much they spread."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from medvision.errors import DataError
from medvision.metrics.predictions import Predictions

# Below this number of seeds a difference may be the luck of a seed, and the comparison says so.
FEW_SEEDS = 5


@dataclass(frozen=True, eq=False)
class Replicate:
    """What one seed of a configuration said.

    Attributes:
        seed: of the run; None where it is unknown.
        predictions: of every test case, those of the folds joined.
        folds: of each fold by itself; one where there are no folds.
    """

    seed: int | None
    predictions: Predictions
    folds: tuple[Predictions, ...]

    @classmethod
    def of(cls, seed: int | None, folds: Sequence[tuple[str, Predictions]]) -> Self:
        """From the predictions of one or several folds, each with a label for messages."""
        return cls(seed, join_folds(folds), tuple(one for _, one in folds))


@dataclass(frozen=True)
class Spread:
    """How much a metric varies between runs of one configuration.

    Attributes:
        values: of the runs, at least two.
        mean: of the values.
        standard_deviation: between the values.
        low: lower end of the t-interval of the mean; None for folds, whose training sets overlap.
        high: upper end of it.
    """

    values: tuple[float, ...]
    mean: float
    standard_deviation: float
    low: float | None
    high: float | None

    @classmethod
    def over_seeds(cls, values: Sequence[float], confidence_level: float) -> Self:
        """Of independent runs.

        >>> spread = Spread.over_seeds([0.90, 0.92, 0.94], 0.95)
        >>> round(spread.standard_deviation, 4), round(spread.low, 4), round(spread.high, 4)
        (0.02, 0.8703, 0.9697)
        """
        one = cls.over_folds(values)
        half = student.ppf((1 + confidence_level) / 2, len(values) - 1) * one.standard_deviation / np.sqrt(len(values))
        return replace(one, low=float(one.mean - half), high=float(one.mean + half))

    @classmethod
    def over_folds(cls, values: Sequence[float]) -> Self:
        """Of runs that share training cases, for which no unbiased interval is known (Bengio and Grandvalet 2004)."""
        return cls(tuple(values), float(np.mean(values)), float(np.std(values, ddof=1)), None, None)


def aligned(labelled: Sequence[tuple[str, Predictions]]) -> list[Predictions]:
    """The same cases in the order of the first, and the same classes in its order.

    Args:
        labelled: predictions, each with what to call them in messages; at least one.

    Raises:
        DataError: if cases, targets, groups or class names differ; it says how many, and names one.
    """
    (name, first), *others = labelled
    result = [first]
    order = np.argsort(first.ids)
    for other_name, other in others:
        if set(other.class_names) != set(first.class_names):
            raise DataError(_other_classes(name, first.class_names, other_name, other.class_names))
        rows = np.argsort(other.ids)
        if not np.array_equal(first.ids[order], other.ids[rows]):
            raise DataError(_other_cases(name, first, other_name, other))
        places = np.empty_like(rows)
        places[order] = rows
        other = _with_classes(other.take(places), first.class_names)
        for what, ours, theirs in (
            ("target", first.targets, other.targets),
            ("group", _partition(first), _partition(other)),
        ):
            if differing := int((ours != theirs).sum()):
                where = first.ids[np.flatnonzero(ours != theirs)[0]]
                raise DataError(
                    f"{name} and {other_name} disagree about the {what} of {differing} of {len(first.ids)} cases, "
                    f"such as {str(where)!r}.\nCompare runs on the same data with the same labels and groups."
                )
        result.append(other)
    return result


def join_folds(folds: Sequence[tuple[str, Predictions]]) -> Predictions:
    """Out-of-fold predictions as one set, in which each case is there once.

    Args:
        folds: predictions of each fold, with what to call them in messages; at least one.

    Raises:
        DataError: if a case was tested in two folds, or the classes differ.
    """
    (name, first), *others = folds
    parts = [first]
    for other_name, other in others:
        if set(other.class_names) != set(first.class_names):
            raise DataError(_other_classes(name, first.class_names, other_name, other.class_names))
        parts.append(_with_classes(other, first.class_names))
    if len(parts) == 1:
        return first
    ids = np.concatenate([part.ids for part in parts])
    unique, counts = np.unique(ids, return_counts=True)
    if repeated := unique[counts > 1].tolist():
        where = [label for label, part in folds if repeated[0] in part.ids]
        raise DataError(
            f"{len(repeated)} case(s) were tested in several folds: {repeated[0]!r} in {where[0]} and {where[1]}.\n"
            "Give runs whose folds are of one division (data.n_folds and data.split_seed equal, the same data)."
        )
    shared = [key for key in first.meta if all(key in part.meta for part in parts)]
    return Predictions(
        ids=ids,
        groups=np.concatenate([part.groups for part in parts]),
        targets=np.concatenate([part.targets for part in parts]),
        logits=np.concatenate([part.logits for part in parts]),
        probs=np.concatenate([part.probs for part in parts]),
        task=first.task,
        meta={key: np.concatenate([part.meta[key] for part in parts]) for key in shared},
    )


def ensemble(members: Sequence[Predictions]) -> Predictions:
    """The mean of the members' probabilities; its logits are their logarithms.

    Args:
        members: aligned, at least one.
    """
    probs = np.mean([member.probs for member in members], axis=0)
    logits = np.log(np.maximum(probs, np.finfo(np.float32).tiny)).astype(np.float32)
    return replace(members[0], probs=probs, logits=logits)


def _with_classes(predictions: Predictions, class_names: tuple[str, ...]) -> Predictions:
    """The same predictions with their classes in another order."""
    if predictions.class_names == class_names:
        return predictions
    columns = [predictions.class_names.index(name) for name in class_names]
    new = np.array([class_names.index(name) for name in predictions.class_names])
    return replace(
        predictions,
        targets=new[predictions.targets],
        logits=predictions.logits[:, columns],
        probs=predictions.probs[:, columns],
        task=replace(predictions.task, class_names=class_names),
    )


def _partition(predictions: Predictions) -> NDArray[np.intp]:
    """For each case the first case of its group, itself where it stands alone: equal for equal divisions."""
    _, first, slots = np.unique(predictions.groups, return_index=True, return_inverse=True)
    own = np.arange(len(predictions.ids))
    return np.where(predictions.groups == "", own, first[slots])


def _other_classes(name: str, ours: Sequence[str], other_name: str, theirs: Sequence[str]) -> str:
    def few(names: set[str]) -> str:
        return ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")

    only = [
        f"only {label} knows {few(set(one) - set(two))}"
        for label, one, two in ((name, ours, theirs), (other_name, theirs, ours))
        if set(one) - set(two)
    ]
    return (
        f"{name} has {len(ours)} classes and {other_name} has {len(theirs)}: {'; '.join(only)}.\n"
        "Compare models of the same classes."
    )


def _other_cases(name: str, first: Predictions, other_name: str, other: Predictions) -> str:
    only = [
        f"{len(alone)} only in {label} (such as {str(alone[0])!r})"
        for label, alone in (
            (name, np.setdiff1d(first.ids, other.ids)),
            (other_name, np.setdiff1d(other.ids, first.ids)),
        )
        if len(alone)
    ]
    return (
        f"{name} was tested on {len(first.ids)} cases and {other_name} on {len(other.ids)}: {', '.join(only)}.\n"
        "Compare runs with the same test cases: the same data, data.split_seed, and all folds or the same one."
    )
