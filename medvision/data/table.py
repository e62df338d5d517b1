"""ImageTable: what every layout returns, one row per image."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medvision.errors import DataError
from medvision.tasks import Task

# What trains, what chooses the best epoch, what fits temperature and thresholds afterwards, and what tests.
SPLITS = ("train", "val", "calibration", "test")
# Images that no part of a run sees: unreadable ones, leaks, and the official test part of a cross-validation.
ASIDE = ("quarantined", "dropped", "unused")
_RESERVED = ("image", "label", "group", "split")


@dataclass(frozen=True)
class ImageTable:
    """Images with their labels, and optionally groups, splits and subgroup metadata.

    Attributes:
        frame: one row per image. Columns: `image` (path relative to `root`, or index into `images`), `label` (int64
            in [0, K)), optionally `group` (patient or study: never divided between splits) and `split` ("train",
            "val", "calibration" or "test", or one of `ASIDE`); every further column is subgroup metadata.
        task: what is asked of an image; its K class names are in the order of the labels.
        images: (N, C, H, W) uint8 where the source holds its pixels, with C 1 (grey) or 3 (RGB).
        root: folder that the paths are relative to where the source is a set of files.

    Raises:
        DataError: if a column is missing, or a label, split or index is out of range.
    """

    frame: pd.DataFrame
    task: Task
    images: NDArray[np.uint8] | None = None
    root: Path | None = None

    def __post_init__(self) -> None:
        missing = {"image", "label"} - set(self.frame.columns)
        if missing:
            raise DataError(f"The table of images lacks the column(s) {sorted(missing)}.")
        if self.frame.empty:
            raise DataError("The table of images is empty.")
        if (self.images is None) == (self.root is None):
            raise DataError("A table holds either `images` (pixels) or `root` (a folder of files), and not both.")
        labels = self.frame["label"]
        if not pd.api.types.is_integer_dtype(labels) or not labels.between(0, len(self.class_names) - 1).all():
            raise DataError(f"Labels must be integers from 0 to {len(self.class_names) - 1}, one per class name.")
        if "split" in self.frame and not self.frame["split"].isin(SPLITS + ASIDE).all():
            unknown = sorted(set(self.frame["split"].astype(str)) - set(SPLITS + ASIDE))
            raise DataError(f"Splits must be named {', '.join(SPLITS)}; found {unknown}.")
        if self.images is not None:
            _check_images(self.images, self.frame["image"])

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The K class names of the task."""
        return self.task.class_names

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) class of each image."""
        return self.frame["label"].to_numpy(np.int64)

    @property
    def ids(self) -> NDArray[np.str_]:
        """(N,) name of each image: its path or its index."""
        return self.frame["image"].to_numpy(np.str_)

    @property
    def groups(self) -> NDArray[np.str_]:
        """(N,) group of each image; an image without one is a group of its own."""
        if "group" not in self.frame:
            return self.ids
        return self.frame["group"].where(self.frame["group"].notna(), self.frame["image"]).to_numpy(np.str_)

    @property
    def splits(self) -> NDArray[np.str_]:
        """(N,) split of each image; without any, all are in train."""
        if "split" not in self.frame:
            return np.full(len(self), "train", f"<U{max(map(len, ASIDE))}")
        return self.frame["split"].to_numpy(f"<U{max(map(len, ASIDE))}", copy=True)

    @property
    def metadata(self) -> dict[str, NDArray[np.str_]]:
        """Name and (N,) values, as text, of each further column; what is missing is empty."""
        further = self.frame.drop(columns=list(_RESERVED), errors="ignore")
        return {
            str(name): column.astype(object).where(column.notna(), "").to_numpy(np.str_)
            for name, column in further.items()
        }


@dataclass(frozen=True)
class SplitArrays:
    """One split as plain arrays, for models that are not trained in batches.

    Attributes:
        images: (n, C, H, W) uint8.
        targets: (n,) int64.
        ids: (n,) text.
        groups: (n,) text.
        meta: name and (n,) text of each subgroup column.
    """

    images: NDArray[np.uint8]
    targets: NDArray[np.int64]
    ids: NDArray[np.str_]
    groups: NDArray[np.str_]
    meta: dict[str, NDArray[np.str_]]


def _check_images(images: NDArray[np.uint8], index: "pd.Series[int]") -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise DataError(
            f"Images must be uint8 (N, C, H, W) with 1 or 3 channels, found {images.dtype} {tuple(images.shape)}."
        )
    if not pd.api.types.is_integer_dtype(index) or not index.between(0, len(images) - 1).all():
        raise DataError(f"The column `image` must index the {len(images)} images.")
