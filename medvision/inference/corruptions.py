"""What happens to images between scanner and reader, at five strengths: noise, blur, contrast, JPEG, rotation.

Kinds and their order from Hendrycks and Dietterich 2019, arXiv:1903.12261; the strengths are our own, from hardly seen
to hard for a person, and of equal meaning at every image size.
"""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from medvision.errors import ConfigError
from medvision.randomness import generator

# By kind, what strengths 1 to 5 are.
STRENGTHS: dict[str, tuple[float, ...]] = {
    "noise": (5, 10, 20, 40, 80),  # standard deviation, in grey values
    "blur": (0.75, 1, 1.5, 2, 3),  # standard deviation, in percent of the shorter side
    "contrast": (0.8, 0.6, 0.4, 0.2, 0.1),  # factor on the distance from the image's mean
    "jpeg": (75, 50, 25, 10, 5),  # quality as libjpeg counts it
    "rotation": (5, 10, 15, 20, 30),  # degrees, clockwise or not
}


def corrupt(images: NDArray[np.uint8], kind: str, strength: int, seed: int) -> NDArray[np.uint8]:
    """Corrupt images; what is random is the same at every strength, only larger.

    Args:
        images: (N, C, H, W) uint8 with C 1 (grey) or 3 (RGB); left as they are.
        kind: a key of `STRENGTHS`.
        strength: 1 to 5.
        seed: of the noise and of which way an image turns; equal seeds give equal images.

    Returns:
        (N, C, H, W) uint8.

    Raises:
        ConfigError: if there is no such kind or strength.
    """
    if kind not in STRENGTHS or not 1 <= strength <= len(STRENGTHS["noise"]):
        raise ConfigError(
            f"expected a corruption of {', '.join(STRENGTHS)} at a strength from 1 to 5; found {kind} at {strength}"
        )
    amount = STRENGTHS[kind][strength - 1]
    match kind:
        case "noise":
            return add_noise(images, amount, seed)
        case "blur":
            return blur(images, amount / 100 * min(images.shape[2:]))
        case "contrast":
            return scale_contrast(images, amount)
        case "jpeg":
            return compress(images, int(amount))
        case _:
            clockwise = generator("rotation", seed).random(len(images)) < 0.5
            return rotate(images, np.where(clockwise, -amount, amount))


def add_noise(images: NDArray[np.uint8], sigma: float, seed: int) -> NDArray[np.uint8]:
    """Add Gaussian noise of standard deviation `sigma` in grey values to every pixel, and every channel of colours."""
    noisy = generator("noise", seed).standard_normal(images.shape, dtype=np.float32)
    # A grey scan stays grey in an RGB file too: its noise arose before it was copied to three channels.
    is_grey = (images == images[:, :1]).all(axis=(1, 2, 3))
    noisy[is_grey] = noisy[is_grey, :1]
    noisy *= sigma
    noisy += images
    np.rint(noisy, out=noisy)
    return np.asarray(np.clip(noisy, 0, 255, out=noisy), np.uint8)


def blur(images: NDArray[np.uint8], sigma: float) -> NDArray[np.uint8]:
    """Convolve with a Gaussian of standard deviation `sigma` in pixels; images go on as their mirror image."""
    return _each_plane(images, lambda _, plane: cv2.GaussianBlur(plane, (0, 0), sigma))


def scale_contrast(images: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    """Move every pixel towards the mean of its image; `factor` in [0, 1] of the distance is left."""
    offsets = (1 - factor) * images.mean(axis=(1, 2, 3), dtype=np.float64)
    return _each_plane(images, lambda i, plane: cv2.convertScaleAbs(plane, alpha=factor, beta=float(offsets[i])))


def compress(images: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Write as JPEG of a quality from 1 to 100 and read again."""
    result = np.empty_like(images)
    settings = [cv2.IMWRITE_JPEG_QUALITY, quality]
    for image, target in zip(images, result, strict=True):
        # From RGB to the BGR of OpenCV: JPEG keeps green better than blue, so the order matters.
        pixels = np.ascontiguousarray(image[::-1].transpose(1, 2, 0))
        _, file = cv2.imencode(".jpg", pixels, settings)
        read = np.asarray(cv2.imdecode(file, cv2.IMREAD_UNCHANGED))
        target[...] = read if read.ndim == 2 else read.transpose(2, 0, 1)[::-1]
    return result


def rotate(images: NDArray[np.uint8], degrees: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Turn each image about its centre, counter-clockwise, bilinear; what comes in from outside is its mirror image.

    Args:
        images: (N, C, H, W) uint8.
        degrees: (N,) angle of each image.
    """
    height, width = images.shape[2:]
    centre = (width - 1) / 2, (height - 1) / 2
    turns = [cv2.getRotationMatrix2D(centre, float(angle), 1.0) for angle in degrees]
    return _each_plane(
        images,
        lambda i, plane: cv2.warpAffine(plane, turns[i], (width, height), borderMode=cv2.BORDER_REFLECT_101),
    )


def _each_plane(
    images: NDArray[np.uint8], function: Callable[[int, NDArray[np.uint8]], cv2.typing.MatLike]
) -> NDArray[np.uint8]:
    """Apply `function(i, plane)` to every channel (H, W) of every image i."""
    result = np.empty_like(images)
    for i, image in enumerate(images):
        for plane, target in zip(image, result[i], strict=True):
            target[...] = function(i, plane)
    return result
