"""How much each sample moves a metric: from that come standard errors, and what two metrics share, without resampling.

The sum of squared influences, added up within each group first, is the variance that the bootstrap over groups
converges to. It takes one pass, so that many subgroups of many samples cost little. For the AUROC of two classes it is
DeLong's variance.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medvision.metrics.intervals import placements


@dataclass(frozen=True)
class Influence:
    """A metric and what each of its N samples has to do with it.

    Attributes:
        value: the metric; NaN where it is undefined.
        of_samples: (N,) how far each sample moved it, with sum 0; zeros where it is undefined.
        units: independent units on the side that has fewest of them: what an interval may count as trials where the
            influences are all zero.
        classes: over how many classes a mean was taken; 0 for a metric that is no mean over classes.
    """

    value: float
    of_samples: NDArray[np.float64]
    units: int
    classes: int = 0

    def standard_error(self, slots: NDArray[np.intp]) -> float:
        """Standard error of the metric where (N,) `slots` gives the unit of each sample."""
        return float(np.sqrt((np.bincount(slots, weights=self.of_samples) ** 2).sum()))


def accuracy(probs: NDArray[np.float64], targets: NDArray[np.int64], slots: NDArray[np.intp]) -> Influence:
    """Fraction of (N,) samples whose class is the most probable of (N, K), for (N,) units."""
    right = (probs.argmax(axis=1) == targets).astype(np.float64)
    value, everyone = float(right.mean()), np.ones(len(right), dtype=bool)
    return Influence(value, _deviations(right, everyone, slots), _units(everyone, slots))


def balanced_accuracy(probs: NDArray[np.float64], targets: NDArray[np.int64], slots: NDArray[np.intp]) -> Influence:
    """Mean recall over the classes that have samples, (N, K), (N,) and (N,) as in `accuracy`."""
    right = (probs.argmax(axis=1) == targets).astype(np.float64)
    sides = [side for side in (targets == c for c in range(probs.shape[1])) if side.any()]
    value = float(np.mean([right[side].mean() for side in sides]))
    influence = np.sum([_deviations(right, side, slots) for side in sides], axis=0) / len(sides)
    return Influence(value, influence, min(_units(side, slots) for side in sides), len(sides))


def macro_auroc(probs: NDArray[np.float64], targets: NDArray[np.int64], slots: NDArray[np.intp]) -> Influence:
    """Mean AUROC, each class against the rest, over the classes that have samples on both sides.

    The influence of a sample is how much more often than on average it is ranked rightly against the other side.

    Source: DeLong et al. 1988, doi:10.2307/2531595; Obuchowski 1997, doi:10.2307/2533958, for groups.
    """
    total, influence, fewest, classes = 0.0, np.zeros(len(targets)), len(targets), 0
    for c in range(probs.shape[1]):
        ours = targets == c
        if ours.all() or not ours.any():
            continue
        theirs = ~ours
        ranked = placements(probs[:, c], ours)
        total += float(ranked[ours].mean())
        influence += _deviations(ranked, ours, slots) + _deviations(ranked, theirs, slots)
        fewest = min(fewest, _units(ours, slots), _units(theirs, slots))
        classes += 1
    if not classes:
        return Influence(float("nan"), influence, 0)
    return Influence(total / classes, influence / classes, fewest, classes)


def _deviations(values: NDArray[np.float64], side: NDArray[np.bool_], slots: NDArray[np.intp]) -> NDArray[np.float64]:
    """What each sample of a side adds to the mean over that side, (N,), zero for the other side.

    Scaled so that the squares give the unbiased variance; a single unit gives none.
    """
    units = _units(side, slots)
    mean, share = values[side].mean(), side.sum()
    correction = np.sqrt(units / (units - 1)) if units > 1 else 0.0
    return np.where(side, (values - mean) / share * correction, 0.0)


def _units(side: NDArray[np.bool_], slots: NDArray[np.intp]) -> int:
    return int((np.bincount(slots[side]) > 0).sum())
