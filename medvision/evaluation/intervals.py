"""Confidence intervals: Wilson's for proportions, DeLong's for AUROC, the bootstrap for everything else.

The bootstrap gives a standard error, and the interval is symmetric on the logit scale. Over 1,000 simulated test sets
each, it covered nearer to 95 % than the percentiles of the same resamples, at much the same width: macro AUROC of 0.914
on 200 images 94 % (percentiles 92), of 0.978 with 20 images in the rarer class 92 % (86), macro F1 of 0.75 95 % (94).
Its weak spot is theirs too: macro recall of 0.92 with 20 images in the rarer class, 81 % (82).
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit, ndtri

from medvision.evaluation.metrics import Scorer
from medvision.evaluation.predictions import Predictions
from medvision.randomness import generator

# Counts held at a time while bootstrapping: 2 MB stay in a core's cache, larger chunks were slower.
_CHUNK = 2**19


def wilson(successes: float, trials: int, confidence_level: float) -> tuple[float, float]:
    """Wilson's score interval of a proportion; also holds, wider than needed, for a mean of values in [0, 1].

    Args:
        successes: in [0, trials]; the sum of the values.
        trials: at least 1.
        confidence_level: in (0, 1).

    >>> [round(end, 4) for end in wilson(9, 10, 0.95)]
    [0.5958, 0.9821]

    Source: Wilson 1927, doi:10.1080/01621459.1927.10502953.
    """
    z2 = float(ndtri((1 + confidence_level) / 2)) ** 2
    p = successes / trials
    centre, half = p + z2 / (2 * trials), np.sqrt(z2 * p * (1 - p) / trials + (z2 / (2 * trials)) ** 2)
    low, high = (centre - half) / (1 + z2 / trials), (centre + half) / (1 + z2 / trials)
    # Rounding must not push the proportion itself, 0 or 1 above all, out of its interval.
    return max(0.0, float(min(low, p))), min(1.0, float(max(high, p)))


def wilson_f1(hits: int, union: int, confidence_level: float) -> tuple[float, float]:
    """Wilson's interval for F1, by way of the proportion J that F1 = 2J / (1 + J) is a rising function of.

    Args:
        hits: samples of the class that were found.
        union: samples that are of the class, predicted as it, or both; at least 1.
        confidence_level: in (0, 1).

    Source: Lam et al. 2023, arXiv:2309.14621, "Wilson indirect".
    """
    low, high = wilson(hits, union, confidence_level)
    return 2 * low / (1 + low), 2 * high / (1 + high)


def on_logit_scale(value: float, standard_error: float, confidence_level: float) -> tuple[float, float]:
    """The normal interval of a value in (0, 1), taken on the logit scale, where it cannot leave (0, 1).

    Args:
        value: in (0, 1).
        standard_error: of the value itself; the delta method carries it over.
        confidence_level: in (0, 1).

    >>> [round(end, 4) for end in on_logit_scale(0.9, 0.03, 0.95)]
    [0.824, 0.9453]
    """
    half = ndtri((1 + confidence_level) / 2) * standard_error / (value * (1 - value))
    return float(expit(logit(value) - half)), float(expit(logit(value) + half))


def delong(scores: NDArray[np.float64], positive: NDArray[np.bool_], confidence_level: float) -> tuple[float, float]:
    """DeLong's interval for the AUROC, on the logit scale; exact with ties.

    On the plain scale it reaches above 1 and covers too rarely: in 4,000 binormal draws of 100 + 100 samples 93 % at
    an AUROC of 0.95 and 90 % at 0.98, against 95 % and 93 % on the logit scale.

    Args:
        scores: (N,) higher for the class.
        positive: (N,) membership of the class, with at least one sample on each side.
        confidence_level: in (0, 1).

    Source: DeLong et al. 1988, doi:10.2307/2531595; the logit from Pepe 2003, section 5.2.4.
    """
    ours, theirs = np.sort(scores[positive]), np.sort(scores[~positive])
    wins, losses = _share_below(ours, theirs), _share_below(theirs, ours)
    auroc = float(wins.mean())
    fewer = min(len(ours), len(theirs))
    variance = wins.var(ddof=1) / len(ours) + losses.var(ddof=1) / len(theirs) if fewer > 1 else 0.0
    if variance == 0:
        # The variance of an AUROC is at most A (1 - A) / min(m, n) (Birnbaum and Klose 1957), so Wilson's covers.
        return wilson(auroc * fewer, fewer, confidence_level)
    return on_logit_scale(auroc, float(np.sqrt(variance)), confidence_level)


@dataclass(frozen=True)
class Resampling:
    """Resamples of N samples: as many units as there are, drawn with replacement, each with all its samples.

    Not stratified by class: with class sizes held fixed, precision and F1 lose the part of their spread that comes
    from them. Over 1,000 test sets of 180 + 20 images macro precision was covered 87 % of the time, 96 % without.

    Attributes:
        slots: (N,) the unit of each sample, in [0, U).
        grouped: whether any unit is a group of several samples, rather than each a sample of its own.
    """

    slots: NDArray[np.intp]
    grouped: bool

    @classmethod
    def of(cls, predictions: Predictions) -> Self:
        """A unit is a group; a sample whose group is empty is a unit of its own."""
        groups = predictions.groups
        names, slots = np.unique(groups, return_inverse=True)
        alone = np.flatnonzero(groups == "")
        slots[alone] = len(names) + np.arange(len(alone))
        units, slots = np.unique(slots, return_inverse=True)
        return cls(slots, grouped=len(units) < len(groups))

    def draw(self, rng: np.random.Generator, rows: int) -> NDArray[np.int32]:
        """(rows, N) how often each resample holds each sample; one row after another gives the same as all at once."""
        units = int(self.slots.max()) + 1
        chosen = (rng.random((rows, units)) * units).astype(np.intp)
        chosen += units * np.arange(rows)[:, None]
        counts = np.bincount(chosen.ravel(), minlength=rows * units).astype(np.int32)
        return np.take(counts.reshape(rows, units), self.slots, axis=1)


def bootstrap(scorer: Scorer, resampling: Resampling, n_resamples: int, seed: int) -> dict[str, NDArray[np.float64]]:
    """Every metric of every resample, (n_resamples,) each, NaN where a resample leaves it undefined."""
    rng = generator("bootstrap", seed)
    rows = max(1, _CHUNK // len(resampling.slots))
    chunks = [scorer(resampling.draw(rng, min(rows, n_resamples - done))) for done in range(0, n_resamples, rows)]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def from_resamples(
    value: float, resampled: NDArray[np.float64], units: int, confidence_level: float
) -> tuple[float, float]:
    """The interval of a metric in [0, 1] from its resamples, NaN among them left out.

    Where they do not vary, as for a perfect score, they cannot say how sure it is; then Wilson's interval for `units`
    trials, the independent units that the metric rests on, is the answer.
    """
    defined = resampled[np.isfinite(resampled)]
    standard_error = float(defined.std(ddof=1)) if len(defined) > 1 else 0.0
    if standard_error < 1e-12:
        return wilson(value * units, units, confidence_level)
    return on_logit_scale(value, standard_error, confidence_level)


def _share_below(scores: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each score, the share of the (sorted) others that lie below it, equal ones counting half."""
    below, not_above = (np.searchsorted(others, scores, side=side) for side in ("left", "right"))
    return np.asarray((below + not_above) / (2 * len(others)))
