"""Classification metrics from counts, for one test set or for a thousand resamples of it at once.

Whatever is undefined is NaN here, never 0: recall and F1 of a class without samples, precision of a class that was
never predicted, AUROC where one of the two sides is empty.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from medvision.evaluation.predictions import Predictions


class Tally(NamedTuple):
    """How often each class was right, predicted and true: (..., K) int64 each."""

    hits: NDArray[np.int64]
    predicted: NDArray[np.int64]
    actual: NDArray[np.int64]


def accuracy(tally: Tally) -> NDArray[np.float64]:
    """Fraction of samples whose class was predicted, (...)."""
    return _ratio(tally.hits.sum(axis=-1), tally.actual.sum(axis=-1))


def recall(tally: Tally) -> NDArray[np.float64]:
    """Fraction of a class's samples that were found (sensitivity), (..., K)."""
    return _ratio(tally.hits, tally.actual)


def precision(tally: Tally) -> NDArray[np.float64]:
    """Fraction of a class's predictions that were right (positive predictive value), (..., K)."""
    return _ratio(tally.hits, tally.predicted)


def f1(tally: Tally) -> NDArray[np.float64]:
    """Harmonic mean of precision and recall, (..., K); 0 where a class has samples and none was found."""
    # Without samples of the class it would be 0 whatever the model does, so it is undefined as recall is.
    return np.where(tally.actual > 0, _ratio(2 * tally.hits, tally.predicted + tally.actual), np.nan)


def macro(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the classes for which a metric is defined, (..., K) to (...); NaN where it is for none."""
    defined = np.isfinite(values)
    return _ratio(np.where(defined, values, 0.0).sum(axis=-1), defined.sum(axis=-1))


_FROM_TALLY: dict[str, Callable[[Tally], NDArray[np.float64]]] = {"recall": recall, "precision": precision, "f1": f1}


@dataclass(frozen=True)
class Ranking:
    """Samples sorted once by the score of one class, so that the AUROC of any resample is a cumulative sum.

    Attributes:
        order: (N,) samples by ascending score.
        positives: (P,) places in `order` that hold a sample of the class.
        starts: (P,) first place of the run of equal scores that each positive belongs to.
        ends: (P,) one past the last place of that run.
    """

    order: NDArray[np.intp]
    positives: NDArray[np.intp]
    starts: NDArray[np.intp]
    ends: NDArray[np.intp]

    @classmethod
    def of(cls, scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> Self:
        """Rank (N,) scores against (N,) membership of the class."""
        order = np.argsort(scores, kind="stable")
        ascending, positives = scores[order], np.flatnonzero(positive[order])
        starts, ends = (np.searchsorted(ascending, ascending[positives], side=side) for side in ("left", "right"))
        return cls(order, positives, starts, ends)

    def auroc(self, counts: NDArray[np.int32]) -> NDArray[np.float64]:
        """Chance that a sample of the class scores above one of another, ties counting half.

        Args:
            counts: (R, N), how often each resample holds each sample.

        Returns:
            (R,), NaN where a resample lacks one of the two sides.

        Source: the Mann-Whitney statistic from mid-ranks; the pairs of positives among themselves add P^2 / 2.
        """
        ordered, cumulative = _cumulate(counts, self.order)
        weights = ordered[:, self.positives].astype(np.int64)
        positives = weights.sum(axis=1)
        negatives = cumulative[:, -1] - positives
        # In integers, so that a perfect ranking is exactly 1.
        twice_wins = (weights * (cumulative[:, self.starts] + cumulative[:, self.ends])).sum(axis=1) - positives**2
        return _ratio(twice_wins, 2 * positives * negatives)


class Scorer:
    """Every metric of one set of predictions, under any number of times that each sample is counted."""

    def __init__(self, predictions: Predictions) -> None:
        targets, preds = predictions.targets, predictions.preds
        self._class_names = predictions.class_names
        k = len(self._class_names)
        self._hits = _Bins.of(np.where(targets == preds, targets, k), k)
        self._predicted = _Bins.of(preds, k)
        self._actual = _Bins.of(targets, k)
        self._rankings = [Ranking.of(predictions.probs[:, c], targets == c) for c in range(k)]

    def tally(self, counts: NDArray[np.int32]) -> Tally:
        """Count hits, predictions and samples of each class in (R, N) resamples: (R, K) each."""
        return Tally(self._hits.sums(counts), self._predicted.sums(counts), self._actual.sums(counts))

    def __call__(self, counts: NDArray[np.int32]) -> dict[str, NDArray[np.float64]]:
        """Score R resamples of the N samples.

        Args:
            counts: (R, N), how often each resample holds each sample; ones score the samples as they are.

        Returns:
            (R,) values of `accuracy`, `macro/<metric>` and `<metric>/<class name>`, in this order.
        """
        tally = self.tally(counts)
        by_metric = {metric: function(tally) for metric, function in _FROM_TALLY.items()}
        by_metric["auroc"] = np.stack([ranking.auroc(counts) for ranking in self._rankings], axis=-1)
        return (
            {"accuracy": accuracy(tally)}
            | {f"macro/{metric}": macro(values) for metric, values in by_metric.items()}
            | {
                f"{metric}/{name}": values[:, c]
                for metric, values in by_metric.items()
                for c, name in enumerate(self._class_names)
            }
        )


@dataclass(frozen=True)
class _Bins:
    """Samples sorted once by label, so that the sums per label are differences of a cumulative sum."""

    order: NDArray[np.intp]
    edges: NDArray[np.intp]

    @classmethod
    def of(cls, labels: NDArray[np.int64], num_labels: int) -> Self:
        order = np.argsort(labels, kind="stable")
        return cls(order, np.searchsorted(labels[order], np.arange(num_labels + 1)))

    def sums(self, counts: NDArray[np.int32]) -> NDArray[np.int64]:
        """(R, N) counts to (R, num_labels) sums; labels of `num_labels` and above are left out."""
        _, cumulative = _cumulate(counts, self.order)
        return np.diff(cumulative[:, self.edges], axis=1)


def _cumulate(counts: NDArray[np.int32], order: NDArray[np.intp]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Counts in another order, (R, N), and the number of samples before each place, (R, N + 1)."""
    ordered = np.take(counts, order, axis=1)
    cumulative = np.zeros((counts.shape[0], counts.shape[1] + 1), dtype=np.int64)
    np.cumsum(ordered, axis=1, out=cumulative[:, 1:])
    return ordered, cumulative


def _ratio(numerator: NDArray[np.number], denominator: NDArray[np.number]) -> NDArray[np.float64]:
    undefined = np.full(np.shape(numerator), np.nan)
    return np.asarray(np.divide(numerator, denominator, out=undefined, where=np.asarray(denominator) > 0))
