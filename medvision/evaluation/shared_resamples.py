"""The metrics that models are compared by, for many models under one and the same resampling of their cases."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medvision.evaluation.confusion import Tally, accuracy, balanced_accuracy, f1, macro
from medvision.evaluation.predictions import Predictions
from medvision.evaluation.probabilities import log_losses
from medvision.evaluation.ranking import Ranking
from medvision.evaluation.resampling import Resampling
from medvision.randomness import generator

# Counts held at a time: 2 MB stay in a core's cache.
_CHUNK = 2**19


@dataclass(frozen=True)
class Metric:
    """How a metric is called and read.

    Attributes:
        title: for readers.
        bounded: whether it lies in [0, 1], where its differences are told in points, of which 100 make 1.
        lower_is_better: whether small values are the good ones.
    """

    title: str
    bounded: bool = True
    lower_is_better: bool = False


METRICS = {
    "accuracy": Metric("accuracy"),
    "balanced_accuracy": Metric("balanced accuracy"),
    "macro/auroc": Metric("AUROC"),
    "macro/f1": Metric("macro F1"),
    "log_loss": Metric("log loss", bounded=False, lower_is_better=True),
}


class Measure:
    """The metrics of one set of predictions, under any number of times that each unit of cases is counted.

    Tallies and losses are one matrix product; only the AUROC needs the ranks.
    """

    def __init__(self, predictions: Predictions, slots: NDArray[np.intp]) -> None:
        """Take predictions and the unit of each case, (N,) in [0, U)."""
        targets, preds = predictions.targets, predictions.preds
        classes = np.arange(len(predictions.class_names))
        hits = np.where(targets == preds, targets, -1)
        one_hot = [(labels[:, None] == classes).astype(np.float64) for labels in (hits, preds, targets)]
        losses = log_losses(predictions.probs, targets)
        columns = np.hstack([*one_hot, np.stack([losses, np.ones(len(targets))], axis=1)])
        self._columns = np.zeros((int(slots.max()) + 1, columns.shape[1]))
        np.add.at(self._columns, slots, columns)
        self._rankings = [Ranking.of(predictions.probs[:, c], targets == c, slots) for c in classes]

    def __call__(self, counts: NDArray[np.integer]) -> NDArray[np.float64]:
        """(R, U) how often each resample holds each unit, to (R, M) in the order of `METRICS`, NaN if undefined."""
        sums = counts.astype(np.float64) @ self._columns
        hits, predicted, actual = np.split(sums[:, :-2].astype(np.int64), 3, axis=1)
        tally = Tally(hits, predicted, actual, squares=np.zeros(len(sums), np.int64))  # for kappa, which is not here
        by_unit = np.ascontiguousarray(counts.T)
        auroc = np.stack([_auroc(ranking, by_unit) for ranking in self._rankings], axis=-1)
        values = {
            "accuracy": accuracy(tally),
            "balanced_accuracy": balanced_accuracy(tally),
            "macro/auroc": macro(auroc),
            "macro/f1": macro(f1(tally)),
            "log_loss": sums[:, -2] / sums[:, -1],
        }
        return np.stack([values[name] for name in METRICS], axis=1)


def _auroc(ranking: Ranking, by_unit: NDArray[np.integer]) -> NDArray[np.float64]:
    """`Ranking.auroc` of counts that lie unit by unit, (U, R): several times as fast, as whole rows are gathered."""
    ordered = np.take(by_unit, ranking.order, axis=0)
    before = np.zeros((len(ordered) + 1, ordered.shape[1]), dtype=np.int32)
    np.cumsum(ordered, axis=0, dtype=np.int32, out=before[1:])
    weights = ordered[ranking.positives].astype(np.int64)
    positives = weights.sum(axis=0)
    pairs = positives * (before[-1] - positives)
    twice_wins = (weights * (before[ranking.starts] + before[ranking.ends])).sum(axis=0) - positives**2
    undefined = np.full(len(positives), np.nan)
    return np.asarray(np.divide(twice_wins, 2 * pairs, out=undefined, where=pairs > 0))


def score_all(
    models: Sequence[Predictions], resampling: Resampling, n_resamples: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Score P models on the cases as they are, and on resamples that all of them share.

    Args:
        models: of the same cases in the same order.
        resampling: of those cases.
        n_resamples: R.
        seed: of the resamples.

    Returns:
        (P, M) and (P, R, M), in the order of `METRICS`.
    """
    measures = [Measure(model, resampling.slots) for model in models]
    once = np.ones((1, resampling.units), dtype=np.uint8)
    values = np.concatenate([measure(once) for measure in measures])
    rng = generator("bootstrap", seed)
    rows = max(1, _CHUNK // len(resampling.slots))
    resampled = np.empty((len(models), n_resamples, len(METRICS)))
    for start in range(0, n_resamples, rows):
        counts = resampling.draw(rng, min(rows, n_resamples - start))
        for place, measure in enumerate(measures):
            resampled[place, start : start + len(counts)] = measure(counts)
    return values, resampled
