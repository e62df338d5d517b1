"""Metrics of how one class's scores rank the samples: the area under the ROC curve, and average precision."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from medvision.metrics.confusion import ratio

# Counts held at a time: half a megabyte of them, and what is summed over them, stay in a core's cache.
_CHUNK = 2**19


@dataclass(frozen=True)
class Ranking:
    """Samples sorted once by the score of one class, so that both metrics of any resample are cumulative sums.

    Attributes:
        order: (N,) the unit of each sample, samples by ascending score.
        positives: (P,) places in `order` that hold a sample of the class.
        starts: (P,) first place of the run of equal scores that each positive belongs to.
        ends: (P,) one past the last place of that run.
        firsts: (P,) how many positives stand before that run.
    """

    order: NDArray[np.intp]
    positives: NDArray[np.intp]
    starts: NDArray[np.intp]
    ends: NDArray[np.intp]
    firsts: NDArray[np.intp]

    @classmethod
    def of(
        cls, scores: NDArray[np.float64], positive: NDArray[np.bool_], slots: NDArray[np.intp] | None = None
    ) -> Self:
        """Rank (N,) scores against (N,) membership of the class; without (N,) `slots` each sample is its own unit."""
        order = np.argsort(scores, kind="stable")
        ascending, positives = scores[order], np.flatnonzero(positive[order])
        starts, ends = (np.searchsorted(ascending, ascending[positives], side=side) for side in ("left", "right"))
        firsts = np.searchsorted(positives, starts)
        return cls(order if slots is None else slots[order], positives, starts, ends, firsts)

    def auroc(self, counts: NDArray[np.integer]) -> NDArray[np.float64]:
        """Chance that a sample of the class scores above one of another, ties counting half.

        Args:
            counts: (R, U), how often each resample holds each unit.

        Returns:
            (R,), NaN where a resample lacks one of the two sides.

        Source: the Mann-Whitney statistic from mid-ranks; the pairs of positives among themselves add P^2 / 2.
        """
        return self._in_chunks(_auroc, counts)

    def average_precision(self, counts: NDArray[np.integer]) -> NDArray[np.float64]:
        """Mean, over the samples of the class, of the precision at the score of each.

        Args:
            counts: (R, U), how often each resample holds each unit.

        Returns:
            (R,), NaN where a resample lacks one of the two sides.

        Source: Zhu 2004, "Recall, precision and average precision".
        """
        return self._in_chunks(_average_precision, counts)

    def _in_chunks(
        self, metric: Callable[["_Resamples"], NDArray[np.float64]], counts: NDArray[np.integer]
    ) -> NDArray[np.float64]:
        rows = max(1, _CHUNK // len(self.order))
        chunks = (counts[begin : begin + rows] for begin in range(0, len(counts), rows))
        return np.concatenate([metric(_Resamples(self, chunk)) for chunk in chunks])


class _Resamples:
    """What both metrics need of R resamples; whole numbers below 2^53, as floats because their sums are quick."""

    def __init__(self, ranking: Ranking, counts: NDArray[np.integer]) -> None:
        self.ranking = ranking
        ordered = np.take(counts, ranking.order, axis=1)
        self.before = _before(ordered)
        self._counted = np.take(ordered, ranking.positives, axis=1)
        self.weights = self._counted.astype(np.float64)
        self.positives = self.weights.sum(axis=1)
        self.negatives = self.before[:, -1] - self.positives

    def samples_before(self, places: NDArray[np.intp]) -> NDArray[np.integer]:
        """(R, P) samples before each of P places."""
        return np.asarray(np.take(self.before, places, axis=1))

    def positives_from(self, positives: NDArray[np.intp]) -> NDArray[np.float64]:
        """(R, P) samples of the class from each of P positives on."""
        return np.asarray(self.positives[:, None] - np.take(_before(self._counted), positives, axis=1))


def _auroc(resamples: _Resamples) -> NDArray[np.float64]:
    twice_below = resamples.samples_before(resamples.ranking.starts)
    twice_below += resamples.samples_before(resamples.ranking.ends)
    twice_wins = np.vecdot(resamples.weights, twice_below.astype(np.float64)) - resamples.positives**2
    return ratio(twice_wins, 2 * resamples.positives * resamples.negatives)


def _average_precision(resamples: _Resamples) -> NDArray[np.float64]:
    total = resamples.positives + resamples.negatives
    precision = resamples.positives_from(resamples.ranking.firsts)
    # A positive that is in the resample is itself among those that score as high; for the others 0 / 1 will do.
    precision /= np.maximum(total[:, None] - resamples.samples_before(resamples.ranking.starts), 1)
    mean = ratio(np.vecdot(resamples.weights, precision), resamples.positives)
    return np.where(resamples.negatives > 0, mean, np.nan)


def _before(ordered: NDArray[np.integer]) -> NDArray[np.integer]:
    """(R, N) counts to the number before each place, (R, N + 1)."""
    # Half the bytes are half the time, where the sums of two of them fit.
    small = ordered.shape[1] * int(ordered.max(initial=0)) < 2**30
    before = np.zeros((ordered.shape[0], ordered.shape[1] + 1), dtype=np.int32 if small else np.int64)
    np.cumsum(ordered, axis=1, dtype=before.dtype, out=before[:, 1:])
    return before


class Ranks:
    """AUROC and average precision of every class, for resamples of units."""

    def __init__(
        self, probs: NDArray[np.float64], targets: NDArray[np.int64], slots: NDArray[np.intp] | None = None
    ) -> None:
        """Take (N, K) scores, (N,) true classes and the unit of each sample (N,), in [0, U)."""
        self._rankings = [Ranking.of(probs[:, c], targets == c, slots) for c in range(probs.shape[1])]

    def __call__(self, counts: NDArray[np.integer]) -> "RankStatistic":
        """What the metrics of R resamples are made of, (R, U) how often each holds each unit."""
        return RankStatistic(self._rankings, counts)


class RankStatistic:
    """The rankings of all classes under R resamples; a metric is computed when it is asked for."""

    def __init__(self, rankings: Sequence[Ranking], counts: NDArray[np.integer]) -> None:
        self._rankings, self._counts = rankings, counts

    def auroc(self) -> NDArray[np.float64]:
        """Chance that a sample of a class scores above one of another, ties counting half, (R, K) in [0, 1]."""
        return np.stack([ranking.auroc(self._counts) for ranking in self._rankings], axis=-1)

    def average_precision(self) -> NDArray[np.float64]:
        """Mean precision at the score of each sample of a class, (R, K) in [0, 1]; chance is the class's share."""
        return np.stack([ranking.average_precision(self._counts) for ranking in self._rankings], axis=-1)
