"""Files that cannot be used: listed with their reasons, counted, and refused when there are too many."""

import dataclasses
import logging
from typing import Literal, get_args

import numpy as np
import pandas as pd

from medvision.data.table import ImageTable
from medvision.errors import DataError

log = logging.getLogger(__name__)

OnBadImage = Literal["quarantine", "error"]
BAD_IMAGE_POLICIES: tuple[str, ...] = get_args(OnBadImage)


def set_aside(
    table: ImageTable, bad: list[tuple[int, str, str]], on_bad_image: OnBadImage, max_bad_fraction: float
) -> tuple[ImageTable, pd.DataFrame]:
    """Give every bad file the split "quarantined", unless there are too many of them.

    Args:
        table: all images.
        bad: row, reason and stage of each bad one.
        on_bad_image: "error" refuses any bad file.
        max_bad_fraction: share of the files that may be bad.

    Returns:
        The table, and a frame with path, reason and stage of each bad file.

    Raises:
        DataError: if there are too many bad files, or a class has no other.
    """
    ids = table.ids
    listed = pd.DataFrame(
        [(ids[row], reason, stage) for row, reason, stage in bad], columns=["path", "reason", "stage"]
    )
    if not bad:
        return table, listed
    split = table.splits
    split[[row for row, _, _ in bad]] = "quarantined"
    examples = "; ".join(f"{ids[row]}: {reason}" for row, reason, _ in bad[:3])
    count = f"{len(bad)} of {len(table)} files cannot be used ({examples})"
    if on_bad_image == "error":
        raise DataError(
            f"{count}.\nRepair or remove them, or choose data.on_bad_image=quarantine to continue without them."
        )
    if len(bad) > max_bad_fraction * len(table):
        raise DataError(
            f"{count}.\nAt most data.max_bad_fraction={max_bad_fraction} may be bad: "
            "repair or remove the files, or raise that limit."
        )
    left = np.bincount(table.labels[split != "quarantined"], minlength=len(table.class_names))
    emptied = [name for name, n in zip(table.class_names, left, strict=True) if not n]
    if emptied:
        raise DataError(f"{count}, which leaves no image of class(es) {', '.join(emptied)}.\nRepair the files.")
    log.warning("%s; they are in quarantine and the run continues without them.", count)
    return dataclasses.replace(table, frame=table.frame.assign(split=split)), listed
