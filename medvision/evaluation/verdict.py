"""The verdict on a set of predictions: every metric with its interval and the number of samples behind it.

Where samples are independent, proportions get Wilson's interval, means of independent proportions the one that follows
from it, AUROC gets DeLong's, and the rest the bootstrap. As soon as two samples share a group (a patient, a study)
they are not independent, and the bootstrap over whole groups replaces all of these.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medvision.errors import ConfigError
from medvision.evaluation.caution import why_care
from medvision.evaluation.closed_forms import Intervals, closed_forms
from medvision.evaluation.confusion import LabelScores, Tally, scores
from medvision.evaluation.intervals import from_resamples
from medvision.evaluation.predictions import Predictions
from medvision.evaluation.probabilities import WORST_LOG_LOSS, ProbabilityScores
from medvision.evaluation.ranking import RankScores
from medvision.evaluation.resampling import Resampling, bootstrap, of_cells
from medvision.evaluation.support import Support, why_undefined
from medvision.randomness import generator

Values = dict[str, NDArray[np.float64]]

_UNBOUNDED = ("calibration_slope", "calibration_intercept")
_CALIBRATION = ("log_loss", "brier", "ece", *_UNBOUNDED)


@dataclass(frozen=True)
class Estimate:
    """A metric and how far it can be trusted.

    Attributes:
        value: the metric on these samples; None where it is undefined.
        low: lower end of the interval; None where `value` is.
        high: upper end of the interval; None where `value` is.
        n: samples that the value rests on: those of the class for recall, those of the others for specificity, those
            predicted as it for precision, those not predicted as it for npv, those that are either for F1, all for
            the rest.
        reason: why the value is undefined, or that a macro mean leaves classes out.
        caution: why the interval is to be taken with care.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    reason: str | None = None
    caution: str | None = None

    def to_json(self) -> dict[str, float | int | str | None]:
        """The form it has in metrics.json; `reason` and `caution` only where there is one."""
        content: dict[str, float | int | str | None] = {
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "n": self.n,
        }
        words = {"reason": self.reason, "caution": self.caution}
        return content | {key: word for key, word in words.items() if word is not None}


def evaluate(
    predictions: Predictions, confidence_level: float = 0.95, n_resamples: int = 1000, seed: int = 0
) -> dict[str, Estimate]:
    """Score predictions, each metric with its interval.

    Args:
        predictions: N samples over K classes.
        confidence_level: in (0, 1).
        n_resamples: bootstrap resamples, at least 2; their number decides how exact the intervals themselves are.
        seed: of the resamples; equal seeds give equal intervals.

    Returns:
        The metrics of `medvision.evaluation.metrics` by name: overall ones, then `macro/<metric>`, then
        `<metric>/<class name>`.

    Raises:
        ConfigError: if `confidence_level` or `n_resamples` is out of range.
    """
    _check(confidence_level, n_resamples)
    resampling = Resampling.of(predictions)
    of_probs, of_ranks = _probability_scores(predictions, resampling), _rank_scores(predictions, resampling)
    once = np.ones((1, resampling.units), dtype=np.uint8)
    values = _label_values(predictions) | of_ranks.auroc(once) | of_ranks.average_precision(once) | of_probs(once)
    # Overall ones first, then means, then classes.
    names = sorted(values, key=lambda name: ("/" in name) + (not name.startswith("macro/")) * ("/" in name))
    if resampling.grouped:
        resampled, exact = _of_groups(predictions, resampling, of_ranks, of_probs, n_resamples, seed), {}
    else:
        resampled = _of_samples(predictions, resampling, of_ranks, of_probs, n_resamples, seed)
        exact = closed_forms(predictions, confidence_level)
    verdict = _Verdict(predictions, resampling, of_probs, confidence_level)
    return {name: verdict.on(name, values, exact, resampled) for name in names}


def evaluate_calibration(
    predictions: Predictions, confidence_level: float = 0.95, n_resamples: int = 1000, seed: int = 0
) -> dict[str, Estimate]:
    """What `evaluate` says of log loss, Brier score and calibration, without the rest; see there."""
    _check(confidence_level, n_resamples)
    resampling = Resampling.of(predictions)
    scores = _probability_scores(predictions, resampling)
    values = scores(np.ones((1, resampling.units), dtype=np.uint8))
    resampled = bootstrap(
        scores, resampling.draw, resampling.units, n_resamples, generator("bootstrap calibration", seed)
    )
    verdict = _Verdict(predictions, resampling, scores, confidence_level)
    return {name: verdict.on(name, values, {}, resampled) for name in _CALIBRATION}


