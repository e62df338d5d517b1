"""Out-of-distribution check: whether an image resembles the images that the model was trained on. Knows no torch."""

import base64
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

# Raise it when the statistics or the features behind them change; statistics of another version are not applied.
VERSION = 1
FALSE_ALARM = 0.01  # share of images like the training images that may be flagged
_SIDE = 32  # pixels that features are computed on: modalities differ in coarse features
_BLOCK = 1024  # images at a time
_MAX_COMPONENTS = 32
_MAX_STORED = 50_000  # numbers of the components, two bytes each: 133 kB as base64

_LEVELS = 16  # of the histogram
# What each number is, with the least and the most that it can be.
_FEATURES = {
    "brightness": (0.0, 255.0),  # mean of the pixels
    "contrast": (0.0, 128.0),  # their standard deviation
    "border": (-255.0, 255.0),  # mean of the outermost pixels less that of the others
    "background": (0.0, 1.0),  # share of pixels in the darkest tenth
    "sharpness": (0.0, np.inf),  # mean step between neighbouring pixels over the contrast
    "similarity": (-1.0, 1.0),  # correlation with the mean training image
    "saturation": (0.0, 255.0),  # mean distance between the strongest and the weakest colour channel
}
# A step in each that a reader would notice, so that their distances can be added up.
_UNIT = {
    "brightness": 32.0,
    "contrast": 32.0,
    "border": 32.0,
    "background": 0.2,
    "sharpness": 0.2,
    "similarity": 0.2,
    "saturation": 8.0,
}
# Vectors, checked by their distance from the training images.
_DISTANCES = {
    "histogram": "grey values",
    "layout": "light and dark areas",
    "statistics": "brightness, contrast and the like together",
    "embedding": "what the model sees",
}


def fit_statistics(
    images: NDArray[np.uint8], embeddings: NDArray[np.floating] | None, false_alarm: float = FALSE_ALARM
) -> dict[str, Any]:
    """Statistics of the training images: a plain dict, below 200 kB as JSON.

    Each feature of an image, and each distance from the training images, gets bounds that are equally rare to be passed
    by an image like them, so rare that all together flag a share of about `false_alarm`.
    Distances are measured from every second image, and bounded by what they are for the others.

    Args:
        images: (N, C, H, W) uint8, the training images, in an order without meaning for their kind; at least 4, better
            hundreds.
        embeddings: (N, D) of the same images, or None for a model that has none.
        false_alarm: in (0, 1).

    Source: the distance is that of Mahalanobis (Lee et al. 2018, arXiv:1807.03888), for all classes as one, under the
        covariance of probabilistic PCA (Tipping and Bishop 1999).
    """
    fitted, checked = slice(0, None, 2), slice(1, None, 2)
    template = _template(images[fitted])
    statistics: dict[str, Any] = {
        "version": VERSION,
        "images": len(images),
        "false_alarm": false_alarm,
        "template": _packed(template, np.float16),
    }
    values, vectors = _features(images[checked], template)
    _, known = _features(images[fitted], template)
    if embeddings is not None:
        known["embedding"], vectors["embedding"] = embeddings[fitted], embeddings[checked]
    statistics["subspaces"] = {name: _subspace(np.asarray(some, np.float64)) for name, some in known.items()}
    values |= {name: _distances(some, statistics["subspaces"][name]) for name, some in vectors.items()}
    statistics["bounds"] = _all_bounds(values, false_alarm)
    return statistics


def check(
    statistics: Mapping[str, Any], images: NDArray[np.uint8], embeddings: NDArray[np.floating] | None
) -> list[tuple[str, ...]]:
    """Why each image does not look like the training images; nothing where it does.

    Args:
        statistics: of `fit_statistics`.
        images: (N, C, H, W) uint8.
        embeddings: (N, D), or None, which leaves their distance unchecked.

    Returns:
        N tuples of reasons, such as "brightness 201 (training images: 12 to 95)".
    """
    if statistics.get("version") != VERSION:
        return [()] * len(images)
    values, vectors = _features(images, _unpacked(statistics["template"], np.float16))
    if embeddings is not None:
        vectors["embedding"] = embeddings
    subspaces = statistics["subspaces"]
    values |= {name: _distances(some, subspaces[name]) for name, some in vectors.items() if name in subspaces}
    reasons: list[tuple[str, ...]] = [()] * len(images)
    for name, (low, high) in statistics["bounds"].items():
        if name not in values:
            continue
        for row in np.flatnonzero((values[name] < low) | (values[name] > high)):
            reasons[row] += (_reason(name, float(values[name][row]), low, high),)
    return reasons


