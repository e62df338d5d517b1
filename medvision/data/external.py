"""External test images: read as the model reads its images, labelled with its class names."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medvision.data import statistics
from medvision.data.datamodule import read_pixels
from medvision.data.options import DataOptions
from medvision.data.quarantine import set_aside
from medvision.data.table import ImageTable, SplitArrays
from medvision.errors import DataError
from medvision.tasks import Task


@dataclass(frozen=True)
class External:
    """What `read_external` found.

    Attributes:
        arrays: n usable images; targets count in the model's classes.
        hashes: (n,) of `medvision.data.leakage.pixel_hashes`.
        quarantine: path, reason and stage of each file that could not be used.
        fingerprint: SHA-256, in hex, over ids, labels and pixels.
    """

    arrays: SplitArrays
    hashes: NDArray[np.void]
    quarantine: pd.DataFrame
    fingerprint: str


def read_external(
    table: ImageTable,
    task: Task,
    decode: Mapping[str, Any],
    options: DataOptions | None = None,
    *,
    split: str | None = None,
) -> External:
    """Read the images of another source for a model that is there already.

    Args:
        table: of the other source; it may have fewer classes than the model, and none that the model does not know.
        task: of the model.
        decode: settings of the model: `size`, `channels`, `resize`, `window` and `frames`.
        options: `on_bad_image` and `max_bad_fraction` are used; how images are read is up to the model.
        split: only the images of this split; None takes all.

    Raises:
        DataError: if there is a class that the model does not know, no image in the split, or too many bad files.
    """
    class_names, options = task.class_names, options or DataOptions()
    unknown = [name for name in table.class_names if name not in class_names]
    if unknown:
        raise DataError(
            f"The model does not know the class(es) {', '.join(unknown)}; it knows {', '.join(class_names)}.\n"
            "Name the classes as the model does, or leave out the images of others."
        )
    if split is not None:
        rows = np.flatnonzero(table.splits == split)
        if not len(rows):
            raise DataError(f"split={split}: the data has only {', '.join(sorted(set(table.splits.tolist())))}.")
        table = replace(table, frame=table.frame.iloc[rows].reset_index(drop=True))
    decoded = read_pixels(
        table,
        decode["size"],
        decode["channels"],
        decode["resize"],
        window=decode["window"],
        frames=decode["frames"],
    )
    table, quarantine = set_aside(table, decoded.bad, options.on_bad_image, options.max_bad_fraction)
    usable = np.flatnonzero(table.splits != "quarantined")
    positions = usable if table.images is None else table.frame["image"].to_numpy(np.int64)[usable]
    labels = np.array([class_names.index(name) for name in table.class_names], np.int64)
    arrays = SplitArrays(
        images=decoded.pixels[positions],
        targets=labels[table.labels[usable]],
        ids=table.ids[usable],
        groups=table.groups[usable],
        meta={name: values[usable] for name, values in table.metadata.items()},
    )
    split_column = np.where(table.splits == "quarantined", "quarantined", "test")
    tested = replace(table, frame=table.frame.assign(split=split_column))
    fingerprint = statistics.fingerprint(tested, decoded.hashes, decoded.pixels.shape[1:])
    return External(arrays, decoded.hashes[usable], quarantine, fingerprint)
