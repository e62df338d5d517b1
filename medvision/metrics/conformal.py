"""Prediction sets with a stated coverage: split conformal prediction, LAC.

The quantile comes from cases that neither the network nor its checkpoint was chosen on. mapie gives the same sets, but
keeps its quantile to itself, and the bundle must carry it to where there is no mapie; the tests hold the two together.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medvision.errors import ConfigError
from medvision.metrics.bootstrap import Resampling
from medvision.metrics.estimates import Estimate, Estimates, Key
from medvision.metrics.intervals import from_resamples
from medvision.metrics.predictions import Predictions
from medvision.metrics.proportions import Proportion, proportions, resampled_sums
from medvision.randomness import generator


@dataclass(frozen=True)
class Conformal:
    """What makes prediction sets.

    Attributes:
        coverage: stated share of new cases whose set contains the true class.
        quantile: class k belongs to a set where 1 - p_k <= quantile; None where there were too few cases.
        n: calibration cases.
        reason: why there is no quantile.
    """

    coverage: float
    quantile: float | None
    n: int
    reason: str | None = None

    def to_json(self) -> dict[str, float] | None:
        """The form it has in bundle.json: None without a quantile."""
        return None if self.quantile is None else {"coverage": self.coverage, "quantile": self.quantile}


def conformalise(calibration: Predictions, coverage: float) -> Conformal:
    """Find the quantile from calibration cases: the ceil((n + 1) coverage)-th smallest of their 1 - p(true class).

    A new case that is exchangeable with these is then covered with a chance of at least `coverage`, and at most
    1 / (n + 1) more where no scores are equal. This holds on average over classes and over calibration splits: a rare
    class may be covered less, and with one split of n cases the coverage itself varies, by about
    sqrt(coverage (1 - coverage) / n). It does not hold at another hospital, and with several images of a patient the
    cases count for less than their number.

    Args:
        calibration: cases kept for this.
        coverage: in (0, 1).

    Raises:
        ConfigError: if `coverage` is out of range.

    Source: Sadinle et al. 2019, doi:10.1080/01621459.2017.1395341.
    """
    if not 0 < coverage < 1:
        raise ConfigError(f"expected a coverage between 0 and 1; found {coverage}")
    n = len(calibration.targets)
    # 0.9 * 10 must count as 9, although its binary fraction is not exact.
    rank = math.ceil(round((n + 1) * coverage, 9))
    if rank > n:
        needed = math.ceil(round(coverage / (1 - coverage), 9))
        reason = f"a coverage of {coverage:g} needs at least {needed} calibration cases; there are {n}"
        return Conformal(coverage, None, n, reason)
    scores = 1 - calibration.probs[np.arange(n), calibration.targets]
    return Conformal(coverage, float(np.partition(scores, rank - 1)[rank - 1]), n)


def sets(probs: NDArray[np.float64], quantile: float) -> NDArray[np.bool_]:
    """Which classes belong to the set of each case, (N, K), from (N, K) probabilities.

    A set may be empty: then no class is likely enough, which is a finding about the case.

    >>> sets(np.array([[0.7, 0.3], [0.55, 0.45]]), 0.6).tolist()
    [[True, False], [True, True]]
    """
    return np.asarray(1 - probs <= quantile)


def evaluate_sets(
    predictions: Predictions,
    quantile: float,
    confidence_level: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Estimates:
    """Measure prediction sets on other cases than gave the quantile.

    Args:
        predictions: N samples over K classes.
        quantile: from `conformalise`.
        confidence_level: in (0, 1).
        n_resamples: bootstrap resamples, for the size of the sets and where samples share a group.
        seed: of the resamples.

    Returns:
        `coverage` (share of sets that contain the true class), also of each class, `set_size` (mean number of classes,
        in [0, K]) and `single` (share of sets with exactly one class).
    """
    chosen = sets(predictions.probs, quantile)
    sizes = chosen.sum(axis=1)
    covered = chosen[np.arange(len(sizes)), predictions.targets]
    everyone = np.ones_like(covered)
    counted = {Key("coverage"): Proportion(covered, everyone, "no cases")}
    for c, name in enumerate(predictions.class_names):
        counted[Key("coverage", name)] = Proportion(covered, predictions.targets == c, "no sample of this class")
    counted[Key("single")] = Proportion(sizes == 1, everyone, "no cases")
    resampling = Resampling.of(predictions)
    estimates = proportions(resampling, counted, confidence_level, n_resamples, seed)
    single = estimates.pop(Key("single"))
    size = _mean_size(resampling, sizes, len(predictions.class_names), confidence_level, n_resamples, seed)
    return estimates | {Key("set_size"): size, Key("single"): single}


def _mean_size(
    resampling: Resampling, sizes: NDArray[np.int64], k: int, confidence_level: float, n_resamples: int, seed: int
) -> Estimate:
    """The mean as a share of K, which lies in [0, 1] as the intervals want it, and back."""
    n = len(sizes)
    if resampling.grouped:
        columns = np.stack([sizes, np.ones(n)], axis=1).astype(np.float64)
        totals = resampled_sums(resampling, columns, n_resamples, seed)
        shares = totals[:, 0] / totals[:, 1] / k
    else:
        # Only how often each size comes matters, and in a resample that is multinomial.
        frequencies = np.bincount(sizes, minlength=k + 1) / n
        drawn = generator("set_size", seed).multinomial(n, frequencies, size=n_resamples)
        shares = drawn @ np.arange(k + 1) / n / k
    value, units = float(sizes.mean()), resampling.units
    low, high = from_resamples(value / k, shares, units, confidence_level)
    return Estimate(value, k * low, k * high, n)
