"""Metrics of the probabilities themselves: proper scores, calibration, and how high the true class ranks."""

from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtr

N_BINS = 15
# The k of top-k accuracy; those that are not below the number of classes are left out.
TOPS = (2, 3, 5)
# A probability of 0 for what happened would cost infinitely much; it costs as much as this one, as in scikit-learn.
_SMALLEST = float(np.finfo(np.float64).eps)
WORST_LOG_LOSS = -float(np.log(_SMALLEST))


def log_losses(probs: NDArray[np.float64], targets: NDArray[np.int64]) -> NDArray[np.float64]:
    """Minus the natural logarithm of the true class's probability, (N,) in [0, 36.04]."""
    return -np.log(np.maximum(probs[np.arange(len(targets)), targets], _SMALLEST))


def brier_scores(probs: NDArray[np.float64], targets: NDArray[np.int64]) -> NDArray[np.float64]:
    """Squared distance between probabilities and truth, (N,): in [0, 1] for two classes, [0, 2] for more."""
    true = probs[np.arange(len(targets)), targets]
    distances = (probs**2).sum(axis=1) - true**2 + (1 - true) ** 2
    return np.asarray(distances / 2 if probs.shape[1] == 2 else distances)


def true_class_ranks(probs: NDArray[np.float64], targets: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many classes are placed before the true one, (N,) in [0, K); of equal ones the first is placed first."""
    true = probs[np.arange(len(targets)), targets][:, None]
    before = np.arange(probs.shape[1]) < targets[:, None]
    return np.asarray(((probs > true) | ((probs == true) & before)).sum(axis=1), dtype=np.int64)


@dataclass(frozen=True)
class Confidences:
    """How sure each prediction was, against whether it was right, in bins of equal width.

    Attributes:
        bins: (N,) in [0, n_bins), the bin of each confidence, upper edges included.
        gaps: (N,) confidence minus 1 where the prediction is right, confidence where it is wrong.
        n_bins: their number.
    """

    bins: NDArray[np.intp]
    gaps: NDArray[np.float64]
    n_bins: int

    @classmethod
    def of(cls, probs: NDArray[np.float64], targets: NDArray[np.int64], n_bins: int = N_BINS) -> Self:
        """Bin the largest of each row of (N, K) probabilities."""
        confidence = probs.max(axis=1)
        bins = np.ceil(confidence * n_bins).astype(np.intp) - 1
        return cls(np.clip(bins, 0, n_bins - 1), confidence - (probs.argmax(axis=1) == targets), n_bins)

    def error(self) -> float:
        """The expected calibration error."""
        return float(np.abs(np.bincount(self.bins, self.gaps, self.n_bins)).sum() / len(self.gaps))


@dataclass(frozen=True)
class Recalibration:
    """The logistic regression of an event on the logit of the probability that was stated for it.

    The event is class 1 where there are two classes, and that the prediction is right where there are more.

    Attributes:
        slope: 1 is right, below 1 is too extreme; NaN where there is none.
        intercept: with the slope held at 1; 0 is right, below 0 is too high; NaN where there is none.
        slope_influence: (N,) how each sample, counted once more, would move the slope.
        intercept_influence: (N,) the same of the intercept.
        slope_reason: why there is no slope.
        intercept_reason: why there is no intercept.
    """

    slope: float
    intercept: float
    slope_influence: NDArray[np.float64]
    intercept_influence: NDArray[np.float64]
    slope_reason: str | None
    intercept_reason: str | None

    @classmethod
    def of(cls, probs: NDArray[np.float64], targets: NDArray[np.int64]) -> Self:
        """Fit both to (N, K) probabilities and (N,) true classes."""
        binary = probs.shape[1] == 2
        stated = probs[:, 1] if binary else probs.max(axis=1)
        event = (targets == 1) if binary else (probs.argmax(axis=1) == targets)
        stated = np.clip(stated, _SMALLEST, 1 - _SMALLEST)
        logits = np.log(stated) - np.log1p(-stated)
        slope, slope_influence, slope_reason = np.nan, np.zeros(len(event)), _no_intercept(event, binary)
        intercept, intercept_influence, intercept_reason = slope, slope_influence, slope_reason
        if intercept_reason is None:
            ones = np.ones((len(event), 1))
            (intercept,), influence = _logistic_regression(ones, logits, event)
            intercept_influence = influence[:, 0]
            slope_reason = _no_slope(logits, event)
        if slope_reason is None:
            centre = logits.mean()
            design = np.stack([np.ones(len(event)), logits - centre], axis=1)
            (_, slope), influence = _logistic_regression(design, np.zeros(len(event)), event)
            slope_influence = influence[:, 1]
        return cls(float(slope), float(intercept), slope_influence, intercept_influence, slope_reason, intercept_reason)


def _no_intercept(event: NDArray[np.bool_], binary: bool) -> str | None:
    if event.any() and not event.all():
        return None
    return "only one class is present" if binary else f"every prediction is {'right' if event.all() else 'wrong'}"


def _no_slope(logits: NDArray[np.float64], event: NDArray[np.bool_]) -> str | None:
    ours, theirs = logits[event], logits[~event]
    if logits.min() == logits.max():
        return "all probabilities are equal"
    # Then the likelihood rises for ever as the slope grows.
    if ours.min() >= theirs.max() or ours.max() <= theirs.min():
        return "the probabilities separate the two outcomes, so the slope has no limit"
    return None


def _logistic_regression(
    design: NDArray[np.float64], offset: NDArray[np.float64], event: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Maximum likelihood by Newton's method: (p,) coefficients and the (N, p) influence of each sample on them.

    The maximum must exist. Steps that would lower the likelihood are halved, so that it is found from anywhere.
    """
    sign = np.where(event, 1.0, -1.0)

    def likelihood(coefficients: NDArray[np.float64]) -> float:
        return -float(np.logaddexp(0, -sign * (offset + design @ coefficients)).sum())

    coefficients = np.zeros(design.shape[1])
    best = likelihood(coefficients)
    for _ in range(100):
        residual, inverse = _score_and_information(design, offset + design @ coefficients, event)
        step = inverse @ (design.T @ residual)
        while (now := likelihood(coefficients + step)) < best - 1e-12 * abs(best):
            step /= 2
        coefficients, best = coefficients + step, now
        if np.abs(step).max() < 1e-10 * (1 + np.abs(coefficients).max()):
            break
    residual, inverse = _score_and_information(design, offset + design @ coefficients, event)
    return coefficients, residual[:, None] * (design @ inverse)


def _score_and_information(
    design: NDArray[np.float64], logits: NDArray[np.float64], event: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    chance = expit(logits)
    information = (design * (chance * (1 - chance))[:, None]).T @ design
    return event - chance, np.linalg.pinv(information)


class ProbabilityStatistic(NamedTuple):
    """What the metrics of the probabilities are made of, for R resamples.

    Attributes:
        n: (R,) samples.
        log_loss: (R,) mean log loss.
        brier: (R,) mean Brier score.
        gaps: (B, R) summed gaps between confidence and accuracy of the samples of each bin.
        slope: (R,) calibration slope.
        intercept: (R,) calibration intercept.
        tops: by k, (R,) share of samples whose class is among the k most probable.
    """

    n: NDArray[np.float64]
    log_loss: NDArray[np.float64]
    brier: NDArray[np.float64]
    gaps: NDArray[np.float64]
    slope: NDArray[np.float64]
    intercept: NDArray[np.float64]
    tops: dict[int, NDArray[np.float64]]

    def ece(self) -> NDArray[np.float64]:
        """Expected calibration error, (R,) in [0, 1]."""
        return np.asarray(np.abs(self.gaps).sum(axis=0) / self.n)


class Probabilities:
    """Every metric of the probabilities, for resamples of units, from one matrix product.

    The calibration of a resample is that of all samples, moved by the influence of each as often as it was drawn:
    its spread is the sandwich estimate of the standard error, over groups where there are groups.
    """

    def __init__(
        self, probs: NDArray[np.float64], targets: NDArray[np.int64], slots: NDArray[np.intp] | None = None
    ) -> None:
        """Take (N, K) probabilities, (N,) true classes and the unit of each sample, (N,) in [0, U)."""
        self.recalibration = Recalibration.of(probs, targets)
        self._tops = [k for k in TOPS if k < probs.shape[1]]
        confidences, ranks = Confidences.of(probs, targets), true_class_ranks(probs, targets)
        columns = [
            np.ones(len(targets)),
            log_losses(probs, targets),
            brier_scores(probs, targets),
            self.recalibration.slope_influence,
            self.recalibration.intercept_influence,
            *((ranks < k).astype(float) for k in self._tops),
            *(np.where(confidences.bins == b, confidences.gaps, 0.0) for b in np.unique(confidences.bins)),
        ]
        if slots is not None:
            columns = [np.bincount(slots, column) for column in columns]
        self._per_unit = np.stack(columns, axis=1)

    def ece_without_bias(self) -> float:
        """The calibration error less what the noise in each bin adds to it on average, at least 0.

        A gap of g with standard error s is seen as the mean of a folded normal distribution, not as |g|; the g that
        is put in is what remains of the one that was seen when s is taken off, in squares.

        Source: the idea of Kumar et al. 2019, arXiv:1909.10155, section 4.
        """
        n, columns = self._per_unit[:, 0].sum(), self._per_unit[:, 5 + len(self._tops) :]
        seen, noise = columns.sum(axis=0) / n, np.sqrt(len(columns) * columns.var(axis=0)) / n
        left = np.sqrt(np.maximum(seen**2 - noise**2, 0))
        ratio = np.divide(left, noise, out=np.full_like(left, np.inf), where=noise > 0)
        density = np.exp(-(np.minimum(ratio, 40.0) ** 2) / 2) / np.sqrt(2 * np.pi)
        bias = 2 * noise * density - 2 * left * ndtr(-ratio)
        return max(0.0, float(np.abs(seen).sum() - bias.sum()))

    def __call__(self, counts: NDArray[np.integer]) -> ProbabilityStatistic:
        """The means over R resamples, (R, U) how often each holds each unit."""
        sums = np.zeros((len(counts), self._per_unit.shape[1]))
        # In blocks, because the product needs the counts as floats.
        for begin in range(0, counts.shape[1], _BLOCK):
            block = slice(begin, begin + _BLOCK)
            sums += counts[:, block].astype(np.float64) @ self._per_unit[block]
        n, log_loss, brier, slope, intercept, *rest = sums.T
        return ProbabilityStatistic(
            n,
            log_loss / n,
            brier / n,
            gaps=np.array(rest[len(self._tops) :]),
            slope=self.recalibration.slope + slope,
            intercept=self.recalibration.intercept + intercept,
            tops={k: top / n for k, top in zip(self._tops, rest, strict=False)},
        )


_BLOCK = 2**16
