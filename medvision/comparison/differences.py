"""Intervals of models and of their differences: over cases, over groups of cases, and over seeds.

A standard error over cases comes from resamples that all models share. With several seeds a configuration is scored by
the mean over them, and the variance of that mean is added to the variance over cases, with the degrees of freedom of
Welch and Satterthwaite. A p-value and its interval belong to the same standard error, so that they agree.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import t as student

from medvision.comparison.paired_tests import delong_error, holm, mcnemar, paired_proportions
from medvision.metrics.bootstrap import Resampling
from medvision.metrics.definitions import METRICS, compared
from medvision.metrics.estimates import Estimate
from medvision.metrics.influence import macro_auroc
from medvision.metrics.intervals import on_logit_scale, wilson
from medvision.metrics.predictions import Predictions

BOOTSTRAP = "paired bootstrap"
GROUPS = "paired bootstrap of groups"


@dataclass(frozen=True)
class Difference:
    """First model less second model, in one metric.

    Attributes:
        value: the difference; None where one of the two is undefined.
        low: lower end of its interval, which is not corrected for the number of pairs.
        high: upper end of its interval.
        p: how often a difference at least as large would come by chance.
        p_holm: `p` corrected for all pairs.
        test: by which `p` was found.
        distinguishable: whether `p_holm` is small enough and the interval leaves out 0.
    """

    value: float | None
    low: float | None
    high: float | None
    p: float | None
    test: str
    p_holm: float | None = None
    distinguishable: bool = False


@dataclass(frozen=True, eq=False)
class Score:
    """The metrics of a configuration; with several seeds, their mean.

    Attributes:
        predictions: of the first seed, which is the only one where tests between two models are used.
        by_seed: (S, M) each seed's values, in the order of `compared`.
        values: (M,) their mean.
        resampled: (R, M) the mean in each resample.
        influence: (N,) of each case on the AUROC of `predictions`.
    """

    predictions: Predictions
    by_seed: NDArray[np.float64]
    values: NDArray[np.float64]
    resampled: NDArray[np.float64]
    influence: NDArray[np.float64]

    @classmethod
    def of(cls, predictions: Predictions, by_seed: NDArray[np.float64], resampled: NDArray[np.float64]) -> Self:
        """From (S, M) values and (S, R, M) resampled values."""
        alone = np.arange(len(predictions.ids))
        influence = macro_auroc(predictions.probs, predictions.targets, alone).of_samples
        return cls(predictions, by_seed, by_seed.mean(axis=0), resampled.mean(axis=0), influence)

    @property
    def seeds(self) -> int:
        """How many."""
        return len(self.by_seed)

    def seed_variance(self, m: int) -> tuple[float, int]:
        """Variance of the mean over seeds and its degrees of freedom, both 0 for a single seed."""
        if self.seeds == 1:
            return 0.0, 0
        return float(self.by_seed[:, m].var(ddof=1)) / self.seeds, self.seeds - 1


class Scale:
    """How far numbers on a set of cases can be trusted.

    Args:
        predictions: of any model on these cases.
        resampling: of them.
        confidence_level: in (0, 1).
    """

    def __init__(self, predictions: Predictions, resampling: Resampling, confidence_level: float) -> None:
        self.n = len(predictions.ids)
        self.grouped = resampling.grouped
        self.units = resampling.units
        self.confidence_level = confidence_level
        classes = np.unique(predictions.targets)
        smallest = min(len(np.unique(resampling.slots[predictions.targets == c])) for c in classes)
        # What a macro mean rests on, where resamples do not vary: errors unseen would do it most harm there.
        self._macro_units = min(self.units, len(classes) * smallest)

    def estimate(self, name: str, score: Score) -> Estimate:
        """A metric of a configuration with several seeds, with its interval over cases and seeds."""
        m = compared().index(name)
        value, level = float(score.values[m]), self.confidence_level
        if np.isnan(value):
            return Estimate(None, None, None, self.n, "undefined: the test cases are of one class")
        error, df = self._error(score.resampled[:, m], [score.seed_variance(m)])
        half = self._quantile(df) * error
        if not METRICS[name].is_share:
            # On the scale of the logarithm, where it cannot leave the positive numbers.
            factor = float(np.exp(half / value)) if value > 0 else 1.0
            return Estimate(value, value / factor, value * factor, self.n)
        if error < 1e-12 or not 0 < value < 1:
            units = self._units(name)
            return Estimate(value, *wilson(min(max(value, 0.0), 1.0) * units, units, level), self.n)
        # `on_logit_scale` multiplies by the normal quantile; with few units or seeds it must be Student's.
        normal = float(ndtri((1 + level) / 2))
        return Estimate(value, *on_logit_scale(value, half / normal, level), self.n)

    def difference(self, name: str, first: Score, second: Score) -> Difference:
        """First less second in one metric, by the test that suits it; not yet corrected for other pairs."""
        m = compared().index(name)
        value = float(first.values[m] - second.values[m])
        single = first.seeds == second.seeds == 1
        if np.isnan(value):
            return Difference(None, None, None, None, "undefined")
        if single and not self.grouped and name == "accuracy":
            ours, theirs = (one.predictions.preds == one.predictions.targets for one in (first, second))
            apart = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
            low, high = paired_proportions(*apart, self.n, self.confidence_level)
            return Difference(value, low, high, mcnemar(*apart), "McNemar")
        error, df, test = float("nan"), float("inf"), "DeLong"
        if single and not self.grouped and name == "macro_auroc":
            error = delong_error(first.influence - second.influence, first.predictions.targets)
        if np.isnan(error):
            variances = [first.seed_variance(m), second.seed_variance(m)]
            error, df = self._error(first.resampled[:, m] - second.resampled[:, m], variances)
            test = (GROUPS if self.grouped else BOOTSTRAP) + ("" if single else " and seeds")
        if error < 1e-12 and METRICS[name].is_share:
            # Models that agree everywhere may still differ in cases that were not drawn: as in `paired_proportions`.
            error = float(np.sqrt(2)) / (self._units(name) + 2)
        half = self._quantile(df) * error
        p = 2 * float(student.sf(abs(value) / error, df)) if error > 0 else float(value == 0)
        return Difference(value, value - half, value + half, p, test)

    def _units(self, metric: str) -> int:
        return self.units if metric == "accuracy" else self._macro_units

    def _error(self, resampled: NDArray[np.float64], variances: Iterable[tuple[float, int]]) -> tuple[float, float]:
        """Standard error over cases and seeds together, and its degrees of freedom."""
        defined = resampled[np.isfinite(resampled)]
        others = max(self.units - 1, 1)
        # The variance among resamples of U units is too small by (U - 1) / U, which counts where groups are few.
        cases = float(defined.var(ddof=1)) * self.units / others if len(defined) > 1 else 0.0
        parts = [(cases, others), *((variance, df) for variance, df in variances if df)]
        total = sum(variance for variance, _ in parts)
        if total < 1e-24:
            return 0.0, float("inf")
        return float(np.sqrt(total)), total**2 / sum(variance**2 / df for variance, df in parts)

    def _quantile(self, df: float) -> float:
        return float(student.ppf((1 + self.confidence_level) / 2, df))


def corrected(differences: Sequence[Difference], confidence_level: float) -> list[Difference]:
    """One metric's differences of all pairs, with p-values corrected for their number, and which count."""
    p_values = holm([float("nan") if one.p is None else one.p for one in differences])
    return [
        one
        if one.low is None or one.high is None
        else replace(one, p_holm=p, distinguishable=p <= 1 - confidence_level + 1e-12 and (one.low > 0 or one.high < 0))
        for one, p in zip(differences, p_values, strict=True)
    ]
