"""Metrics of predictions, each with its interval.

Where samples are independent, proportions have Wilson's interval, means of independent proportions the one that follows
from it, AUROC has DeLong's, and the rest the bootstrap. As soon as two samples share a group (a patient, a study) they
are not independent, and the bootstrap over whole groups replaces all of these.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvision.errors import ConfigError
from medvision.metrics.bootstrap import Resampling, bootstrap, of_cells
from medvision.metrics.confusion import LabelCounts
from medvision.metrics.definitions import METRICS, Cases, Metric, metrics_of
from medvision.metrics.estimates import Estimate, Estimates, Key
from medvision.metrics.intervals import from_resamples
from medvision.metrics.predictions import Predictions
from medvision.metrics.probabilities import Probabilities
from medvision.metrics.ranks import Ranks
from medvision.randomness import generator


def evaluate(
    predictions: Predictions, confidence_level: float = 0.95, n_resamples: int = 1000, seed: int = 0
) -> Estimates:
    """Score predictions, each metric with its interval.

    Args:
        predictions: N samples over K classes.
        confidence_level: in (0, 1).
        n_resamples: bootstrap resamples, at least 2; their number decides how exact the intervals themselves are.
        seed: of the resamples; equal seeds give equal intervals.

    Returns:
        Every metric of the task: those over all classes, then those of each class.

    Raises:
        ConfigError: if `confidence_level` or `n_resamples` is out of range.
    """
    _check(confidence_level, n_resamples)
    return _Evaluation(predictions, metrics_of(predictions.task), confidence_level).run(n_resamples, seed)


def evaluate_calibration(
    predictions: Predictions, confidence_level: float = 0.95, n_resamples: int = 1000, seed: int = 0
) -> Estimates:
    """What `evaluate` returns of log loss, Brier score and calibration, without the rest; see there."""
    _check(confidence_level, n_resamples)
    wanted = [metric for metric in metrics_of(predictions.task) if metric.section == "calibration"]
    return _Evaluation(predictions, wanted, confidence_level).run(n_resamples, seed, "bootstrap calibration")


class _Evaluation:
    """The statistics of one set of predictions, and the estimates that are made of them."""

    def __init__(self, predictions: Predictions, metrics: list[Metric], confidence_level: float) -> None:
        self._predictions, self._metrics, self._level = predictions, metrics, confidence_level
        self._class_names = predictions.class_names
        self._resampling = resampling = Resampling.of(predictions)
        slots = resampling.slots if resampling.grouped else None
        probs, targets = predictions.probs, predictions.targets
        self._probabilities = Probabilities(probs, targets, slots)
        self._ranks = Ranks(probs, targets, slots) if any(one.statistic == "ranks" for one in metrics) else None
        self._support = _Support(predictions, resampling.slots)

    def run(self, n_resamples: int, seed: int, purpose: str = "bootstrap") -> Estimates:
        predictions, resampling = self._predictions, self._resampling
        values = self._values()
        cases = Cases(predictions.probs, predictions.targets, self._level)
        if resampling.grouped:
            resampled = self._drawn(self._metrics, n_resamples, seed, purpose)
        else:
            resampled = self._independent(n_resamples, seed, purpose)
        found: Estimates = {}
        for metric in self._metrics:
            for c, class_name in enumerate(self._class_names) if metric.per_class else ((None, None),):
                value = values[metric.name] if c is None else values[metric.name][c]
                exact = None
                if not resampling.grouped and metric.interval is not None and not np.isnan(value):
                    exact = metric.interval(cases) if c is None else metric.interval(cases, c)
                drawn = resampled.get(metric.name)
                spread = None if drawn is None else drawn if c is None else drawn[:, c]
                key = Key(metric.name, class_name)
                found[key] = self._estimate(metric, c, float(value), exact, spread, values)
        order = sorted(found, key=lambda key: key.class_name is not None)
        return {key: found[key] for key in order}

    def _values(self) -> dict[str, NDArray[np.float64]]:
        """Each metric of the samples as they are, () or (K,)."""
        once = np.ones((1, self._resampling.units), dtype=np.uint8)
        statistics = {
            "labels": LabelCounts(
                self._predictions.preds, self._predictions.targets, self._resampling.slots, len(self._class_names)
            )(once),
            "ranks": self._ranks and self._ranks(once),
            "probabilities": self._probabilities(once),
        }
        return {one.name: _computed(one, statistics)[0] for one in self._metrics}

    def _independent(self, n_resamples: int, seed: int, purpose: str) -> dict[str, NDArray[np.float64]]:
        """Resamples of what has no closed form; what depends on the labels alone is drawn from the confusion matrix."""
        predictions, k = self._predictions, len(self._class_names)
        of_labels = [one for one in self._metrics if one.statistic == "labels"]
        others = [
            one
            for one in self._metrics
            if one.statistic == "probabilities" or (one.statistic == "ranks" and one.interval is None)
        ]
        labels: dict[str, NDArray[np.float64]] = {}
        if of_labels:
            cells, sizes = np.unique(predictions.targets * k + predictions.preds, return_counts=True)
            counted = LabelCounts(cells % k, cells // k, np.arange(len(cells)), k)
            labels = bootstrap(
                lambda counts: {one.name: _computed(one, {"labels": counted(counts)}) for one in of_labels},
                of_cells(sizes),
                len(cells) * k,
                n_resamples,
                generator("bootstrap confusion matrix", seed),
            )
        return labels | self._drawn(others, n_resamples, seed, purpose)

    def _drawn(
        self, metrics: list[Metric], n_resamples: int, seed: int, purpose: str
    ) -> dict[str, NDArray[np.float64]]:
        """Resamples of whole units."""
        predictions, resampling = self._predictions, self._resampling
        kinds = {one.statistic for one in metrics}
        labels = None
        if "labels" in kinds:
            labels = LabelCounts(predictions.preds, predictions.targets, resampling.slots, len(self._class_names))

        def scores(counts: NDArray[np.integer]) -> dict[str, NDArray[np.float64]]:
            statistics = {
                "labels": labels and labels(counts),
                "ranks": self._ranks and self._ranks(counts) if "ranks" in kinds else None,
                "probabilities": self._probabilities(counts),
            }
            return {one.name: _computed(one, statistics) for one in metrics}

        return bootstrap(scores, resampling.draw, resampling.units, n_resamples, generator(purpose, seed))

    def _estimate(
        self,
        metric: Metric,
        c: int | None,
        value: float,
        exact: tuple[float, float] | None,
        resampled: NDArray[np.float64] | None,
        values: Mapping[str, NDArray[np.float64]],
    ) -> Estimate:
        support = self._support
        n = support.samples(metric, c)
        if np.isnan(value):
            return Estimate(None, None, None, n, self._why_undefined(metric, c))
        if np.isinf(metric.bounds_of(len(self._class_names))[0]) and support.units < 2:
            return Estimate(None, None, None, n, "one group alone does not show how sure it is")
        if exact is None:
            assert resampled is not None
            exact = self._from_resamples(metric, c, value, resampled)
        groups = support.units if self._resampling.grouped else None
        caution = why_unreliable(metric, value, support.fewest_units(metric, c), support.wrong_units, groups)
        return Estimate(value, *exact, n, self._left_out(metric, values), caution)

    def _from_resamples(
        self, metric: Metric, c: int | None, value: float, resampled: NDArray[np.float64]
    ) -> tuple[float, float]:
        trials = self._support.trials(metric, c)
        if metric.name == "ece" and resampled.std() > 0:
            # Noise adds to it, so that it may be far lower than it looks: down to 0, for a model that is calibrated.
            unbiased = self._probabilities.ece_without_bias()
            half = from_resamples(0.0, resampled, trials, self._level, (-np.inf, np.inf))[1]
            return max(0.0, unbiased - half), min(1.0, value + half)
        return from_resamples(value, resampled, trials, self._level, metric.bounds_of(len(self._class_names)))

    def _why_undefined(self, metric: Metric, c: int | None) -> str:
        recalibration = self._probabilities.recalibration
        if metric.name == "calibration_slope" and recalibration.slope_reason:
            return recalibration.slope_reason
        if metric.name == "calibration_intercept" and recalibration.intercept_reason:
            return recalibration.intercept_reason
        if metric.mean_of is not None:
            return "undefined for every class"
        if metric.undefined or c is None:
            return metric.undefined or "undefined for these samples"
        return "every sample is of this class" if self._support.of_class(c) else "no sample of this class"

    def _left_out(self, metric: Metric, values: Mapping[str, NDArray[np.float64]]) -> str | None:
        if metric.mean_of is None:
            return None
        defined = int(np.isfinite(values[metric.mean_of]).sum())
        total = len(self._class_names)
        return None if defined == total else f"mean over {defined} of {total} classes"


def _computed(metric: Metric, statistics: Mapping[str, Any]) -> NDArray[np.float64]:
    assert metric.function is not None
    assert metric.statistic is not None
    return np.asarray(metric.function(statistics[metric.statistic]))


class _Support:
    """How many samples and independent units are behind each metric; a unit counts for a class if any sample does."""

    def __init__(self, predictions: Predictions, slots: NDArray[np.intp]) -> None:
        """Count the (N,) units of the samples, in [0, U)."""
        n, k = len(predictions.targets), len(predictions.class_names)
        self.total, self.units = n, int(slots.max()) + 1
        self.wrong_units = len(np.unique(slots[predictions.preds != predictions.targets]))
        of_class, named = np.zeros((self.units, k), bool), np.zeros((self.units, k), bool)
        of_class[slots, predictions.targets] = True
        named[slots, predictions.preds] = True
        # A unit has samples of other classes if it has more classes than this one.
        of_others = of_class.sum(axis=1, keepdims=True) > of_class
        named_others = named.sum(axis=1, keepdims=True) > named
        actual = np.bincount(predictions.targets, minlength=k)
        predicted = np.bincount(predictions.preds, minlength=k)
        hits = np.bincount(predictions.targets[predictions.preds == predictions.targets], minlength=k)
        self._samples = {
            "class": actual,
            "others": n - actual,
            "predicted": predicted,
            "not predicted": n - predicted,
            "either": actual + predicted - hits,
            "rarer": np.full(k, n),
        }
        self._units = {
            "class": of_class.sum(axis=0),
            "others": of_others.sum(axis=0),
            "predicted": named.sum(axis=0),
            "not predicted": named_others.sum(axis=0),
            "either": (of_class | named).sum(axis=0),
            "rarer": np.minimum(of_class.sum(axis=0), of_others.sum(axis=0)),
        }

    def of_class(self, c: int) -> int:
        return int(self._samples["class"][c])

    def samples(self, metric: Metric, c: int | None) -> int:
        """Samples that a metric rests on."""
        return self.total if c is None else int(self._samples[metric.rests_on][c])

    def fewest_units(self, metric: Metric, c: int | None) -> int:
        """Units behind a metric; for one that looks at several classes those of the smallest class that has any."""
        if c is not None:
            return int(self._units[metric.rests_on][c])
        if metric.mean_of is None and not metric.smallest_class:
            return self.units
        rests_on = "class" if metric.mean_of is None else METRICS[metric.mean_of].rests_on
        some = self._units[rests_on]
        return int(some[some > 0].min(initial=self.units))

    def trials(self, metric: Metric, c: int | None) -> int:
        """Trials that Wilson's interval gets where resamples do not vary.

        A mean of proportions gets those of its smallest class times the number of classes: errors that went unseen
        would do it most harm there, and all of them could be there. One area under a curve says much the same as the
        next, so their mean gets no more than one of them.
        """
        fewest = self.fewest_units(metric, c)
        several = c is None and fewest < self.units and metric.caution != "ranked"
        return min(self.units, fewest * len(self._units["class"])) if several else fewest


# Below these an interval of 95 % held the truth less than about 93 % of the time in some population; measured in
# experiments/coverage.
FEWEST_GROUPS = 50
FEWEST_RANKED = 20  # samples on the smaller side of an area under a curve
FEWEST_MISRANKED = 2  # of these, (1 - AUROC) times their number
FEWEST_WRONG = 10  # wrong predictions, which make up most of log loss, Brier score and calibration
FEWEST = 10  # samples of the smallest class, or of the class, that anything else rests on


def why_unreliable(metric: Metric, value: float, units: int, wrong: int, groups: int | None) -> str | None:
    """Why the interval of a metric may cover less often than stated; None where there is no such reason.

    Args:
        metric: its record.
        value: of the metric.
        units: independent units that it rests on; those of the smallest class where it looks at several.
        wrong: units with a wrong prediction.
        groups: number of groups, where samples are grouped.

    >>> why_unreliable(METRICS["auroc"], 0.99, units=30, wrong=4, groups=None)
    'only 30 cases in the smaller group and a value near 1: interval unreliable'
    """
    unit = "cases" if groups is None else "groups"
    if groups is not None and groups < FEWEST_GROUPS:
        return f"fewer than {FEWEST_GROUPS} groups"
    if metric.caution == "ranked":
        if value == 1:
            return "a perfect ranking does not show how rare errors are: interval unreliable"
        if units < FEWEST_RANKED:
            return f"fewer than {FEWEST_RANKED} {unit} in the smaller group"
        if (1 - value) * units < FEWEST_MISRANKED:
            return f"only {units} {unit} in the smaller group and a value near 1: interval unreliable"
        return None
    if metric.caution == "errors" and wrong < FEWEST_WRONG:
        return f"fewer than {FEWEST_WRONG} {unit} with a wrong prediction"
    return f"rests on fewer than {FEWEST} {unit}" if units < FEWEST else None


def _check(confidence_level: float, n_resamples: int) -> None:
    if not 0 < confidence_level < 1 or n_resamples < 2:
        raise ConfigError(
            "expected a confidence_level between 0 and 1 and n_resamples of 2 or more; "
            f"found {confidence_level} and {n_resamples}"
        )
