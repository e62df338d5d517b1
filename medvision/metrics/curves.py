"""Curves, matrices and histograms in numbers, small enough to draw however many cases there are.

Nothing here draws; the plots take what these functions return.
"""

import heapq
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medvision.errors import ConfigError, DataError
from medvision.metrics import selective
from medvision.metrics.predictions import Predictions
from medvision.metrics.selective import RiskCoverage

MAX_POINTS = 500
"""Of a curve; a screen has hardly more columns to draw it in."""

_GRID = 2000


class Roc(NamedTuple):
    """A ROC curve from (0, 0) to (1, 1), P points to be joined by straight lines.

    Attributes:
        false_positive_rate: (P,) rising.
        true_positive_rate: (P,) rising.
        thresholds: (P,) falling; cases with this score or more are positive. The first is infinite.
    """

    false_positive_rate: NDArray[np.float64]
    true_positive_rate: NDArray[np.float64]
    thresholds: NDArray[np.float64]


class PrecisionRecall(NamedTuple):
    """A precision-recall curve, P points to be joined by steps.

    Attributes:
        recall: (P,) rising to 1.
        precision: (P,).
        thresholds: (P,) falling; cases with this score or more are positive.
        prevalence: share of positive cases, which is the precision of a model that knows nothing.
    """

    recall: NDArray[np.float64]
    precision: NDArray[np.float64]
    thresholds: NDArray[np.float64]
    prevalence: float


class DecisionCurve(NamedTuple):
    """Net benefit per case, in units of true positives, T thresholds.

    Attributes:
        thresholds: (T,) probability from which one would treat, in (0, 1).
        model: (T,) of treating the cases that the model gives this probability or more.
        treat_all: (T,) of treating everyone.
        treat_none: (T,) zeros.
    """

    thresholds: NDArray[np.float64]
    model: NDArray[np.float64]
    treat_all: NDArray[np.float64]
    treat_none: NDArray[np.float64]


class Confusion(NamedTuple):
    """A confusion matrix; rows are true classes, columns predicted ones.

    Attributes:
        counts: (K, K) int64.
        rates: (K, K) share of the row; NaN in the row of a class without cases.
    """

    counts: NDArray[np.int64]
    rates: NDArray[np.float64]


class Histogram(NamedTuple):
    """How often each probability was given to cases that are of the class and to those that are not.

    Attributes:
        edges: (B + 1,) from 0 to 1; a bin holds its lower edge, the last its upper one too.
        positive: (B,) int64 cases of the class.
        negative: (B,) int64 other cases.
    """

    edges: NDArray[np.float64]
    positive: NDArray[np.int64]
    negative: NDArray[np.int64]


