"""How many images at a time a model takes, and which it takes at all; the same for every runtime."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvision.errors import DataError

# Below 16 images CPU kernels round otherwise than above; a batch never holds fewer when there are as many.
_MIN_BATCH = 16
_MAX_BATCH = 512
_PIXELS_PER_BATCH = 2**22  # 83 images of 224 x 224: the activations of a ResNet-50 for them fit in 8 GB


def batches(images: NDArray[np.uint8], batch_size: int | None = None, most: int = _MAX_BATCH) -> Iterator[slice]:
    """Which rows to take at a time; a short last batch reaches back over images that are done already.

    Args:
        images: (N, C, H, W).
        batch_size: images at a time; by default as many as hold 4 million pixels, within 16 and `most`.
        most: images at a time where they are small.

    >>> [(rows.start, rows.stop) for rows in batches(np.zeros((70, 1, 8, 8), np.uint8), batch_size=32)]
    [(0, 32), (32, 64), (54, 70)]
    """
    n, _, height, width = images.shape
    step = batch_size or min(most, max(_MIN_BATCH, _PIXELS_PER_BATCH // (height * width)))
    for start in range(0, n, step):
        stop = min(start + step, n)
        yield slice(max(0, min(start, stop - _MIN_BATCH)), stop)


def check_images(images: NDArray[np.uint8], decode: Mapping[str, Any]) -> None:
    """Refuse images that are not as a model's `decode` settings make them.

    Raises:
        DataError: if `images` has another dtype or shape.
    """
    expected = (decode["channels"], *decode["size"])
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != expected:
        raise DataError(
            f"expected images as uint8 (N, {', '.join(map(str, expected))}); "
            f"found {images.dtype} {tuple(images.shape)}\n"
            "Read files with medvision.data.decode.decode(path, **model.decode)."
        )
