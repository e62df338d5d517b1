"""Robustness: accuracy on corrupted images."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from medvision.inference.corruptions import STRENGTHS, corrupt
from medvision.inference.predicts import Predicts
from medvision.metrics.bootstrap import Resampling
from medvision.metrics.estimates import Estimates, Key
from medvision.metrics.predictions import Predictions
from medvision.metrics.proportions import Proportion, proportions
from medvision.randomness import generator, key

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