def roc(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> Roc:
    """Compute the ROC curve of (N,) scores, higher for the class, against (N,) membership of it.

    Raises:
        DataError: if one of the two sides is empty.
    """
    found, alarms, thresholds = _cumulate(scores, positive)
    if found[-1] == 0 or alarms[-1] == 0:
        raise DataError("a ROC curve needs cases of the class and others; one side is empty")
    true_rate = np.concatenate([[0.0], found / found[-1]])
    false_rate = np.concatenate([[0.0], alarms / alarms[-1]])
    kept = thin(false_rate, true_rate)
    return Roc(false_rate[kept], true_rate[kept], np.concatenate([[np.inf], thresholds])[kept])


def precision_recall(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> PrecisionRecall:
    """Compute the precision-recall curve of (N,) scores, higher for the class, against (N,) membership of it.

    There is no point at recall 0: nothing is called positive there and precision is undefined.

    Raises:
        DataError: if no case is of the class.
    """
    found, alarms, thresholds = _cumulate(scores, positive)
    if found[-1] == 0:
        raise DataError("a precision-recall curve needs cases of the class; there are none")
    recall, precision = found / found[-1], found / (found + alarms)
    # Past the first threshold that finds them all there are only more false alarms.
    end = int(np.argmax(found == found[-1])) + 1
    kept = thin(recall[:end], precision[:end])
    return PrecisionRecall(recall[kept], precision[kept], thresholds[kept], float(found[-1] / len(scores)))


def decision_curve(
    scores: NDArray[np.float64],
    positive: NDArray[np.bool_],
    thresholds: NDArray[np.float64] | None = None,
    prevalence: float | None = None,
) -> DecisionCurve:
    """Compute the net benefit: true positives less false positives, these weighted by the odds of the threshold.

    Args:
        scores: (N,) calibrated probability of the class.
        positive: (N,) membership of the class.
        thresholds: (T,) in (0, 1); 0.01, 0.02 ... 0.99 by default.
        prevalence: share of positive cases where the model shall be used; by default that of these cases. Net benefit
            depends on it, and a test set with as many ill as healthy cases flatters.

    Raises:
        ConfigError: if a threshold or the prevalence is out of range.
        DataError: if one of the two sides is empty.

    Source: Vickers and Elkin 2006, doi:10.1177/0272989X06295361.
    """
    at = np.arange(1, 100) / 100 if thresholds is None else np.asarray(thresholds, dtype=np.float64)
    if not ((at > 0) & (at < 1)).all() or (prevalence is not None and not 0 < prevalence < 1):
        raise ConfigError("a decision curve needs thresholds and a prevalence between 0 and 1")
    ours, theirs = np.sort(scores[positive]), np.sort(scores[~positive])
    if not len(ours) or not len(theirs):
        raise DataError("a decision curve needs cases of the class and others; one side is empty")
    share = len(ours) / len(scores) if prevalence is None else prevalence
    sensitivity = 1 - np.searchsorted(ours, at, side="left") / len(ours)
    false_alarms = 1 - np.searchsorted(theirs, at, side="left") / len(theirs)
    odds = at / (1 - at)
    return DecisionCurve(
        thresholds=at,
        model=sensitivity * share - false_alarms * (1 - share) * odds,
        treat_all=share - (1 - share) * odds,
        treat_none=np.zeros_like(at),
    )


def confusion(targets: NDArray[np.integer], preds: NDArray[np.integer], num_classes: int) -> Confusion:
    """Count how often each class was taken for each, from (N,) classes in [0, num_classes)."""
    counts = np.bincount(targets * num_classes + preds, minlength=num_classes**2).reshape(num_classes, num_classes)
    cases = counts.sum(axis=1, keepdims=True)
    rates = np.divide(counts, cases, out=np.full(counts.shape, np.nan), where=cases > 0)
    return Confusion(counts, rates)


def histogram(scores: NDArray[np.float64], positive: NDArray[np.bool_], n_bins: int = 20) -> Histogram:
    """Count (N,) probabilities of a class, in [0, 1], apart for its cases and for the others."""
    # A sum of several classes may be a hair above 1.
    clipped = np.clip(scores, 0, 1)
    counts, edges = np.histogram(clipped[positive], bins=n_bins, range=(0, 1))
    others, _ = np.histogram(clipped[~positive], bins=n_bins, range=(0, 1))
    return Histogram(edges, counts.astype(np.int64), others.astype(np.int64))


def risk_coverage(predictions: Predictions) -> RiskCoverage:
    """The risk-coverage curve of `medvision.metrics.selective`, thinned for drawing."""
    curve = selective.risk_coverage(predictions)
    kept = thin(curve.coverage, curve.risk)
    return RiskCoverage(curve.coverage[kept], curve.risk[kept])


def thin(x: NDArray[np.float64], y: NDArray[np.float64], max_points: int = MAX_POINTS) -> NDArray[np.intp]:
    """Choose the points of a curve in the unit square that its look depends on: both ends and the corners.

    The point that is farthest from the line through its kept neighbours comes next, until all are on the lines or
    `max_points` are kept. A curve of very many points first loses those that share a cell of a fine grid with the
    points before and after them, which moves it by less than 1/1000.

    Args:
        x: (P,) rising.
        y: (P,).
        max_points: at least 2.

    Returns:
        Ascending positions, (at most `max_points`,).

    >>> thin(np.array([0, 0.1, 0.2, 0.5, 1]), np.array([0, 0, 0, 1, 1])).tolist()
    [0, 2, 3, 4]

    Source: Ramer 1972, doi:10.1016/S0146-664X(72)80017-0; Douglas and Peucker 1973, the worst point first.
    """
    places = np.arange(len(x))
    if len(x) > 10 * max_points:
        cell = (x * _GRID).astype(np.int64) * (_GRID + 1) + (y * _GRID).astype(np.int64)
        changes = np.flatnonzero(np.diff(cell) != 0)
        places = np.unique(np.concatenate([[0], changes, changes + 1, [len(x) - 1]]))
    if len(places) < 3:
        return places
    x, y = x[places], y[places]
    kept = [0, len(places) - 1]
    # heapq gives the smallest, hence the minus of the distance; the place breaks ties.
    waiting = [_farthest(x, y, 0, len(places) - 1)]
    while waiting and len(kept) < max_points:
        distance, worst, start, end = heapq.heappop(waiting)
        if -distance < 1e-9:
            break
        kept.append(worst)
        for left, right in ((start, worst), (worst, end)):
            if right - left > 1:
                heapq.heappush(waiting, _farthest(x, y, left, right))
    return np.asarray(places[np.sort(kept)])


def _farthest(x: NDArray[np.float64], y: NDArray[np.float64], start: int, end: int) -> tuple[float, int, int, int]:
    """Minus the distance from the line between two points, and the place, of the point that is farthest from it."""
    dx, dy = x[end] - x[start], y[end] - y[start]
    from_x, from_y = x[start + 1 : end] - x[start], y[start + 1 : end] - y[start]
    length = float(np.hypot(dx, dy))
    distances = np.abs(from_x * dy - from_y * dx) / length if length else np.hypot(from_x, from_y)
    worst = int(np.argmax(distances))
    return -float(distances[worst]), start + 1 + worst, start, end


def _cumulate(
    scores: NDArray[np.float64], positive: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Positives and negatives at or above each distinct score, from the highest down, and the scores."""
    if scores.shape != positive.shape or scores.ndim != 1 or not len(scores):
        raise DataError(f"expected one score and one truth per case; found shapes {scores.shape}, {positive.shape}")
    order = np.argsort(-scores, kind="stable")
    falling = scores[order]
    last = np.flatnonzero(np.append(np.diff(falling) != 0, True))
    found = np.cumsum(positive[order], dtype=np.int64)[last]
    return found, last + 1 - found, falling[last]
