"""One image as a model takes it, whatever it comes as: a file, a PIL image, an array. Knows no torch."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medvision.data.decode import decode
from medvision.data.resize import conform
from medvision.errors import DataError

ImageLike = str | Path | Image.Image | NDArray[np.uint8]


def read_image(image: ImageLike, settings: Mapping[str, Any]) -> NDArray[np.uint8]:
    """The pixels of one image at the size and channels of a model.

    Args:
        image: a file as `medvision.data.decode.decode` reads it, DICOM included; a PIL image; or uint8 pixels, grey
            (H, W) or RGB (H, W, 3), or (C, H, W) as the model takes them.
        settings: `decode` of the model.

    Returns:
        (C, H, W) uint8.

    Raises:
        BadImage: if the file cannot be used.
        DataError: if `image` is an array of another kind.
    """
    if isinstance(image, str | Path):
        return decode(image, **settings)
    if isinstance(image, Image.Image):  # by way of a file, so that palettes, alpha and 16 bits have their one rule
        file = io.BytesIO()
        image.save(file, "TIFF" if image.mode == "CMYK" else "PNG")
        return decode(file.getvalue(), **settings)
    channels, size = settings["channels"], tuple(settings["size"])
    if image.dtype == np.uint8 and image.shape == (channels, *size):
        return image
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        raise DataError(
            f"expected uint8 pixels, grey (H, W), RGB (H, W, 3) or {(channels, *size)}; "
            f"found {image.dtype} {image.shape}."
        )
    return conform(np.ascontiguousarray(image), size, channels, settings["resize"])
