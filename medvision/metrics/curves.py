"""Decision curves, confusion matrices and histograms in numbers; the plots draw what these functions return."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medvision.errors import ConfigError, DataError


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
        prevalence: share of positive cases in the intended population; by default that of these cases. Net benefit
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
