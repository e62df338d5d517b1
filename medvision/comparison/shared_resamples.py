"""The metrics that models are compared by, for many models under one and the same resampling of their cases."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvision.metrics.bootstrap import Resampling
from medvision.metrics.confusion import LabelCounts
from medvision.metrics.definitions import METRICS, compared
from medvision.metrics.predictions import Predictions
from medvision.metrics.probabilities import Probabilities
from medvision.metrics.ranks import Ranks
from medvision.randomness import generator

# Counts held at a time: 2 MB stay in a core's cache.
_CHUNK = 2**19


class Scores:
    """The compared metrics of one model, under any number of times that each unit of cases is counted.

    A model's means and tallies are one matrix product; only the AUROC needs the ranks.
    """

    def __init__(self, predictions: Predictions, slots: NDArray[np.intp]) -> None:
        """Take predictions and the unit of each case, (N,) in [0, U)."""
        probs, targets, k = predictions.probs, predictions.targets, len(predictions.class_names)
        self._metrics = [METRICS[name] for name in compared()]
        kinds = {metric.statistic for metric in self._metrics}
        self._counters: dict[str, Callable[[NDArray[np.integer]], Any]] = {
            "labels": LabelCounts(predictions.preds, targets, slots, k)
        }
        if "ranks" in kinds:
            self._counters["ranks"] = Ranks(probs, targets, slots)
        if "probabilities" in kinds:
            self._counters["probabilities"] = Probabilities(probs, targets, slots)

    def __call__(self, counts: NDArray[np.integer]) -> NDArray[np.float64]:
        """(R, U) how often each resample holds each unit, to (R, M) in the order of `compared`, NaN if undefined."""
        statistics = {kind: counter(counts) for kind, counter in self._counters.items()}
        columns = [metric.function(statistics[metric.statistic or ""]) for metric in self._metrics if metric.function]
        return np.stack(columns, axis=1)


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
        (P, M) and (P, R, M), in the order of `compared`.
    """
    measures = [Scores(model, resampling.slots) for model in models]
    once = np.ones((1, resampling.units), dtype=np.uint8)
    values = np.concatenate([measure(once) for measure in measures])
    rng = generator("bootstrap", seed)
    rows = max(1, _CHUNK // len(resampling.slots))
    resampled = np.empty((len(models), n_resamples, len(compared())))
    for start in range(0, n_resamples, rows):
        counts = resampling.draw(rng, min(rows, n_resamples - start))
        for place, measure in enumerate(measures):
            resampled[place, start : start + len(counts)] = measure(counts)
    return values, resampled
