"""Calibration: the temperature that makes probabilities mean what they say, and the reliability diagram in numbers."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from medvision.errors import ConfigError, DataError
from medvision.metrics.intervals import wilson

# Nobody's logits are 20 times too timid or 100 times too bold; beyond that the calibration cases are to blame.
COLDEST, HOTTEST = 0.05, 100.0


def fit_temperature(logits: NDArray[np.floating], targets: NDArray[np.integer]) -> float:
    """Find the temperature T that minimises the log loss of softmax(logits / T) on cases kept for calibration.

    The log loss is convex in 1/T, so its slope has one root, which is bracketed by the bounds. A class without cases
    changes nothing in this. Where no case is wrong there is no minimum: the loss only falls as T goes to 0, and how
    far to sharpen is not in the data. Then T stays 1. Where the logits know less than nothing the loss only falls as T
    grows, and T is the upper bound, with probabilities that are nearly equal.

    Args:
        logits: (N, K) finite.
        targets: (N,) in [0, K).

    Returns:
        T in [0.05, 100]; 1 leaves the probabilities as they are, above 1 softens them.

    Raises:
        DataError: if there are no cases, shapes do not match, or a value is not finite or out of range.

    >>> z = np.array([[0.0, 4.0]] * 10)
    >>> round(4 / fit_temperature(z, np.array([1] * 9 + [0])), 6)  # nine of ten are right: logit(0.9)
    2.197225

    Source: Guo et al. 2017, arXiv:1706.04599, section 4.2.
    """
    z, y = np.asarray(logits, dtype=np.float64), np.asarray(targets)
    _check(z, y, "logits")
    z = z - z.max(axis=1, keepdims=True)
    truth = z[np.arange(len(y)), y]
    # The largest logit is 0 now: where every truth has it, no case is wrong. This holds for constant logits too.
    if (truth == 0).all():
        return 1.0

    def slope(log_temperature: float) -> float:
        """Derivative of the log loss by 1/T: the logit that is expected less the one that was true."""
        weights = np.exp(z * np.exp(-log_temperature))
        return float(((weights * z).sum(axis=1) / weights.sum(axis=1) - truth).mean())

    coldest, hottest = np.log(COLDEST), np.log(HOTTEST)
    if slope(coldest) <= 0:
        return COLDEST
    if slope(hottest) >= 0:
        return HOTTEST
    return float(np.exp(brentq(slope, coldest, hottest, xtol=1e-10)))


class Reliability(NamedTuple):
    """A reliability diagram in numbers: B bins of equal width, NaN in those without cases.

    Attributes:
        edges: (B + 1,) from 0 to 1; a bin holds its upper edge, the first its lower one too.
        predicted: (B,) mean probability that was predicted.
        observed: (B,) share of cases in which it came true.
        low: (B,) lower end of Wilson's interval of `observed`.
        high: (B,) upper end.
        counts: (B,) int64 cases.
    """

    edges: NDArray[np.float64]
    predicted: NDArray[np.float64]
    observed: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    counts: NDArray[np.int64]


def reliability(
    probs: NDArray[np.float64], targets: NDArray[np.integer], n_bins: int = 15, confidence_level: float = 0.95
) -> Reliability:
    """Compare how sure the model is of the class it predicts with how often that class is right.

    The intervals take cases as independent; with several images of a patient they are too narrow.

    Args:
        probs: (N, K) in [0, 1].
        targets: (N,) in [0, K).
        n_bins: at least 1.
        confidence_level: of the intervals, in (0, 1).

    Raises:
        ConfigError: if `n_bins` is below 1.
        DataError: if there are no cases, shapes do not match, or a target is out of range.

    Source: Guo et al. 2017, arXiv:1706.04599, section 2.
    """
    _check(probs, targets, "probabilities")
    return _binned(probs.max(axis=1), probs.argmax(axis=1) == targets, n_bins, confidence_level)


def _binned(
    scores: NDArray[np.float64], positive: NDArray[np.bool_], n_bins: int, confidence_level: float
) -> Reliability:
    if n_bins < 1:
        raise ConfigError(f"expected at least one bin for a reliability diagram; found {n_bins}")
    edges = np.linspace(0, 1, n_bins + 1)
    bins = np.searchsorted(edges[1:-1], scores, side="left")
    counts = np.bincount(bins, minlength=n_bins)
    hits = np.bincount(bins, weights=positive, minlength=n_bins)
    sums = np.bincount(bins, weights=scores, minlength=n_bins)
    ends = [
        wilson(hit, int(count), confidence_level) if count else (np.nan, np.nan)
        for hit, count in zip(hits.tolist(), counts, strict=True)
    ]
    empty = np.full(n_bins, np.nan)
    predicted, observed = (np.divide(total, counts, out=empty.copy(), where=counts > 0) for total in (sums, hits))
    low, high = np.array(ends).T
    return Reliability(edges, predicted, observed, low, high, counts)


def _check(scores: NDArray[np.float64], targets: NDArray[np.integer], what: str) -> None:
    if scores.ndim != 2 or targets.shape != scores.shape[:1] or not targets.size or scores.shape[1] < 2:
        raise DataError(
            f"calibration needs {what} of shape (N, K) with N >= 1 and K >= 2, and N targets; "
            f"found {scores.shape} and {targets.shape}"
        )
    wrong = ~np.isfinite(scores).all(axis=1) | (targets < 0) | (targets >= scores.shape[1])
    if wrong.any():
        raise DataError(f"calibration: row {int(wrong.argmax())}: {what} not finite or target out of range")
