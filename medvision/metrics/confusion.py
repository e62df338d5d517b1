"""Metrics of the predicted classes alone, from counts: of one test set, or of a thousand resamples at once.

Undefined values are NaN, never 0.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array


class Tally(NamedTuple):
    """What these metrics need of a confusion matrix; `...` are resamples, K classes.

    Attributes:
        hits: (..., K) int64, samples of each class that were predicted as it.
        predicted: (..., K) int64, samples predicted as each class.
        actual: (..., K) int64, samples of each class.
        squares: (...) int64, summed squared distance between the positions of the true and the predicted class.
    """

    hits: NDArray[np.int64]
    predicted: NDArray[np.int64]
    actual: NDArray[np.int64]
    squares: NDArray[np.int64]

    @classmethod
    def of(cls, preds: NDArray[np.int64], targets: NDArray[np.int64], num_classes: int) -> "Tally":
        """Count (N,) predicted against (N,) true classes."""
        return cls(
            np.bincount(targets[preds == targets], minlength=num_classes),
            np.bincount(preds, minlength=num_classes),
            np.bincount(targets, minlength=num_classes),
            np.asarray(((preds - targets) ** 2).sum()),
        )

    @property
    def total(self) -> NDArray[np.int64]:
        """(...) int64, all samples."""
        return np.asarray(self.actual.sum(axis=-1))

    @property
    def rejected(self) -> NDArray[np.int64]:
        """(..., K) int64, samples of other classes that were not predicted as the class (true negatives)."""
        return np.asarray(self.total[..., None] - self.actual - self.predicted + self.hits)


class LabelCounts:
    """Counts Tallies of resamples of units.

    A unit is what is drawn: a cell of the confusion matrix with all its equal samples, or a group of samples.
    """

    def __init__(
        self, preds: NDArray[np.int64], targets: NDArray[np.int64], slots: NDArray[np.intp], num_classes: int
    ) -> None:
        """Take (N,) predicted and true classes, the unit of each sample (N,), in [0, U), and K."""
        k = self._num_classes = num_classes
        columns = [targets, k + preds, 2 * k + targets, np.full_like(preds, 3 * k)]
        amounts = [
            (preds == targets).astype(np.int64),
            np.ones_like(preds),
            np.ones_like(preds),
            (preds - targets) ** 2,
        ]
        entries = np.concatenate(amounts), (np.tile(slots, 4), np.concatenate(columns))
        self._per_unit = csr_array(entries, shape=(int(slots.max()) + 1, 3 * k + 1), dtype=np.int64)

    def __call__(self, counts: NDArray[np.integer]) -> Tally:
        """The Tally of R resamples, (R, U) how often each holds each unit."""
        k = self._num_classes
        sums = (self._per_unit.T @ counts.T.astype(np.int64)).T
        return Tally(sums[:, :k], sums[:, k : 2 * k], sums[:, 2 * k : 3 * k], sums[:, 3 * k])


def accuracy(tally: Tally) -> NDArray[np.float64]:
    """Fraction of samples whose class was predicted, (...) in [0, 1]."""
    return ratio(tally.hits.sum(axis=-1), tally.total)


def sensitivity(tally: Tally) -> NDArray[np.float64]:
    """Fraction of a class's samples that were predicted as it (recall), (..., K) in [0, 1]."""
    return ratio(tally.hits, tally.actual)


def specificity(tally: Tally) -> NDArray[np.float64]:
    """Fraction of the other classes' samples that were not predicted as this class, (..., K) in [0, 1]."""
    return ratio(tally.rejected, tally.total[..., None] - tally.actual)


def ppv(tally: Tally) -> NDArray[np.float64]:
    """Positive predictive value: fraction of a class's predictions that were right (precision), (..., K)."""
    return ratio(tally.hits, tally.predicted)


def npv(tally: Tally) -> NDArray[np.float64]:
    """Negative predictive value: fraction of the predictions of other classes that were not of it, (..., K)."""
    return ratio(tally.rejected, tally.total[..., None] - tally.predicted)


def f1(tally: Tally) -> NDArray[np.float64]:
    """Harmonic mean of PPV and sensitivity, (..., K); 0 where a class has samples and none was predicted as it."""
    # Without samples of the class it would always be 0, so it is undefined as sensitivity is.
    return np.where(tally.actual > 0, ratio(2 * tally.hits, tally.predicted + tally.actual), np.nan)


def mcc(tally: Tally) -> NDArray[np.float64]:
    """Matthews correlation of predicted and true classes, (...) in [-1, 1].

    Source: Gorodkin 2004, doi:10.1016/j.compbiolchem.2004.09.006.
    """
    n = tally.total
    together = tally.hits.sum(axis=-1) * n - (tally.predicted * tally.actual).sum(axis=-1)
    alone = [np.sqrt((n**2 - (counts**2).sum(axis=-1)).astype(float)) for counts in (tally.predicted, tally.actual)]
    return ratio(together, alone[0] * alone[1])


def kappa(tally: Tally) -> NDArray[np.float64]:
    """Cohen's kappa, agreement beyond chance, (...) in [-1, 1].

    Source: Cohen 1960, doi:10.1177/001316446002000104.
    """
    by_chance = (tally.predicted * tally.actual).sum(axis=-1)
    return ratio(tally.hits.sum(axis=-1) * tally.total - by_chance, tally.total**2 - by_chance)


def kappa_quadratic(tally: Tally) -> NDArray[np.float64]:
    """Cohen's kappa with quadratic weights, for classes whose order means something, (...) in [-1, 1].

    Source: Cohen 1968, doi:10.1037/h0026256.
    """
    place = np.arange(tally.actual.shape[-1])
    actual, predicted = tally.actual, tally.predicted
    # The sum of (i - j)^2 actual_i predicted_j over all pairs of classes, multiplied out.
    by_chance = tally.total * ((actual + predicted) * place**2).sum(axis=-1)
    by_chance -= 2 * (actual * place).sum(axis=-1) * (predicted * place).sum(axis=-1)
    return ratio(by_chance - tally.squares * tally.total, by_chance)


def macro(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the classes for which a metric is defined, (..., K) to (...); NaN where it is for none."""
    defined = np.isfinite(values)
    return ratio(np.where(defined, values, 0.0).sum(axis=-1), defined.sum(axis=-1))


def ratio(numerator: NDArray[np.number], denominator: NDArray[np.number]) -> NDArray[np.float64]:
    """Element by element, NaN where the denominator is not above 0."""
    undefined = np.full(np.shape(numerator), np.nan)
    return np.asarray(np.divide(numerator, denominator, out=undefined, where=np.asarray(denominator) > 0))
