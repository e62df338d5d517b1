"""The operating point: from which probability on a case is called positive, chosen once and then only applied.

It is chosen on the calibration split by a rule that was stated beforehand; chosen on the test set, it would make that
set's sensitivity and specificity too good.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from medvision.errors import ConfigError, DataError
from medvision.metrics.bootstrap import Resampling
from medvision.metrics.estimates import Estimate, Estimates, Key
from medvision.metrics.intervals import from_resamples
from medvision.metrics.options import Rule, check_rule
from medvision.metrics.predictions import Predictions
from medvision.metrics.proportions import Proportion, proportions, resampled_proportions


@dataclass(frozen=True)
class OperatingPoint:
    """When a case is positive: its probabilities of the positive classes add up to the threshold or more.

    Attributes:
        positive: names of the positive classes, at least one.
        threshold: at least 0; 0 calls every case positive, above 1 none.
        rule: by which it was chosen; see `choose`.
        target: of the rule; None for Youden's.

    Raises:
        ConfigError: if a field is none of these.
    """

    positive: tuple[str, ...]
    threshold: float
    rule: Rule
    target: float | None = None

    def __post_init__(self) -> None:
        if not self.positive or len(set(self.positive)) < len(self.positive):
            raise ConfigError(f"expected one or more positive classes, each once; found {list(self.positive)}")
        if not (math.isfinite(self.threshold) and self.threshold >= 0):
            raise ConfigError(f"expected a threshold of 0 or more; found {self.threshold}")
        check_rule(self.rule, self.target)

    def to_json(self) -> dict[str, Any]:
        """The form it has in bundle.json."""
        return {
            "positive": list(self.positive),
            "threshold": self.threshold,
            "rule": self.rule,
            "target": self.target,
        }

    @classmethod
    def from_json(cls, found: Any) -> Self:
        """Read what `to_json` gave.

        Raises:
            DataError: if it is not that.
        """
        try:
            positive, threshold, target = found["positive"], found["threshold"], found["target"]
            if isinstance(positive, str) or not all(isinstance(name, str) for name in positive):
                raise TypeError("positive is not a list of names")
            return cls(
                positive=tuple(positive),
                threshold=float(threshold),
                rule=found["rule"],
                target=None if target is None else float(target),
            )
        except (ConfigError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"expected an operating point with positive, threshold, rule and target; found {found!r} ({error})"
            ) from error


def default_positive(class_names: Sequence[str]) -> tuple[str, ...] | None:
    """The second of two classes; with more classes nobody but the user can say which are the positive ones.

    >>> default_positive(["normal", "pneumonia"])
    ('pneumonia',)
    """
    return (class_names[1],) if len(class_names) == 2 else None


def positive_scores(probs: NDArray[np.float64], class_names: Sequence[str], positive: Sequence[str]) -> NDArray[Any]:
    """Summed probability of the positive classes, (N,), of (N, K) probabilities.

    Raises:
        ConfigError: if a name is not among the class names, comes twice, or none or all classes are positive.
    """
    return np.asarray(probs[:, _columns(class_names, positive)].sum(axis=1))


def positive_truth(predictions: Predictions, positive: Sequence[str]) -> NDArray[np.bool_]:
    """Which samples truly are of a positive class, (N,).

    Raises:
        ConfigError: as for `positive_scores`.
    """
    return np.isin(predictions.targets, _columns(predictions.class_names, positive))


def choose(
    predictions: Predictions, positive: Sequence[str], rule: Rule, target: float | None = None
) -> OperatingPoint:
    """Choose the threshold by a stated rule, on cases that were kept for this.

    `youden`: the highest sensitivity + specificity. `sensitivity`: at least `target`, and then the highest
    specificity. `specificity`: at least `target`, and then the highest sensitivity. `cost`: the lowest cost, where a
    miss costs `target` times as much as a false alarm and the mix of cases is that of these predictions.

    Thresholds lie halfway between neighbouring scores, so that rounding in another runtime moves no case across.
    Between thresholds that are equally good the lowest is taken, which misses least; except under `specificity`, where
    it is the highest, which alarms least.

    What was asked for holds on these cases; on others sensitivity and specificity are estimates, for which see `apply`.

    Raises:
        ConfigError: if a class is unknown, none or all are positive, or the target does not suit the rule.
        DataError: if no case is positive or no case is negative.

    Source: Youden 1950, doi:10.1002/1097-0142(1950)3:1<32::AID-CNCR2820030106>3.0.CO;2-3.
    """
    scores = positive_scores(predictions.probs, predictions.class_names, positive)
    truth = positive_truth(predictions, positive)
    found, rejected, thresholds = _by_threshold(scores, truth)
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if positives == 0 or negatives == 0:
        side = "positive" if positives == 0 else "negative"
        raise DataError(
            f"cannot choose an operating point: none of {len(truth)} cases is {side} "
            f"(positive: {', '.join(positive)}); more cases are needed in the split it is chosen on"
        )
    sensitivity, specificity = found / positives, rejected / negatives
    asked = 0.0 if target is None else float(target)
    # `thresholds` falls; sensitivity rises along it and specificity falls.
    if rule == "sensitivity":
        best = _last_best(np.where(sensitivity >= asked, rejected, -1))
    elif rule == "specificity":
        best = int(np.argmax(np.where(specificity >= asked, found, -1)))
    elif rule == "cost":
        best = _last_best(-(asked * (positives - found) + (negatives - rejected)))
    else:
        # In integers, so that ties are exact.
        best = _last_best(found * negatives + rejected * positives)
    return OperatingPoint(tuple(positive), float(thresholds[best]), rule, None if target is None else asked)


def apply(
    point: OperatingPoint,
    predictions: Predictions,
    confidence_level: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
    prevalence: float | None = None,
) -> Estimates:
    """Measure a frozen operating point on other cases.

    Intervals are Wilson's, or with groups those of the group bootstrap. `ppv` and `npv` hold at the mix of cases in
    these predictions, which is seldom that of a clinic. At a stated prevalence p they follow from Bayes' rule, and the
    uncertainty of both sensitivity and specificity goes into their interval: how far the value moves when one of them
    goes to the end of its interval, squared and added. In 20,000 draws each of six settings (20 to 200 positive and 20
    to 500 negative cases) this covered 94.7 to 96.2 % at 95 %. With groups both are resampled together.
    The prevalence itself is taken as known.

    Args:
        point: chosen on other cases.
        predictions: N samples.
        confidence_level: in (0, 1).
        n_resamples: bootstrap resamples, where samples share a group.
        seed: of the resamples.
        prevalence: share of positive cases in the intended population, in (0, 1).

    Returns:
        `sensitivity`, `specificity`, `ppv`, `npv`, `accuracy`; with a prevalence also `ppv_at_prevalence` and
        `npv_at_prevalence`.

    Raises:
        ConfigError: if a positive class is unknown or the prevalence is out of range.

    Source: Zou and Donner 2008, doi:10.1002/sim.3095, squaring and adding.
    """
    if prevalence is not None and not 0 < prevalence < 1:
        raise ConfigError(f"expected a prevalence between 0 and 1; found {prevalence}")
    truth = positive_truth(predictions, point.positive)
    called = positive_scores(predictions.probs, predictions.class_names, point.positive) >= point.threshold
    counted = {
        Key("sensitivity"): Proportion(called, truth, "no case is positive"),
        Key("specificity"): Proportion(~called, ~truth, "no case is negative"),
        Key("ppv"): Proportion(truth, called, "no case was called positive"),
        Key("npv"): Proportion(~truth, ~called, "no case was called negative"),
        Key("accuracy"): Proportion(called == truth, np.ones_like(truth), "no cases"),
    }
    resampling = Resampling.of(predictions)
    estimates = proportions(resampling, counted, confidence_level, n_resamples, seed)
    if prevalence is None:
        return estimates
    at_prevalence = {
        Key("ppv_at_prevalence"): _Bayes(
            Key("sensitivity"), Key("specificity"), prevalence, "no case was called positive"
        ),
        Key("npv_at_prevalence"): _Bayes(
            Key("specificity"), Key("sensitivity"), 1 - prevalence, "no case was called negative"
        ),
    }
    pair = {key: counted[key] for key in (Key("sensitivity"), Key("specificity"))}
    resampled = resampled_proportions(resampling, pair, n_resamples, seed) if resampling.grouped else None
    for key, bayes in at_prevalence.items():
        estimate = bayes.estimate(estimates, len(truth))
        if resampled is not None and estimate.value is not None:
            values = bayes.value(resampled[bayes.hit], resampled[bayes.other])
            # A value of 0 or 1 that no resample moves says nothing of the errors that were not seen; the intervals of
            # sensitivity and specificity do.
            if np.nanstd(values) > 1e-12:
                units = min(len(np.unique(resampling.slots[p.trials])) for p in pair.values())
                low, high = from_resamples(estimate.value, values, units, confidence_level)
                estimate = replace(estimate, low=low, high=high)
        estimates[key] = estimate
    return estimates


@dataclass(frozen=True)
class _Bayes:
    """A predictive value as a function of `hit` (how often its own side is recognised) and `other` (the other side)."""

    hit: Key
    other: Key
    prior: float
    undefined: str

    def value(self, hit: Any, other: Any) -> NDArray[np.float64]:
        right, wrong = self.prior * np.asarray(hit), (1 - self.prior) * (1 - np.asarray(other))
        undefined = np.full(np.shape(right), np.nan)
        return np.asarray(np.divide(right, right + wrong, out=undefined, where=right + wrong > 0))

    def estimate(self, estimates: Estimates, n: int) -> Estimate:
        """Move sensitivity and specificity to the ends of their intervals, one at a time; square and add."""
        hit, other = estimates[self.hit], estimates[self.other]
        if hit.value is None or other.value is None:
            return Estimate(None, None, None, n, hit.reason or other.reason)
        value = float(self.value(hit.value, other.value))
        if math.isnan(value):
            return Estimate(None, None, None, n, self.undefined)
        down = math.hypot(value - self.value(hit.low, other.value), value - self.value(hit.value, other.low))
        up = math.hypot(value - self.value(hit.high, other.value), value - self.value(hit.value, other.high))
        return Estimate(value, max(0.0, value - down), min(1.0, value + up), n, caution=hit.caution or other.caution)


def _by_threshold(
    scores: NDArray[np.float64], truth: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Positives found and negatives rejected at every threshold that makes a difference, from the highest down."""
    order = np.argsort(-scores, kind="stable")
    falling, ours = scores[order], truth[order]
    last = np.flatnonzero(np.append(np.diff(falling) != 0, True))
    found = np.concatenate([[0], np.cumsum(ours)[last]])
    alarms = np.concatenate([[0], np.cumsum(~ours)[last]])
    above, below = falling[last], np.append(falling[last[1:]], 0.0)
    halfway = (above + below) / 2
    # Between neighbouring floats there is nothing; the case above must still reach the threshold.
    halfway = np.where(halfway > below, halfway, above)
    halfway[-1] = 0.0
    highest = float(falling[0])
    nobody = (highest + 1) / 2 if highest < (highest + 1) / 2 else float(np.nextafter(max(highest, 1.0), 2))
    return found, alarms[-1] - alarms, np.concatenate([[nobody], halfway])


def _last_best(values: NDArray[Any]) -> int:
    return int(len(values) - 1 - np.argmax(values[::-1]))


def _columns(class_names: Sequence[str], positive: Sequence[str]) -> list[int]:
    unknown = [name for name in positive if name not in class_names]
    if unknown:
        raise ConfigError(f"positive class {unknown[0]!r} is unknown; the classes are {', '.join(class_names)}")
    if len(set(positive)) < len(positive) or not 0 < len(positive) < len(class_names):
        raise ConfigError(
            f"expected some but not all of the classes {', '.join(class_names)} to be positive, each once; "
            f"found {', '.join(positive) or 'none'}"
        )
    return [list(class_names).index(name) for name in positive]
