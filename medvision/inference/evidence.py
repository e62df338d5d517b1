"""The images on which an exported model is compared with its bundle."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from medvision.data.decode import EXTENSIONS, decode_all
from medvision.errors import DataError
from medvision.randomness import generator

N_COMPARED = 256
N_CALIBRATION = 256
N_HELD_OUT = 2000  # enough that a change of 1 % of the labels shows


@dataclass(frozen=True)
class Evidence:
    """Images at a model's size.

    Attributes:
        source: where they are from, as it follows on "256 images, ".
        images: (n, C, H, W) uint8, to compare; at most `N_COMPARED`.
        calibration: (m, C, H, W) uint8 to choose the ranges of static quantisation by; empty where there are none.
        held_out: (l, C, H, W) uint8, others, to measure what quantisation costs; empty where there are none.
        targets: (l,) int labels of `held_out`, or None where they are not known.
    """

    source: str
    images: NDArray[np.uint8]
    calibration: NDArray[np.uint8]
    held_out: NDArray[np.uint8]
    targets: NDArray[np.int64] | None

    @classmethod
    def from_folder(cls, folder: Path, decode: dict[str, Any]) -> Self:
        """Image files below a folder; every other one calibrates, and the rest measures.

        Args:
            folder: with images in it, or in folders in it.
            decode: the settings of `medvision.data.decode.decode`.

        Raises:
            DataError: if there is no image that can be read.
        """
        found = [Path(place) / name for place, _, names in os.walk(folder) for name in names]
        files = sorted(file for file in found if file.suffix.lower() in EXTENSIONS)
        taken = [files[row] for row in spread(len(files), N_CALIBRATION + N_HELD_OUT)]
        pixels, bad = decode_all(taken, **decode)
        pixels = np.delete(pixels, [index for index, _, _ in bad], axis=0)
        if len(pixels) < 2:
            raise DataError(
                f"images={folder}: expected two or more images that can be read, found {len(pixels)} "
                f"of {len(files)} image file(s)."
            )
        return cls(
            "from a folder",
            pixels[spread(len(pixels), N_COMPARED)],
            pixels[::2][:N_CALIBRATION],
            pixels[1::2],
            None,
        )

    @classmethod
    def at_random(cls, decode: dict[str, Any]) -> Self:
        """Noise, where no image is at hand: it shows that two runtimes compute the same, and nothing about accuracy."""
        shape = (decode["channels"], *decode["size"])
        noise = generator("export").integers(0, 256, (N_COMPARED, *shape), dtype=np.uint8)
        nothing = np.empty((0, *shape), np.uint8)
        return cls("random noise, no real image was at hand", noise, nothing, nothing, None)


def spread(n: int, most: int) -> NDArray[np.int64]:
    """At most `most` of n rows, evenly over all of them, in order.

    >>> spread(10, 4).tolist()
    [0, 2, 5, 7]
    """
    return np.arange(min(n, most)) * n // max(1, min(n, most))