class _Verdict:
    """Puts values and resamples together into estimates."""

    def __init__(
        self,
        predictions: Predictions,
        resampling: Resampling,
        scores: ProbabilityScores,
        confidence_level: float,
    ) -> None:
        self._support = Support.of(predictions, resampling.slots)
        self._class_names = predictions.class_names
        self._grouped = resampling.grouped
        self._scores = scores
        self._confidence_level = confidence_level

    def on(self, name: str, values: Values, exact: Intervals, resampled: Values) -> Estimate:
        """The estimate of one metric."""
        value, support = float(values[name][0]), self._support
        n = support.samples(name)
        if np.isnan(value):
            return Estimate(None, None, None, n, self._why_undefined(name))
        if name in _UNBOUNDED and support.units < 2:
            return Estimate(None, None, None, n, "one group alone does not say how sure it is")
        if name in exact:
            low, high = exact[name]
        else:
            low, high = self._from_resamples(name, value, resampled[name])
        groups = support.units if self._grouped else None
        caution = why_care(name, value, support.fewest_units(name), support.wrong_units, groups)
        return Estimate(value, low, high, n, self._left_out(name, values), caution)

    def _from_resamples(self, name: str, value: float, resampled: NDArray[np.float64]) -> tuple[float, float]:
        units, level = self._support.trials(name), self._confidence_level
        if name == "ece" and resampled.std() > 0:
            # Noise adds to it, so that it may be far lower than it looks: down to 0, for a model that is calibrated.
            unbiased = self._scores.ece_without_bias()
            half = from_resamples(0.0, resampled, units, level, (-np.inf, np.inf))[1]
            return max(0.0, unbiased - half), min(1.0, value + half)
        return from_resamples(value, resampled, units, level, self._bounds(name))

    def _bounds(self, name: str) -> tuple[float, float]:
        if name in _UNBOUNDED:
            return -np.inf, np.inf
        if name in ("mcc", "kappa", "kappa_quadratic"):
            return -1.0, 1.0
        if name == "log_loss":
            return 0.0, WORST_LOG_LOSS
        return 0.0, 2.0 if name == "brier" and len(self._class_names) > 2 else 1.0

    def _why_undefined(self, name: str) -> str | None:
        if name == "calibration_slope":
            return self._scores.recalibration.slope_reason
        if name == "calibration_intercept":
            return self._scores.recalibration.intercept_reason
        return why_undefined(name, self._support)

    def _left_out(self, name: str, values: Values) -> str | None:
        metric = "recall" if name == "balanced_accuracy" else name.removeprefix("macro/")
        if metric == name:
            return None
        defined = sum(not np.isnan(values[f"{metric}/{class_name}"][0]) for class_name in self._class_names)
        return None if defined == len(self._class_names) else f"mean over {defined} of {len(self._class_names)} classes"


def _check(confidence_level: float, n_resamples: int) -> None:
    if not 0 < confidence_level < 1 or n_resamples < 2:
        raise ConfigError(
            "expected a confidence_level between 0 and 1 and n_resamples of 2 or more; "
            f"found {confidence_level} and {n_resamples}"
        )


def _label_values(predictions: Predictions) -> Values:
    tally = Tally.of(predictions.preds, predictions.targets, len(predictions.class_names))
    return {name: np.atleast_1d(value) for name, value in scores(tally, predictions.class_names).items()}


def _rank_scores(predictions: Predictions, resampling: Resampling) -> RankScores:
    slots = resampling.slots if resampling.grouped else None
    return RankScores(predictions.probs, predictions.targets, slots, predictions.class_names)


def _probability_scores(predictions: Predictions, resampling: Resampling) -> ProbabilityScores:
    return ProbabilityScores(predictions.probs, predictions.targets, resampling.slots if resampling.grouped else None)


def _of_samples(
    predictions: Predictions,
    resampling: Resampling,
    of_ranks: RankScores,
    of_probs: ProbabilityScores,
    n_resamples: int,
    seed: int,
) -> Values:
    """Resamples of what has no closed form; what depends on the labels alone is drawn from the confusion matrix."""
    names, k = predictions.class_names, len(predictions.class_names)
    cells, sizes = np.unique(predictions.targets * k + predictions.preds, return_counts=True)
    of_labels = LabelScores(cells % k, cells // k, np.arange(len(cells)), names)
    rng = generator("bootstrap confusion matrix", seed)
    labels = bootstrap(of_labels, of_cells(sizes), len(cells) * k, n_resamples, rng)
    rng = generator("bootstrap", seed)
    return labels | bootstrap(
        lambda counts: of_ranks.average_precision(counts) | of_probs(counts),
        resampling.draw,
        resampling.units,
        n_resamples,
        rng,
    )


def _of_groups(
    predictions: Predictions,
    resampling: Resampling,
    of_ranks: RankScores,
    of_probs: ProbabilityScores,
    n_resamples: int,
    seed: int,
) -> Values:
    of_labels = LabelScores(predictions.preds, predictions.targets, resampling.slots, predictions.class_names)

    def all_scores(counts: NDArray[np.integer]) -> Values:
        return of_labels(counts) | of_ranks.auroc(counts) | of_ranks.average_precision(counts) | of_probs(counts)

    rng = generator("bootstrap", seed)
    return bootstrap(all_scores, resampling.draw, resampling.units, n_resamples, rng)
