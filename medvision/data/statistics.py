"""Numbers that need every pixel, read in chunks: normalisation statistics and the data fingerprint."""

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from medvision.data.table import ImageTable

_CHUNK = 512  # images read at once: 77 MB at 224 x 224 RGB


def channel_statistics(
    images: NDArray[np.uint8], rows: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of each channel over all pixels of some images.

    Args:
        images: (N, C, H, W) uint8.
        rows: (n,) which of them.

    Returns:
        mean (C,) and deviation (C,) in units of 0..255; a channel that never varies has deviation 1, so that one can
        divide by it.
    """
    histogram = np.zeros((images.shape[1], 256), np.int64)  # exact, where sums of squares would round
    for chunk in _chunks(images, rows):
        for channel in range(images.shape[1]):
            histogram[channel] += np.bincount(chunk[:, channel].ravel(), minlength=256)
    values = np.arange(256, dtype=np.float64)
    share = histogram / histogram.sum(axis=1, keepdims=True)
    mean = share @ values
    std = np.sqrt((share * np.square(values - mean[:, np.newaxis])).sum(axis=1))
    return mean, np.where(std > 0, std, 1.0)


def fingerprint(table: ImageTable, images: NDArray[np.uint8], rows: NDArray[np.int64]) -> str:
    """SHA-256, in hex, over class names, ids, labels, splits and pixels: equal where a run would see the same data.

    Args:
        table: n images with their splits.
        images: (N, C, H, W) uint8.
        rows: (n,) position in `images` of each image of the table.
    """
    digest = hashlib.sha256(repr((table.class_names, images.shape[1:])).encode())
    for column in (table.ids, table.labels.astype(np.str_), table.frame["split"]):
        digest.update("\0".join(column).encode() + b"\0\0")
    for chunk in _chunks(images, rows):
        digest.update(chunk.data)
    return digest.hexdigest()


def _chunks(images: NDArray[np.uint8], rows: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
    for start in range(0, len(rows), _CHUNK):
        yield images[rows[start : start + _CHUNK]]
