"""Metrics of how one class's scores rank the samples: the area under the ROC curve, and average precision."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from medvision.evaluation.confusion import by_class, ratio

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

    def samples_before(self, places: NDArray[np.intp]) -> NDArray[np.float64]:
        """(R, P) samples before each of P places."""
        return np.asarray(np.take(self.before, places, axis=1), dtype=np.float64)

    def positives_from(self, positives: NDArray[np.intp]) -> NDArray[np.float64]:
        """(R, P) samples of the class from each of P positives on."""
        return np.asarray(self.positives[:, None] - np.take(_before(self._counted), positives, axis=1))


def _auroc(resamples: _Resamples) -> NDArray[np.float64]:
    ranking, weights = resamples.ranking, resamples.weights
    below, not_above = (resamples.samples_before(places) for places in (ranking.starts, ranking.ends))
    twice_wins = np.vecdot(weights, below) + np.vecdot(weights, not_above) - resamples.positives**2
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
    # Half the bytes are half the time, where the sums fit.
    small = ordered.shape[1] * int(ordered.max(initial=0)) < 2**31
    before = np.zeros((ordered.shape[0], ordered.shape[1] + 1), dtype=np.int32 if small else np.int64)
    np.cumsum(ordered, axis=1, dtype=before.dtype, out=before[:, 1:])
    return before


class RankScores:
    """AUROC and average precision of every class, for resamples of units."""

    def __init__(
        self,
        probs: NDArray[np.float64],
        targets: NDArray[np.int64],
        slots: NDArray[np.intp] | None,
        class_names: tuple[str, ...],
    ) -> None:
        """Take (N, K) scores, (N,) true classes, the unit of each sample (N,), in [0, U), and K names."""
        self._class_names = class_names
        self._rankings = [Ranking.of(probs[:, c], targets == c, slots) for c in range(probs.shape[1])]

    def auroc(self, counts: NDArray[np.integer]) -> dict[str, NDArray[np.float64]]:
        """Score R resamples, (R, U) how often each holds each unit: (R,) values by name."""
        return self._by_class("auroc", [ranking.auroc(counts) for ranking in self._rankings])

    def average_precision(self, counts: NDArray[np.integer]) -> dict[str, NDArray[np.float64]]:
        """Score R resamples, (R, U) how often each holds each unit: (R,) values by name."""
        return self._by_class("average_precision", [ranking.average_precision(counts) for ranking in self._rankings])

    def _by_class(self, metric: str, values: list[NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
        return by_class({metric: np.stack(values, axis=-1)}, self._class_names)