def _reason(name: str, value: float, low: float, high: float) -> str:
    if name in _DISTANCES:
        return f"{_DISTANCES[name]} {value:.1f} away (training images: up to {high:.1f})"
    digits = 0 if _UNIT[name] >= 1 else 2
    return f"{name} {value:.{digits}f} (training images: {low:.{digits}f} to {high:.{digits}f})"


def _all_bounds(values: Mapping[str, NDArray[np.float64]], false_alarm: float) -> dict[str, list[float]]:
    """Bounds, equally rare to be passed, that leave `false_alarm` of the images outside of at least one.

    The images that one feature finds odd are mostly those that others find odd as well, so each may have a larger part
    of the false alarms than one for each feature.
    """
    bounds: dict[str, list[float]] = {}
    for tail in false_alarm * np.geomspace(1 / len(values), 1, 20):
        wider, bounds = bounds, {name: _bounds(name, some, float(tail)) for name, some in values.items()}
        outside = [(values[name] < low) | (values[name] > high) for name, (low, high) in bounds.items()]
        if wider and np.any(outside, axis=0).mean() > false_alarm:
            return wider
    return bounds


def _bounds(name: str, values: NDArray[np.float64], tail: float) -> list[float]:
    """Limits that leave `tail` of the values outside; a distance has an upper one only."""
    if name in _DISTANCES:
        return [0.0, _beyond(values, tail)]
    least, most = _FEATURES[name]
    return [max(least, -_beyond(-values, tail / 2)), min(most, _beyond(values, tail / 2))]


def _beyond(values: NDArray[np.float64], tail: float) -> float:
    """The value that a share `tail` lies above: a quantile, or its estimate where there are too few values for one.

    For the estimate the tail falls exponentially from the quantile 0.9 on, which is slower than a normal one; the
    largest of a hundred values would be passed by every hundredth image.
    """
    start = float(np.quantile(values, 0.9))
    excess = values[values > start] - start
    if len(excess) == 0:
        return start
    if len(values) * tail >= 10:
        return float(np.quantile(values, 1 - tail))
    return start + float(excess.mean()) * float(np.log(0.1 / tail))


