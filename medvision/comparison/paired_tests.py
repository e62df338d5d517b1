"""Two models on the same cases: McNemar's test, DeLong's for the AUROC, and Holm's correction for many pairs."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

# With fewer cases on which two models disagree, McNemar's chi-squared is not to be trusted and the binomial is exact.
EXACT_BELOW = 25


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided p-value that two models are right equally often; exact below `EXACT_BELOW` cases of disagreement.

    Args:
        only_first: cases that the first model alone has right.
        only_second: cases that the second model alone has right.

    >>> round(mcnemar(1, 9), 5)
    0.02148

    Source: McNemar 1947, doi:10.1007/BF02295996; above the limit chi-squared with continuity correction.
    """
    # statsmodels brings much along that no other part of an evaluation needs.
    from statsmodels.stats.contingency_tables import mcnemar as test

    exact = only_first + only_second < EXACT_BELOW
    return float(test([[0, only_first], [only_second, 0]], exact=exact).pvalue)


def paired_proportions(only_first: int, only_second: int, n: int, confidence_level: float) -> tuple[float, float]:
    """Interval of the difference of two accuracies on the same n cases; holds where the models never disagree too.

    Args:
        only_first: cases that the first model alone has right.
        only_second: cases that the second model alone has right.
        n: all cases, at least 1.
        confidence_level: in (0, 1).

    >>> [round(end, 4) for end in paired_proportions(12, 4, 100, 0.95)]
    [-0.0017, 0.1585]

    Source: Bonett and Price 2012, doi:10.3102/1076998611411915, Wald's interval after one more case on each side.
    """
    first, second = (only_first + 1) / (n + 2), (only_second + 1) / (n + 2)
    difference = first - second
    half = float(ndtri((1 + confidence_level) / 2)) * np.sqrt((first + second - difference**2) / (n + 2))
    return float(difference - half), float(difference + half)


def delong_error(influence: NDArray[np.float64], targets: NDArray[np.int64]) -> float:
    """Standard error of a difference of two (macro) AUROCs on the same independent cases.

    Args:
        influence: (N,) of each case on the one less that on the other, as `influence.macro_auroc` gives them.
        targets: (N,) classes of the cases.

    Returns:
        NaN where a class has a single case, which says nothing about its spread, or all of them.

    Source: DeLong et al. 1988, doi:10.2307/2531595; over several classes the mean of each against the rest.
    """
    _, sizes = np.unique(targets, return_counts=True)
    if len(sizes) < 2 or sizes.min() < 2:
        return float("nan")
    return float(np.sqrt((influence**2).sum()))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number, NaN among them left as they are and not counted.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]

    Source: Holm 1979, Scandinavian Journal of Statistics 6, 65.
    """
    from statsmodels.stats.multitest import multipletests

    values = np.asarray(p_values, dtype=np.float64)
    defined = np.isfinite(values)
    if defined.any():
        values[defined] = multipletests(values[defined], method="holm")[1]
    return [float(value) for value in values]
