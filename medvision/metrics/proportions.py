"""Proportions with intervals that respect groups: Wilson's for independent samples, else the bootstrap over groups.

Sensitivity at a threshold, the coverage of prediction sets and the like are all successes over trials; only what
counts as which differs.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medvision.metrics.bootstrap import Resampling
from medvision.metrics.definitions import METRICS
from medvision.metrics.estimates import Estimate, Estimates, Key
from medvision.metrics.evaluate import why_unreliable
from medvision.metrics.intervals import from_resamples, wilson
from medvision.randomness import generator

# Counts held at a time: 2 MB stay in a core's cache.
_CHUNK = 2**19


class Proportion(NamedTuple):
    """What is counted.

    Attributes:
        successes: (N,) bool; only those that are trials count.
        trials: (N,) bool.
        undefined: what to say where there are no trials.
    """

    successes: NDArray[np.bool_]
    trials: NDArray[np.bool_]
    undefined: str


def proportions(
    resampling: Resampling,
    counted: Mapping[Key, Proportion],
    confidence_level: float,
    n_resamples: int,
    seed: int,
) -> Estimates:
    """Estimate several proportions over the same N samples, each with n trials.

    Args:
        resampling: says which of the samples share a group.
        counted: by what it is.
        confidence_level: in (0, 1).
        n_resamples: bootstrap resamples, used only where samples share a group.
        seed: of the resamples.
    """
    trials = {name: int(p.trials.sum()) for name, p in counted.items()}
    successes = {name: int((p.successes & p.trials).sum()) for name, p in counted.items()}
    resampled = resampled_proportions(resampling, counted, n_resamples, seed) if resampling.grouped and counted else {}
    estimates: Estimates = {}
    for name, proportion in counted.items():
        n = trials[name]
        if n == 0:
            estimates[name] = Estimate(None, None, None, 0, proportion.undefined)
            continue
        value = successes[name] / n
        units = len(np.unique(resampling.slots[proportion.trials])) if resampling.grouped else n
        if resampling.grouped:
            low, high = from_resamples(value, resampled[name], units, confidence_level)
        else:
            low, high = wilson(successes[name], n, confidence_level)
        # Every proportion is an accuracy among its trials.
        caution = why_unreliable(METRICS["accuracy"], value, units, units, units if resampling.grouped else None)
        estimates[name] = Estimate(value, low, high, n, caution=caution)
    return estimates


def resampled_proportions(
    resampling: Resampling, counted: Mapping[Key, Proportion], n_resamples: int, seed: int
) -> dict[Key, NDArray[np.float64]]:
    """Each proportion in the same bootstrap resamples of whole groups, (n_resamples,), NaN where it has no trials."""
    columns = np.stack(
        [column for p in counted.values() for column in (p.successes & p.trials, p.trials)], axis=1
    ).astype(np.float64)
    sums = resampled_sums(resampling, columns, n_resamples, seed)
    hits, trials = sums[:, 0::2], sums[:, 1::2]
    ratios = np.divide(hits, trials, out=np.full(hits.shape, np.nan), where=trials > 0)
    return {name: ratios[:, i] for i, name in enumerate(counted)}


def resampled_sums(
    resampling: Resampling, columns: NDArray[np.float64], n_resamples: int, seed: int
) -> NDArray[np.float64]:
    """Sums of (N, M) columns over bootstrap resamples of whole groups, (n_resamples, M)."""
    # All samples of a unit are drawn equally often, so that its sums are enough.
    by_unit = np.stack([np.bincount(resampling.slots, weights=column) for column in columns.T], axis=1)
    rng, rows = generator("proportions", seed), max(1, _CHUNK // resampling.units)
    return np.concatenate(
        [resampling.draw(rng, min(rows, n_resamples - done)) @ by_unit for done in range(0, n_resamples, rows)]
    )
