"""Images from elsewhere, on which a finished model is tested: read as the model reads, labelled in its words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medvision.data import statistics
from medvision.data.pixels import read_pixels
from medvision.data.quarantine import OnBadImage, set_aside
from medvision.data.table import ImageTable, SplitArrays
from medvision.errors import DataError


@dataclass(frozen=True)
class External:
    """What `read_external` found.

    Attributes:
        arrays: n usable images; targets count in the model's classes.
        hashes: (n,) of `medvision.data.guard.pixel_hashes`.
        quarantine: path, reason and stage of each file that could not be used.
        fingerprint: SHA-256, in hex, over ids, labels and pixels.
    """

    arrays: SplitArrays
    hashes: NDArray[np.void]
    quarantine: pd.DataFrame
    fingerprint: str


def read_external(
    table: ImageTable,
    class_names: Sequence[str],
    decode: Mapping[str, Any],
    *,
    split: str | None = None,
    on_bad_image: OnBadImage = "quarantine",
    max_bad_fraction: float = 0.1,
) -> External:
    """Read the images of another source for a model that is there already.

    Args:
        table: of the other source; it may have fewer classes than the model, and none that the model does not know.
        class_names: of the model, in the order of its outputs.
        decode: settings of the model: `size`, `channels`, `resize`, `window` and `frames`.
        split: only the images of this split; None takes all.
        on_bad_image: see `medvision.data.quarantine.set_aside`.
        max_bad_fraction: likewise.

    Raises:
        DataError: if there is a class that the model does not know, no image in the split, or too many bad files.
    """
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
        table = ImageTable(table.frame.iloc[rows].reset_index(drop=True), table.class_names, table.images, table.root)
    decoded = read_pixels(
        table,
        decode["size"],
        decode["channels"],
        decode["resize"],
        window=decode["window"],
        frames=decode["frames"],
    )
    table, quarantine = set_aside(table, decoded.bad, on_bad_image, max_bad_fraction)
    usable = np.flatnonzero(table.splits != "quarantined")
    positions = usable if table.images is None else table.frame["image"].to_numpy(np.int64)[usable]
    labels = np.array([list(class_names).index(name) for name in table.class_names], np.int64)
    arrays = SplitArrays(
        images=decoded.pixels[positions],
        targets=labels[table.labels[usable]],
        ids=table.ids[usable],
        groups=table.groups[usable],
        meta={name: values[usable] for name, values in table.metadata.items()},
    )
    tested = ImageTable(
        table.frame.assign(split=np.where(table.splits == "quarantined", "quarantined", "test")),
        table.class_names,
        table.images,
        table.root,
    )
    fingerprint = statistics.fingerprint(tested, decoded.hashes, decoded.pixels.shape[1:])
    return External(arrays, decoded.hashes[usable], quarantine, fingerprint)
