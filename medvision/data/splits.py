"""Who is trained on, who validates, who tests: the parts that a source does not bring are carved from train."""

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvision.data.table import SPLITS, ImageTable
from medvision.errors import DataError
from medvision.randomness import generator, key

log = logging.getLogger(__name__)


def complete(
    table: ImageTable,
    *,
    val_fraction: float,
    test_fraction: float,
    split_seed: int,
    n_folds: int | None = None,
    fold: int | None = None,
    hashes: NDArray[np.void] | None = None,
) -> ImageTable:
    """The same table with every image in train, val or test, or set aside.

    Splits of the source are kept. A missing test part is carved from train first, then a missing validation part from
    what is left, both stratified by class. Images of a group stay together, and so do images with the same pixels: what
    is carved here never leaks. With `n_folds`, the train part is divided into folds, one of which is the test part; an
    official test part becomes "unused".

    Args:
        table: any table; one without splits counts as all train.
        val_fraction: share in (0, 1) of the training images, after test is taken away, that validate.
        test_fraction: share in (0, 1) of the training images that test.
        split_seed: the split depends on this number and on nothing else.
        n_folds: number of folds, or None for no cross-validation.
        fold: the fold that tests, in [0, n_folds).
        hashes: (N,) of `medvision.data.leakage.pixel_hashes`, to keep copies together.

    Raises:
        DataError: if there is no train part, a class is missing from a part, or a class has too few images.
    """
    split = table.splits
    if "train" not in split:
        raise DataError(f"The data has no train split, only {sorted(set(split.tolist()))}; training needs one.")
    if n_folds is not None:
        split[split == "test"] = "unused"
        pool = np.flatnonzero(split == "train")
        units = inseparable(table, pool, hashes)
        held_out = folds(table.labels[pool], units, n_folds, split_seed=split_seed, class_names=table.class_names)
        split[pool[held_out == fold]] = "test"
    for part, fraction in (("test", test_fraction), ("val", val_fraction)):
        if part in split:
            continue
        pool = np.flatnonzero(split == "train")
        units = inseparable(table, pool, hashes)
        carved = _carve_units(table, pool, units, fraction, split_seed, part)
        split[pool[carved]] = part
    result = dataclasses.replace(table, frame=table.frame.assign(split=split))
    check_classes(result)
    return result


def set_calibration_apart(
    table: ImageTable, fraction: float, split_seed: int, hashes: NDArray[np.void] | None = None
) -> ImageTable:
    """The same table with part of val in "calibration", unless it has such a part.

    What chose the best epoch is no fair sample for the temperature, the threshold or the prediction sets: fitted on it,
    they promise more than test keeps.

    Args:
        table: complete.
        fraction: share in [0, 1) of the validation images; 0 takes none.
        split_seed: seed of the choice.
        hashes: (N,) of `medvision.data.leakage.pixel_hashes`, to keep copies together.
    """
    split = table.splits
    if fraction == 0 or "calibration" in split:
        return table
    pool = np.flatnonzero(split == "val")
    try:
        chosen = _carve_units(table, pool, inseparable(table, pool, hashes), fraction, split_seed, "calibration")
    except DataError:
        log.warning(
            "The validation images are too few to set some apart for calibration: what is fitted after training\n"
            "(temperature, threshold, prediction sets) will be fitted on images that also chose the best epoch."
        )
        return table
    split[pool[chosen]] = "calibration"
    return dataclasses.replace(table, frame=table.frame.assign(split=split))


def check_classes(table: ImageTable) -> None:
    """Refuse a table in which a part lacks a class.

    Raises:
        DataError: naming the part and the classes.
    """
    for part in SPLITS:
        if part == "calibration" and part not in table.splits:
            continue
        present = np.bincount(table.labels[table.splits == part], minlength=len(table.class_names)) > 0
        missing = [name for name, here in zip(table.class_names, present, strict=True) if not here]
        if missing:
            raise DataError(
                f"The {part} images have none of class(es) {', '.join(missing)}.\n"
                f"Every class needs images in train, val and test: add some to {part}, or leave the class out."
            )


def folds(
    labels: NDArray[np.int64],
    units: NDArray[np.intp],
    n_folds: int,
    *,
    split_seed: int,
    class_names: Sequence[str],
) -> NDArray[np.int64]:
    """Divide images into folds that resemble one another in their classes, never dividing a unit.

    Args:
        labels: (N,) int64 class of each image.
        units: (N,) number of the unit (a group, or copies of one picture) of each image.
        n_folds: number of folds.
        split_seed: seed of the order among units of one size.
        class_names: names for messages.

    Returns:
        (N,) fold of each image.

    Raises:
        DataError: if a class has fewer units than there are folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    counts = np.zeros((units.max() + 1, len(class_names)), np.int64)
    np.add.at(counts, (units, labels), 1)
    scarce = [f"{name} ({n})" for name, n in zip(class_names, (counts > 0).sum(axis=0), strict=True) if n < n_folds]
    if scarce:
        raise DataError(
            f"data.n_folds={n_folds} needs as many images or groups of each class; too few of {', '.join(scarce)}.\n"
            "Choose fewer folds, add images, or leave the class(es) out."
        )
    alone = len(counts) == len(units)  # then the splitter without groups is fifty times as fast
    splitter = (StratifiedKFold if alone else StratifiedGroupKFold)(
        n_folds, shuffle=True, random_state=key(split_seed, "folds") % 2**32
    )
    fold = np.empty(len(units), np.int64)
    for number, (_, held_out) in enumerate(splitter.split(np.zeros(len(units)), labels, None if alone else units)):
        fold[held_out] = number
    return fold


def carve(
    labels: NDArray[np.int64],
    groups: NDArray[np.str_] | NDArray[np.intp] | None,
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
                f"Class {class_names[label]!r} has {found} {kind} left to divide between train and {part}; "
                "train, val and test need one each.\n"
                f"Add {kind}s until it has three (copies count once), or take the class out of the data: its folder, "
                "or its rows of the table."
            )
    if groups is None:
        return _carve_images(labels, fraction, split_seed, part)
    return _carve_groups(labels, unit, fraction, split_seed, part)


def inseparable(
    table: ImageTable, pool: NDArray[np.intp], hashes: NDArray[np.void] | NDArray[np.str_] | None
) -> NDArray[np.intp]:
    """(n,) number of what must stay together: images linked by a common group or, in any number of steps, by pixels."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    group = np.arange(len(pool))
    if "group" in table.frame:
        group = np.unique(table.groups[pool], return_inverse=True)[1]
    if hashes is None:
        return group
    picture = np.unique(hashes[pool], return_inverse=True)[1] + group.max() + 1
    nodes = picture.max() + 1
    links = coo_array((np.ones(len(group), np.bool_), (group, picture)), shape=(nodes, nodes))
    return np.unique(connected_components(links, directed=False)[1][group], return_inverse=True)[1]


def _carve_units(
    table: ImageTable, pool: NDArray[np.intp], units: NDArray[np.intp], fraction: float, split_seed: int, part: str
) -> NDArray[np.bool_]:
    """Which images of the pool to carve: by group where there are groups, else by picture."""
    labels = table.labels[pool]
    settings: dict[str, Any] = {"split_seed": split_seed, "part": part, "class_names": table.class_names}
    if "group" in table.frame:
        return carve(labels, units, fraction, **settings)
    # One image stands for its copies; without copies these are all images, in their order.
    first = np.sort(np.unique(units, return_index=True)[1])
    return np.isin(units, units[first[carve(labels[first], None, fraction, **settings)]])


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
    """Greedy: first one group for each class, the rarest class first, then those that bring the shares closer."""
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
