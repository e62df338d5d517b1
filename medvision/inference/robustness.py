"""Robustness: accuracy on corrupted images."""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from medvision.errors import ConfigError
from medvision.inference.predicts import Predicts
from medvision.metrics.bootstrap import Resampling
from medvision.metrics.estimates import Estimates, Key
from medvision.metrics.predictions import Predictions
from medvision.metrics.proportions import Proportion, proportions
from medvision.randomness import generator, key

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
    """Convolve with a Gaussian of standard deviation `sigma` in pixels; images are mirrored at the border."""
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


_PIXELS_PER_CHUNK = 2**22  # as many as a predictor takes at a time, so that memory does not grow with the images
_LARGEST_CHUNK = 512


def robustness(
    predictor: Predicts,
    images: NDArray[np.uint8],
    predictions: Predictions,
    confidence_level: float = 0.95,
    n_resamples: int = 1000,
    max_images: int | None = None,
    views: int = 1,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Estimates:
    """Accuracy under every corruption of `STRENGTHS`, on the same images for all.

    Args:
        predictor: to be tested.
        images: (N, C, H, W) uint8, in memory or memory-mapped.
        predictions: of the same N images as they are; targets and groups are taken from it.
        confidence_level: in (0, 1).
        n_resamples: bootstrap resamples where there are groups; Wilson's interval where every image stands alone.
        max_images: more than these are sampled, see `sample`; by default 1,000, or as many as hold 5 million pixels
            in all their views, but at least 100 (as of 224 x 224), because each is predicted 25 times.
        views: how many of an image the predictor averages.
        seed: of the sample, the noise and the resamples.
        progress: called with the number of images predicted so far and the number in all.

    Returns:
        Accuracy in the section "robustness", by (kind, strength).
    """
    height, width = images.shape[2:]
    rows = sample(predictions.targets, max_images or min(1000, max(100, 5_000_000 // (height * width * views))), seed)
    settings = [(kind, strength) for kind, amounts in STRENGTHS.items() for strength in range(1, len(amounts) + 1)]
    right = np.empty((len(settings), len(rows)), bool)
    step = max(1, min(_LARGEST_CHUNK, _PIXELS_PER_CHUNK // (height * width)))
    for start in range(0, len(rows), step):
        chunk = rows[start : start + step]
        clean, targets = np.asarray(images[chunk]), predictions.targets[chunk]
        for place, (kind, strength) in enumerate(settings):
            probs = predictor.predict_probs(corrupt(clean, kind, strength, key(seed, "robustness", start)))
            right[place, start : start + step] = probs.argmax(axis=1) == targets
            if progress:
                progress(len(settings) * start + (place + 1) * len(chunk), right.size)
    everyone = np.ones(len(rows), bool)
    counted = {
        Key("accuracy", section="robustness", names=(kind, str(strength))): Proportion(hits, everyone, "no images")
        for (kind, strength), hits in zip(settings, right, strict=True)
    }
    return proportions(Resampling.of(predictions.take(rows)), counted, confidence_level, n_resamples, seed)


def sample(targets: NDArray[np.int64], max_images: int, seed: int) -> NDArray[np.intp]:
    """Rows of at most `max_images` images, ascending, in which every class has its share to within one image.

    Args:
        targets: (N,) class of each image.
        max_images: 1 or more; all rows where there are no more than these.
        seed: equal seeds give equal samples.
    """
    n = len(targets)
    if n <= max_images:
        return np.arange(n)
    # In a random order within each class, every k-th image of all classes one after another.
    shuffled = generator("robustness sample", seed).permutation(n)
    by_class = shuffled[np.argsort(targets[shuffled], kind="stable")]
    return np.sort(by_class[np.arange(max_images) * n // max_images])
