"""Selective prediction: how the error falls when the model may pass its least confident cases on to a person."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma

from medvision.metrics.bootstrap import Resampling
from medvision.metrics.definitions import METRICS
from medvision.metrics.estimates import Estimate, Estimates, Key
from medvision.metrics.evaluate import why_unreliable
from medvision.metrics.intervals import from_resamples, wilson
from medvision.metrics.predictions import Predictions
from medvision.randomness import generator

COVERAGES = (80, 90, 95)
"""Percentages of cases, the most confident ones, on which accuracy is given."""

# Steps of confidence that are kept apart while resampling: their standard error has converged long before (at 20,000
# cases 125, 500 and 2,000 steps agree to 2 %), and a million cases take no longer than a thousand.
_STEPS = 500
_CHUNK = 2**19


class RiskCoverage(NamedTuple):
    """The error among the most confident cases, from the first case to all of them.

    Attributes:
        coverage: (P,) share of cases that are answered, rising to 1.
        risk: (P,) share of these that are wrong.
    """

    coverage: NDArray[np.float64]
    risk: NDArray[np.float64]


def risk_coverage(predictions: Predictions) -> RiskCoverage:
    """The risk at every coverage; a case's confidence is its largest probability.

    Equally confident cases enter together: there is one point after each run of them, so their order does not matter.

    Source: Geifman and El-Yaniv 2017, arXiv:1705.08500, section 2.
    """
    cases, errors, _ = _runs(predictions)
    answered = np.cumsum(cases)
    return RiskCoverage(answered / answered[-1], np.cumsum(errors) / answered)


def selective(
    predictions: Predictions, confidence_level: float = 0.95, n_resamples: int = 1000, seed: int = 0
) -> Estimates:
    """Accuracy on the most confident cases, and the area under the risk-coverage curve.

    Where the border runs through equally confident cases, as many of them count as are needed, with their mean error.
    The area is the mean risk over the coverages 1/N, 2/N ... 1, in expectation over the order of equally confident
    cases; 0 is best, and a model that is wrong as often at every confidence has its error rate.
    Intervals come from the bootstrap, by group where there are groups, with a new border in each resample. In
    1,000 draws each of three settings (200 and 1,000 cases, 86 and 96 % of them right) they covered 93 to 96 % at 95 %.

    Args:
        predictions: N samples.
        confidence_level: in (0, 1).
        n_resamples: bootstrap resamples.
        seed: of the resamples.

    Returns:
        `accuracy_at_80`, `accuracy_at_90`, `accuracy_at_95` (n is the number of cases answered) and `aurc`.

    Source: Geifman et al. 2019, arXiv:1805.08206 (AURC).
    """
    cases, errors, runs = _runs(predictions)
    total = len(predictions.targets)
    resampling = Resampling.of(predictions)
    # Runs are merged only for the resamples; the values come from all of them.
    step = ((np.cumsum(cases) - cases) * _STEPS // total).astype(np.intp)
    _, step = np.unique(step, return_inverse=True)
    resampled_cases, resampled_errors = _resampled(predictions, resampling, step[runs], n_resamples, seed)
    units = resampling.units
    estimates: Estimates = {}
    for percentage in COVERAGES:
        value = float(_accuracy_at(cases[None], errors[None], percentage / 100)[0])
        resamples = _accuracy_at(resampled_cases, resampled_errors, percentage / 100)
        answered = max(1, round(total * percentage / 100))
        answering = max(1, round(units * percentage / 100))
        low, high = _interval(value, resamples, answering, confidence_level)
        groups = answering if resampling.grouped else None
        caution = why_unreliable(METRICS["accuracy"], value, answering, answering, groups)
        estimates[Key(f"accuracy_at_{percentage}")] = Estimate(value, low, high, answered, caution=caution)
    value = float(_area(cases[None], errors[None])[0])
    low, high = from_resamples(value, _area(resampled_cases, resampled_errors), units, confidence_level)
    return estimates | {Key("aurc"): Estimate(value, low, high, total)}


def _interval(value: float, resamples: NDArray[np.float64], units: int, confidence_level: float) -> tuple[float, float]:
    if 0 < value < 1:
        return from_resamples(value, resamples, units, confidence_level)
    # There is no logit, but errors just past the border come into some resamples.
    low, high = wilson(value * units, units, confidence_level)
    tail = (1 - confidence_level) / 2
    ends = np.quantile(resamples, [tail, 1 - tail])
    return min(low, float(ends[0])), max(high, float(ends[1]))


def _runs(predictions: Predictions) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.intp]]:
    """Cases and errors of each run of equal confidence, the most confident first, and the run of each sample."""
    _, runs = np.unique(-predictions.probs.max(axis=1), return_inverse=True)
    wrong = predictions.preds != predictions.targets
    return np.bincount(runs), np.bincount(runs, weights=wrong).astype(np.int64), runs


def _resampled(
    predictions: Predictions, resampling: Resampling, step: NDArray[np.intp], n_resamples: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cases and errors of each step in resamples, (R, S) each."""
    steps = int(step.max()) + 1
    cell = 2 * step + (predictions.preds != predictions.targets)
    rng = generator("selective", seed)
    if not resampling.grouped:
        # Independent samples fall into the cells multinomially; there is no need to draw each of them.
        frequencies = np.bincount(cell, minlength=2 * steps) / len(cell)
        drawn = rng.multinomial(len(cell), frequencies, size=n_resamples)
    else:
        order = np.argsort(cell, kind="stable")
        edges = np.searchsorted(cell[order], np.arange(2 * steps + 1))
        rows = max(1, _CHUNK // len(cell))
        chunks = []
        for done in range(0, n_resamples, rows):
            counts = resampling.draw(rng, min(rows, n_resamples - done))[:, resampling.slots[order]]
            cumulative = np.zeros((len(counts), len(cell) + 1), dtype=np.int64)
            np.cumsum(counts, axis=1, out=cumulative[:, 1:])
            chunks.append(np.diff(cumulative[:, edges], axis=1))
        drawn = np.concatenate(chunks)
    errors = drawn[:, 1::2]
    return drawn[:, 0::2] + errors, errors


def _accuracy_at(cases: NDArray[np.int64], errors: NDArray[np.int64], coverage: float) -> NDArray[np.float64]:
    """Accuracy on the most confident cases, (R,), from (R, S) cases and errors per step."""
    after = np.cumsum(cases, axis=1)
    wanted = np.maximum(1, np.round(after[:, -1:] * coverage))
    share = np.clip((wanted - (after - cases)) / np.maximum(cases, 1), 0, 1)
    return np.asarray(1 - (share * errors).sum(axis=1) / wanted[:, 0])


def _area(cases: NDArray[np.int64], errors: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean risk over all coverages, (R,), from (R, S) cases and errors per step.

    After i cases, s of them before this step with E errors, the risk is (E + (i - s) e / m) / i. Its sum over the m
    cases of the step is (E - s e / m) (H(s + m) - H(s)) + e, with harmonic numbers H.
    """
    after = np.cumsum(cases, axis=1)
    before = after - cases
    errors_before = np.cumsum(errors, axis=1) - errors
    harmonic = digamma(after + 1.0) - digamma(before + 1.0)
    sums = (errors_before - before * errors / np.maximum(cases, 1)) * harmonic + errors
    # Rounding may leave a perfect curve a hair off zero.
    return np.asarray(np.clip(sums.sum(axis=1) / after[:, -1], 0, 1))
