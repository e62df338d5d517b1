"""Who is trained on, who validates, who tests: the parts that a source does not bring are carved from train."""

import dataclasses
import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medvision.data.table import ImageTable
from medvision.errors import DataError
from medvision.randomness import generator

log = logging.getLogger(__name__)


def complete(table: ImageTable, *, val_fraction: float, test_fraction: float, split_seed: int) -> ImageTable:
    """The same table with every image in train, val or test.

    Splits of the source are kept. A missing test part is carved from train first, then a missing validation part from
    what is left, both stratified by class, with whole groups.

    Args:
        table: any table; one without splits counts as all train.
        val_fraction: share in (0, 1) of the training images, after test is taken away, that validate.
        test_fraction: share in (0, 1) of the training images that test.
        split_seed: the split depends on this number and on nothing else.

    Raises:
        DataError: if there is no train part, a class is missing from train or test, or a class has too few images.
    """
    split = table.frame["split"].to_numpy("<U5") if "split" in table.frame else np.full(len(table), "train")
    if "train" not in split:
        raise DataError(f"The data has no train split, only {sorted(set(split.tolist()))}; training needs one.")
    labels = table.labels
    groups = table.groups if "group" in table.frame else None
    for part, fraction in (("test", test_fraction), ("val", val_fraction)):
        if part in split:
            continue
        pool = np.flatnonzero(split == "train")
        carved = carve(
            labels[pool],
            None if groups is None else groups[pool],
            fraction,
            split_seed=split_seed,
            part=part,
            class_names=table.class_names,
        )
        split[pool[carved]] = part
    _check_classes(labels, split, table.class_names)
    return dataclasses.replace(table, frame=table.frame.assign(split=split))


def carve(
    labels: NDArray[np.int64],
    groups: NDArray[np.str_] | None,
    fraction: float,
    *,
    split_seed: int,
    part: str,
    class_names: Sequence[str],
) -> NDArray[np.bool_]:
    """Choose a share of every class at random, never dividing a group.

    Without groups each class gives `fraction` of its images, rounded. With groups the shares are as close as whole
    groups allow. At least one image (or group) of each class is taken and at least one is left.

    Args:
        labels: (N,) int64 class of each image.
        groups: (N,) group of each image, or None where every image stands alone.
        fraction: share to choose, in (0, 1).
        split_seed: seed of the choice.
        part: name of the part that is carved; it keys the draw and appears in messages.
        class_names: names for messages.

    Returns:
        (N,) bool, true where chosen.

    Raises:
        DataError: if a class has fewer than two images (or groups), or the groups overlap so that none can be chosen.
    """
    unit = np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1]
    kind = "image" if groups is None else "group"
    for label in np.unique(labels):
        found = len(np.unique(unit[labels == label]))
        if found < 2:
            raise DataError(
                f"Class {class_names[label]!r} has {found} {kind} left to divide between train and {part}.\n"
                f"Add {kind}s (three a class fill train, val and test), leave the class out, or provide the splits."
            )
    if groups is None:
        return _carve_images(labels, fraction, split_seed, part)
    return _carve_groups(labels, unit, fraction, split_seed, part)


def _carve_images(labels: NDArray[np.int64], fraction: float, split_seed: int, part: str) -> NDArray[np.bool_]:
    chosen = np.zeros(len(labels), np.bool_)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        count = min(max(round(fraction * len(rows)), 1), len(rows) - 1)
        chosen[generator(split_seed, "split", part, int(label)).permutation(rows)[:count]] = True
    return chosen


def _carve_groups(
    labels: NDArray[np.int64], unit: NDArray[np.int64], fraction: float, split_seed: int, part: str
) -> NDArray[np.bool_]:
    """Greedy: first one group for each class, the rarest class first, then whatever brings the shares closer."""
    counts = np.zeros((unit.max() + 1, labels.max() + 1), np.int64)
    np.add.at(counts, (unit, labels), 1)
    total = counts.sum(axis=0)
    share = np.divide(counts, total, where=total > 0, out=np.zeros(counts.shape))  # of each class, in each group
    order = generator(split_seed, "split", part).permutation(len(counts))
    chosen = np.zeros(len(counts), np.bool_)
    taken = np.zeros(counts.shape[1])  # share of each class chosen so far
    left = (counts > 0).sum(axis=0)  # groups of each class not chosen yet

    def distance(candidate: NDArray[np.float64]) -> float:
        return float(np.square(taken + candidate - fraction * (total > 0)).sum())

    def take(group: int) -> None:
        chosen[group] = True
        np.add(taken, share[group], out=taken)
        np.subtract(left, counts[group] > 0, out=left)

    def spares_train(group: int) -> bool:
        return bool((left[counts[group] > 0] > 1).all())

    for label in np.argsort(left, kind="stable"):
        if total[label] == 0 or taken[label] > 0:
            continue
        candidates = [group for group in order if counts[group, label] and spares_train(group)]
        if not candidates:
            raise DataError(
                f"The groups overlap so that train and {part} cannot both have every class.\n"
                "Add groups, leave the rarest class out, or provide the splits."
            )
        take(min(candidates, key=lambda group: distance(share[group])))
    for group in order:
        if not chosen[group] and spares_train(group) and distance(share[group]) < distance(np.zeros_like(taken)):
            take(group)
    return chosen[unit]


def _check_classes(labels: NDArray[np.int64], split: NDArray[np.str_], class_names: Sequence[str]) -> None:
    for part in ("train", "test", "val"):
        present = np.bincount(labels[split == part], minlength=len(class_names)) > 0
        missing = [name for name, here in zip(class_names, present, strict=True) if not here]
        if not missing:
            continue
        # A validation part without a rare class still chooses a checkpoint; a test without it has nothing to report.
        if part == "val":
            log.warning("The validation images have none of class(es) %s.", ", ".join(missing))
            continue
        raise DataError(
            f"The {part} images have none of class(es) {', '.join(missing)}.\n"
            f"Every class needs images in train and in test: add some to {part}, or leave the class out everywhere."
        )