def _template(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(h, w) mean of the images, small and grey."""
    sums = [_small(block).mean(axis=1).sum(axis=0, dtype=np.float64) for block in _blocks(images)]
    return np.asarray(np.sum(sums, axis=0) / len(images), np.float32)


def _features(
    images: NDArray[np.uint8], template: NDArray[np.floating]
) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.floating]]]:
    """(N,) values of each feature, `saturation` for images in colour only; (N, D) vectors."""
    blocks = [_small(block) for block in _blocks(images)]
    values = _joined([_features_of_some(small, template) for small in blocks])
    vectors = _joined([{"histogram": _histograms(small), "layout": _layouts(small)} for small in blocks])
    if values:
        # Each may be usual and all together not: few images are dark and full of contrast.
        together = [some / _UNIT[name] for name, some in values.items()]
        vectors["statistics"] = np.stack(together, axis=1)
    return values, vectors


def _joined(parts: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    return {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else ())}


def _histograms(small: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, levels) root of the share of pixels at each grey level, so that rare levels count too."""
    grey = small.mean(axis=1)
    levels = np.minimum(grey * (_LEVELS / 256), _LEVELS - 1).astype(np.intp).reshape(len(grey), -1)
    places = levels + _LEVELS * np.arange(len(grey))[:, np.newaxis]
    counts = np.bincount(places.ravel(), minlength=_LEVELS * len(grey)).reshape(len(grey), _LEVELS)
    return np.asarray(np.sqrt(counts / levels.shape[1]), np.float32)


def _layouts(small: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, D) the picture at half the size, without its brightness and contrast."""
    grey = small.mean(axis=1)
    height, width = (2 * (length // 2) for length in grey.shape[1:])
    halves = grey[:, :height, :width].reshape(len(grey), height // 2, 2, width // 2, 2).mean(axis=(2, 4))
    flat = halves.reshape(len(grey), -1)
    return np.asarray((flat - flat.mean(axis=1, keepdims=True)) / (flat.std(axis=1, keepdims=True) + 1), np.float32)


def _features_of_some(small: NDArray[np.float32], template: NDArray[np.floating]) -> dict[str, NDArray[np.float64]]:
    grey = small.mean(axis=1)
    height, width = grey.shape[1:]
    rim = max(1, height // 16), max(1, width // 16)
    edge = np.ones((height, width), np.bool_)
    edge[rim[0] : height - rim[0], rim[1] : width - rim[1]] = False
    deviation = grey.std(axis=(1, 2))
    steps = np.abs(np.diff(grey, axis=1)).mean(axis=(1, 2)) + np.abs(np.diff(grey, axis=2)).mean(axis=(1, 2))
    centred = grey - grey.mean(axis=(1, 2), keepdims=True)
    pattern = np.asarray(template, np.float32) - np.float32(template.mean())
    norms = np.sqrt((centred**2).sum(axis=(1, 2)) * (pattern**2).sum()) + 1e-6
    values = {
        "brightness": grey.mean(axis=(1, 2)),
        "contrast": deviation,
        "border": grey[:, edge].mean(axis=1) - (grey[:, ~edge].mean(axis=1) if (~edge).any() else 0),
        "background": (grey < 25.5).mean(axis=(1, 2)),
        "sharpness": steps / (deviation + 1),
        "similarity": (centred * pattern).sum(axis=(1, 2)) / norms,
    }
    if small.shape[1] > 1:
        values["saturation"] = (small.max(axis=1) - small.min(axis=1)).mean(axis=(1, 2))
    return {name: np.asarray(some, np.float64) for name, some in values.items()}


def _small(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(n, C, h, w) of at most `_SIDE` pixels a side."""
    n, channels, height, width = images.shape
    size = min(width, _SIDE), min(height, _SIDE)
    if size == (width, height):
        return images.astype(np.float32)
    small = np.empty((n, channels, size[1], size[0]), np.uint8)
    for row, channel in np.ndindex(n, channels):
        small[row, channel] = cv2.resize(images[row, channel], size, interpolation=cv2.INTER_AREA)
    return small.astype(np.float32)


def _blocks(images: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    edges: Sequence[int] = [*range(0, len(images), _BLOCK), len(images)]
    return [images[start:stop] for start, stop in pairwise(edges)]


def _subspace(embeddings: NDArray[np.float64]) -> dict[str, Any]:
    """Mean, leading directions with their variances, and the mean variance of all other directions."""
    n, dim = embeddings.shape
    mean = embeddings.mean(axis=0)
    covariance = np.cov(embeddings, rowvar=False).reshape(dim, dim)
    variances, directions = np.linalg.eigh(covariance)
    variances, directions = variances[::-1].clip(0), directions[:, ::-1]
    count = max(1, min(_MAX_COMPONENTS, dim, n - 1, _MAX_STORED // dim))
    # A direction in which the training images never differ would make any step in it infinite.
    floor = 1e-3 * float(variances.mean()) + 1e-12
    rest = float(variances[count:].mean()) if count < dim else 0.0
    return {
        "dim": dim,
        "mean": _packed(mean, np.float32),
        "components": _packed(directions[:, :count].T, np.float16),
        "variances": [float(max(value, floor)) for value in variances[:count]],
        "rest": max(rest, floor),
    }


def _distances(embeddings: NDArray[np.floating], subspace: Mapping[str, Any]) -> NDArray[np.float64]:
    """(N,) distances from the mean, in standard deviations a dimension."""
    mean = _unpacked(subspace["mean"], np.float32)
    components = _unpacked(subspace["components"], np.float16).astype(np.float32)
    centred = np.asarray(embeddings, np.float32) - mean
    inside = centred @ components.T
    outside = np.maximum((centred**2).sum(axis=1) - (inside**2).sum(axis=1), 0)
    squared = (inside**2 / np.array(subspace["variances"])).sum(axis=1) + outside / subspace["rest"]
    return np.asarray(np.sqrt(squared / subspace["dim"]), np.float64)


def _packed(values: NDArray[np.floating], kind: type[np.floating]) -> dict[str, Any]:
    """An array as JSON: base64 of its little-endian bytes, because digits would take five times as many."""
    data = np.ascontiguousarray(values, np.dtype(kind).newbyteorder("<"))
    return {"shape": list(data.shape), "base64": base64.b64encode(data.tobytes()).decode()}


def _unpacked(packed: Mapping[str, Any], kind: type[np.floating]) -> NDArray[np.floating]:
    data = np.frombuffer(base64.b64decode(packed["base64"]), np.dtype(kind).newbyteorder("<"))
    return data.reshape(packed["shape"])
