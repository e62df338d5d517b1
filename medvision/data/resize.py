"""Pixels to the asked size and number of channels: one rule for every source of images."""

from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

Resize = Literal["letterbox", "stretch", "crop"]
RESIZE_RULES: tuple[str, ...] = get_args(Resize)


def conform_all(
    images: NDArray[np.uint8], size: int | tuple[int, int], channels: Literal[1, 3], resize: Resize = "letterbox"
) -> NDArray[np.uint8]:
    """Bring decoded images to another size and number of channels by the rules of `decode`.

    Args:
        images: (N, C, H, W) uint8 with C 1 (grey) or 3 (RGB); returned as it is when it already conforms.
        size: target height and width in pixels, or one number for both.
        channels: 1 for grey, 3 for RGB.
        resize: as in `decode`.

    Returns:
        (N, channels, *size) uint8.
    """
    shape = (channels, *height_width(size))
    if images.shape[1:] == shape:
        return images
    result = np.empty((len(images), *shape), np.uint8)
    for index, image in enumerate(images):
        pixels = image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))
        result[index] = conform(pixels, shape[1:], channels, resize)
    return result


def conform(
    pixels: NDArray[np.uint8],
    size: tuple[int, int],
    channels: Literal[1, 3],
    resize: Resize,
    shape: tuple[int, int] | None = None,
) -> NDArray[np.uint8]:
    """Bring one image to a size and number of channels.

    Args:
        pixels: grey (H, W) or RGB (H, W, 3) uint8.
        size: target height and width in pixels.
        channels: 1 for grey, 3 for RGB.
        resize: as in `medvision.data.decode.decode`.
        shape: height and width that the letterbox is for, where `pixels` were reduced while they were decoded.

    Returns:
        (channels, *size) uint8.
    """
    if pixels.ndim == 3 and channels == 1:
        pixels = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), np.uint8)
    pixels = _resize(pixels, size, resize, shape or (pixels.shape[0], pixels.shape[1]))
    return pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels[np.newaxis].repeat(channels, axis=0)


def height_width(size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width of a size that may be one number for both."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _resize(
    pixels: NDArray[np.uint8], size: tuple[int, int], resize: Resize, shape: tuple[int, int]
) -> NDArray[np.uint8]:
    height, width = size
    if resize == "stretch":
        return _scale(pixels, height, width)
    if resize == "crop":  # cut before scaling, so that a 2 x 20,000 strip does not become 224 x 2,240,000 on the way
        old_height, old_width = pixels.shape[:2]
        cut_height = max(1, min(old_height, round(old_width * height / width)))
        cut_width = max(1, min(old_width, round(old_height * width / height)))
        top, left = (old_height - cut_height) // 2, (old_width - cut_width) // 2
        return _scale(pixels[top : top + cut_height, left : left + cut_width], height, width)
    ratio = min(height / shape[0], width / shape[1])
    scaled = _scale(pixels, max(1, round(shape[0] * ratio)), max(1, round(shape[1] * ratio)))
    top, left = (height - scaled.shape[0]) // 2, (width - scaled.shape[1]) // 2
    padded = np.zeros((height, width, *pixels.shape[2:]), np.uint8)
    padded[top : top + scaled.shape[0], left : left + scaled.shape[1]] = scaled
    return padded


def _scale(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    if pixels.shape[:2] == (height, width):
        return pixels
    # Bilinear skips pixels from a factor of two on, which loses fine structure; below, it came nearer to Lanczos than
    # area averaging on brain MRI (mean difference 0.86 against 0.93 grey values, 256 to 224 px), five times as fast.
    skips = 2 * height <= pixels.shape[0] or 2 * width <= pixels.shape[1]
    rule = cv2.INTER_AREA if skips else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=rule), np.uint8)
