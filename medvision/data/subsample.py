"""Fewer training images where a model's cost grows with their square: a share of each class, in whole groups."""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from medvision.data.table import ImageTable
from medvision.errors import DataError
from medvision.randomness import generator


def limit_train(table: ImageTable, max_samples: int | None, split_seed: int) -> ImageTable:
    """The same table with the training images beyond `max_samples` set aside as "unused"; all other parts stay.

    Each class keeps about the share it has, one image (or group) at least. Without groups exactly `max_samples` images
    stay, and those of a smaller number are among those of a larger one, so that a curve over the number adds images.
    With groups, which stay whole, at most that many do.

    Args:
        table: complete.
        max_samples: number of training images, at least one of each class; None keeps all.
        split_seed: seed of the choice.

    Raises:
        DataError: if not every class can keep an image (or a group) within `max_samples`.
    """
    split = table.splits
    train = np.flatnonzero(split == "train")
    if max_samples is None or len(train) <= max_samples:
        return table
    labels, groups = table.labels[train], table.groups[train]
    units = np.unique(groups, return_inverse=True)[1]
    by_image = "group" not in table.frame or units.max() + 1 == len(units)
    kept = _images(labels, max_samples, split_seed) if by_image else _groups(labels, units, max_samples, split_seed)
    missing = np.setdiff1d(labels, labels[kept])
    if len(missing):
        raise DataError(
            f"data.max_train_samples={max_samples} leaves no training image of {table.class_names[missing[0]]!r}.\n"
            f"Raise it: every class keeps one image at least, or one group where there are groups."
        )
    split[train[~kept]] = "unused"
    return dataclasses.replace(table, frame=table.frame.assign(split=split))


def _images(labels: NDArray[np.int64], max_samples: int, split_seed: int) -> NDArray[np.bool_]:
    """(N,) bool: images in the order in which they come when each class is spread evenly, shuffled in itself."""
    place = np.empty(len(labels))
    for label in np.unique(labels):
        rows = generator(split_seed, "max_train_samples", int(label)).permutation(np.flatnonzero(labels == label))
        # The first of each class before all others, the rest at even distances in (0, 1).
        place[rows] = np.concatenate([[-1.0], np.arange(1, len(rows)) / len(rows)])
    kept = np.zeros(len(labels), np.bool_)
    kept[np.lexsort((labels, place))[:max_samples]] = True
    return kept


def _groups(labels: NDArray[np.int64], units: NDArray[np.intp], max_samples: int, split_seed: int) -> NDArray[np.bool_]:
    """(N,) bool: greedy over shuffled groups, first the one of each class, the rarest first, that is the smallest."""
    counts = np.zeros((units.max() + 1, labels.max() + 1), np.int64)
    np.add.at(counts, (units, labels), 1)
    wanted = counts.sum(axis=0) * max_samples / len(labels)
    order = generator(split_seed, "max_train_samples").permutation(len(counts))
    sizes, kept, taken = counts.sum(axis=1), np.zeros(len(counts), np.bool_), np.zeros(counts.shape[1])
    for label in np.argsort(wanted, kind="stable"):
        candidates = order[counts[order, label] > 0]
        if taken[label] == 0 and len(candidates):
            smallest = candidates[sizes[candidates].argmin()]
            if taken.sum() + sizes[smallest] <= max_samples:
                kept[smallest] = True
                taken += counts[smallest]
    for unit in order:
        nearer = np.square(taken + counts[unit] - wanted).sum() < np.square(taken - wanted).sum()
        if not kept[unit] and nearer and taken.sum() + sizes[unit] <= max_samples:
            kept[unit] = True
            taken += counts[unit]
    return kept[units]
