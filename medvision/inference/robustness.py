"""How fast a model's accuracy falls when images get worse."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from medvision.evaluation.intervals import from_resamples, wilson
from medvision.evaluation.predictions import Predictions
from medvision.evaluation.resampling import Resampling
from medvision.evaluation.verdict import Estimate
from medvision.inference.corruptions import STRENGTHS, corrupt
from medvision.inference.predicts import Predicts
from medvision.randomness import generator, key

_PIXELS_PER_CHUNK = 2**22  # as many as a predictor takes at a time, so that memory does not grow with the images
_LARGEST_CHUNK = 512
_COUNTS = 2**20  # held at a time while bootstrapping


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
) -> dict[str, Estimate]:
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
        `<kind>/<strength>/accuracy`, each with the n it rests on.
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
    intervals = _intervals(right, predictions.take(rows), confidence_level, n_resamples, seed)
    return {
        f"{kind}/{strength}/accuracy": Estimate(float(hits.mean()), low, high, len(rows))
        for (kind, strength), hits, (low, high) in zip(settings, right, intervals, strict=True)
    }


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


def _intervals(
    right: NDArray[np.bool_], predictions: Predictions, confidence_level: float, n_resamples: int, seed: int
) -> list[tuple[float, float]]:
    """The interval of the mean of each row of (S, n), by whole groups where there are any."""
    resampling = Resampling.of(predictions)
    if not resampling.grouped:
        return [wilson(int(hits.sum()), len(hits), confidence_level) for hits in right]
    # All images of a unit are drawn equally often, so that their sums are enough.
    by_unit = np.stack(
        [np.bincount(resampling.slots, weights=hits) for hits in (*right, np.ones(right.shape[1]))], axis=1
    )
    rng, step, sums = generator("bootstrap", seed), max(1, _COUNTS // resampling.units), []
    for start in range(0, n_resamples, step):
        sums.append(resampling.draw(rng, min(step, n_resamples - start)) @ by_unit)
    drawn = np.concatenate(sums)
    resampled, units = drawn[:, :-1] / drawn[:, -1:], resampling.units
    return [
        from_resamples(float(hits.mean()), values, units, confidence_level)
        for hits, values in zip(right, resampled.T, strict=True)
    ]
