"""Confidence intervals: Wilson's for proportions and their means, DeLong's for AUROC, the bootstrap for the rest.

The bootstrap gives a standard error, and the interval is symmetric on the logit scale. Over 1,000 simulated test sets
each, it covered nearer to 95 % than the percentiles of the same resamples, at much the same width: macro AUROC of 0.914
on 200 images 94 % (percentiles 92), of 0.978 with 20 images in the rarer class 92 % (86), macro F1 of 0.75 95 % (94).
What all intervals cover was measured in experiments/coverage.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit, ndtri, stdtrit


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


def mean_of_wilsons(
    successes: NDArray[np.number],
    trials: NDArray[np.int64],
    confidence_level: float,
    weights: NDArray[np.float64] | None = None,
) -> tuple[float, float]:
    """The interval of a weighted sum, by default the mean, of independent proportions with Wilson's interval each.

    Each side is as long as the root of the summed squares of the sides it is made of.

    Args:
        successes: (K,) in [0, trials].
        trials: (K,); proportions without trials are left out.
        confidence_level: in (0, 1).
        weights: (K,) above 0.

    >>> low, high = mean_of_wilsons(np.array([90, 9]), np.array([100, 10]), 0.95)
    >>> round(low, 4), round(high, 4)
    (0.7434, 0.9468)

    Source: Zou and Donner 2008, doi:10.1002/sim.3095, "MOVER".
    """
    some = trials > 0
    weights = np.full(some.sum(), 1 / some.sum()) if weights is None else weights[some]
    proportions = successes[some] / trials[some]
    ends = [wilson(float(s), int(n), confidence_level) for s, n in zip(successes[some], trials[some], strict=True)]
    low, high = np.array(ends).T
    value = float(weights @ proportions)
    below, above = (float(np.linalg.norm(weights * (proportions - end))) for end in (low, high))
    return value - below, value + above


def macro_specificity(matrix: NDArray[np.int64], confidence_level: float) -> tuple[float, float]:
    """The interval of the mean specificity; of the transposed matrix, of the mean negative predictive value.

    A sample of class i that is taken for j costs class j one of its true negatives. Given the size of each class the
    costs of its samples are independent of the others', and their mean is between 0 and the largest, so that Wilson's
    interval holds. With two classes it is the interval of the balanced accuracy, which is then the same number.

    Args:
        matrix: (K, K) samples of class i that were taken for j.
        confidence_level: in (0, 1).
    """
    trials = matrix.sum(axis=1)
    others = trials.sum() - trials
    cost = np.divide(1.0, others * (others > 0).sum(), out=np.zeros(len(matrix)), where=others > 0)
    costs = np.where(np.eye(len(matrix), dtype=bool), 0.0, cost)
    largest = costs.max(axis=1)
    successes = np.divide((matrix * costs).sum(axis=1), largest, out=np.zeros(len(matrix)), where=largest > 0)
    low, high = mean_of_wilsons(successes, trials, confidence_level, largest * trials)
    return 1 - high, 1 - low


def on_logit_scale(
    value: float, standard_error: float, confidence_level: float, degrees_of_freedom: float = np.inf
) -> tuple[float, float]:
    """Student's interval of a value in (0, 1), taken on the logit scale, where it cannot leave (0, 1).

    Args:
        value: in (0, 1).
        standard_error: of the value itself; the delta method carries it over.
        confidence_level: in (0, 1).
        degrees_of_freedom: of the standard error, above 0.

    >>> [round(end, 4) for end in on_logit_scale(0.9, 0.03, 0.95)]
    [0.824, 0.9453]
    """
    half = _quantile(confidence_level, degrees_of_freedom) * standard_error / (value * (1 - value))
    return float(expit(logit(value) - half)), float(expit(logit(value) + half))


def delong(scores: NDArray[np.float64], positive: NDArray[np.bool_], confidence_level: float) -> tuple[float, float]:
    """DeLong's interval for the AUROC, on the logit scale with Student's quantile; exact with ties.

    On the plain scale it reaches above 1 and covers too rarely: in 4,000 binormal draws of 100 + 100 samples 93 % at
    an AUROC of 0.95 and 90 % at 0.98, against 95 % and 93 % on the logit scale. Student's quantile is worth another
    point where one side is small: of 20 + 180 samples at 0.9 it covered 93.4 %, the normal one 92.2 %.

    Args:
        scores: (N,) higher for the class.
        positive: (N,) membership of the class, with at least one sample on each side.
        confidence_level: in (0, 1).

    Source: DeLong et al. 1988, doi:10.2307/2531595; the logit from Pepe 2003, section 5.2.4; degrees of freedom as
    in Satterthwaite 1946, doi:10.2307/3002019.
    """
    ours, theirs = np.sort(scores[positive]), np.sort(scores[~positive])
    wins, losses = _share_below(ours, theirs), _share_below(theirs, ours)
    auroc = float(wins.mean())
    fewer = min(len(ours), len(theirs))
    parts = np.array([values.var(ddof=1) / len(values) if fewer > 1 else 0.0 for values in (wins, losses)])
    if parts.sum() == 0:
        # The variance of an AUROC is at most A (1 - A) / min(m, n) (Birnbaum and Klose 1957), so Wilson's covers.
        return wilson(auroc * fewer, fewer, confidence_level)
    return _from_parts(auroc, parts, np.array([len(ours), len(theirs)]), confidence_level)


def delong_macro(
    probs: NDArray[np.float64], targets: NDArray[np.int64], confidence_level: float
) -> tuple[float, float]:
    """DeLong's interval for the mean AUROC, each class against the rest, on the logit scale.

    What each sample adds to all the areas is summed first, so their correlation is in it. With two classes it is
    `delong`.

    Args:
        probs: (N, K) scores.
        targets: (N,) in [0, K), with at least two classes present.
        confidence_level: in (0, 1).
    """
    sizes = np.bincount(targets, minlength=probs.shape[1])
    classes = np.flatnonzero(sizes)
    moves, value = np.zeros(len(targets)), 0.0
    for c in classes:
        positive = targets == c
        places = placements(probs[:, c], positive)
        auroc = float(places[positive].mean())
        moves += (places - auroc) / np.where(positive, sizes[c], len(targets) - sizes[c]) / len(classes)
        value += auroc / len(classes)
    fewest = int(sizes[classes].min())
    by_class = [moves[targets == c] for c in classes] if fewest > 1 else []
    parts = np.array([len(mine) * (mine.var(ddof=1) + mine.mean() ** 2) for mine in by_class])
    if parts.sum() < 1e-24:
        return wilson(value * fewest, fewest, confidence_level)
    return _from_parts(value, parts, sizes[classes], confidence_level)


def from_resamples(
    value: float,
    resampled: NDArray[np.float64],
    units: int,
    confidence_level: float,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> tuple[float, float]:
    """Student's interval of a metric from the spread of its resamples, NaN among them left out.

    Between finite bounds it is symmetric on the logit scale. Resamples of U units vary too little by a factor of
    sqrt(1 - 1/U), which is put right. Where the resamples do not vary, as for a perfect score,
    they cannot say how sure it is; then Wilson's interval for `units` trials, the independent units that the metric
    rests on, is the answer.

    Args:
        value: of the metric, within the bounds.
        resampled: (R,) its values in the resamples.
        units: at least 1.
        confidence_level: in (0, 1).
        bounds: what the metric cannot leave; without finite bounds the interval is symmetric as it is.
    """
    defined = resampled[np.isfinite(resampled)]
    standard_error = float(defined.std(ddof=1)) if len(defined) > 1 else 0.0
    standard_error *= float(np.sqrt(units / max(units - 1, 1)))
    least, width = bounds[0], bounds[1] - bounds[0]
    if np.isinf(width):
        half = _quantile(confidence_level, max(units - 1, 1)) * standard_error
        return value - half, value + half
    share = (value - least) / width
    if standard_error < 1e-12 or not 0 < share < 1:
        low, high = wilson(share * units, units, confidence_level)
    else:
        low, high = on_logit_scale(share, standard_error / width, confidence_level, max(units - 1, 1))
    return least + width * low, least + width * high


def _quantile(confidence_level: float, degrees_of_freedom: float) -> float:
    """Half the width of Student's interval, in standard errors."""
    tail = (1 + confidence_level) / 2
    return float(stdtrit(degrees_of_freedom, tail) if np.isfinite(degrees_of_freedom) else ndtri(tail))


def _from_parts(
    value: float, parts: NDArray[np.float64], sizes: NDArray[np.int64], confidence_level: float
) -> tuple[float, float]:
    """The interval of a value whose variance is a sum of (P,) parts, each from so many (P,) samples."""
    degrees_of_freedom = parts.sum() ** 2 / (parts**2 / (sizes - 1)).sum()
    return on_logit_scale(value, float(np.sqrt(parts.sum())), confidence_level, degrees_of_freedom)


def placements(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> NDArray[np.float64]:
    """How large a share of the other side each sample is ranked rightly against, (N,), equal scores counting half."""
    order = np.argsort(scores, kind="stable")
    ascending, ours = scores[order], positive[order]
    places = np.empty(len(scores))
    places[order[ours]] = _share_below(ascending[ours], ascending[~ours])
    places[order[~ours]] = 1 - _share_below(ascending[~ours], ascending[ours])
    return places


def _share_below(scores: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each score, the share of the (sorted) others that lie below it, equal ones counting half."""
    below, not_above = (np.searchsorted(others, scores, side=side) for side in ("left", "right"))
    return np.asarray((below + not_above) / (2 * len(others)))
