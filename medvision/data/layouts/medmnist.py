"""Files of the MedMNIST collection as a source."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medvision.data.table import SPLITS, ImageTable
from medvision.errors import DataError
from medvision.tasks import Task


def medmnist(root: str | Path, class_names: Sequence[str] | None = None) -> ImageTable:
    """A 2D set of MedMNIST v2, such as pneumoniamnist.npz or pathmnist_64.npz, with its own train, val and test.

    Args:
        root: an .npz with `<split>_images`, uint8 (N, H, W) or (N, H, W, 3), and `<split>_labels`, integers 0..K-1 of
            shape (N, 1) or (N,).
        class_names: K names; the file has none, so that the default is "0", "1", ...

    Raises:
        DataError: if the file is missing, damaged or of another layout.

    Source: Yang et al. 2023, MedMNIST v2, doi:10.1038/s41597-022-01721-8.
    """
    path = Path(root)
    arrays = _load(path)
    splits = [split for split in SPLITS if f"{split}_images" in arrays or f"{split}_labels" in arrays]
    if "train" not in splits:
        raise DataError(f"{path} has no train_images, only {', '.join(sorted(arrays)) or 'nothing'}.\n{_EXPECTED}")
    images = [_images(path, arrays, split) for split in splits]
    labels = [_labels(path, arrays, split, len(one)) for split, one in zip(splits, images, strict=True)]
    shapes = {one.shape[1:] for one in images}
    if len(shapes) > 1:
        raise DataError(f"The splits of {path} have images of different shapes: {sorted(shapes)}.\n{_EXPECTED}")
    label = np.concatenate(labels)
    count = int(label.max(initial=0)) + 1
    if np.unique(label).tolist() != list(range(count)) or count < 2:
        found = ", ".join(map(str, np.unique(label)[:10].tolist()))
        raise DataError(f"Labels in {path} must be 0..K-1 without gaps, two or more; found {found}.\n{_EXPECTED}")
    names = tuple(map(str, class_names or range(count)))
    if len(names) != count:
        raise DataError(f"data.class_names has {len(names)} names, but {path} has {count} classes.")
    frame = pd.DataFrame(
        {"image": np.arange(len(label)), "label": label, "split": np.repeat(splits, [len(one) for one in labels])}
    )
    return ImageTable(frame, Task.classes(names), np.concatenate(images))


_EXPECTED = "Expected a 2D, single-label set in the layout of MedMNIST v2: medmnist.com lists them."


def _load(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise DataError(f"The MedMNIST file {path} does not exist.\nPoint data.root at an .npz of the collection.")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as npz:
            return dict(npz)
    except (OSError, EOFError, ValueError, TypeError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else "it ends too early"
        raise DataError(f"The MedMNIST file {path} cannot be read: {reason}.\nDownload it again.") from error


def _images(path: Path, arrays: dict[str, NDArray[Any]], split: str) -> NDArray[np.uint8]:
    """(N, C, H, W) view of a split's images."""
    images = arrays.get(f"{split}_images")
    if images is None or images.dtype != np.uint8 or not (images.ndim == 3 or images.shape[3:] == (3,)):
        found = "nothing" if images is None else f"{images.dtype} {images.shape}"
        raise DataError(
            f"{split}_images in {path} must be uint8 (N, H, W) or (N, H, W, 3), found {found}.\n{_EXPECTED}"
        )
    return np.asarray(images[:, np.newaxis] if images.ndim == 3 else images.transpose(0, 3, 1, 2))


def _labels(path: Path, arrays: dict[str, NDArray[Any]], split: str, count: int) -> NDArray[np.int64]:
    labels = arrays.get(f"{split}_labels")
    if labels is None or labels.shape not in ((count, 1), (count,)) or not np.issubdtype(labels.dtype, np.integer):
        found = "nothing" if labels is None else f"{labels.dtype} {labels.shape}"
        raise DataError(f"{split}_labels in {path} must be integers ({count}, 1), found {found}.\n{_EXPECTED}")
    return labels.reshape(-1).astype(np.int64)
