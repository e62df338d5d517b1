"""Every metric, one record each: what it is called, how it is computed, and when its interval can be trusted.

Tables, pages, the console, comparisons, leaderboards and metrics.json go through these records. To add a metric, add a
record to `METRICS`; everything else follows from it.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medvision.errors import ConfigError
from medvision.metrics import confusion
from medvision.metrics.confusion import LabelCounts, Tally, macro
from medvision.metrics.intervals import (
    delong,
    delong_macro,
    macro_specificity,
    mean_of_wilsons,
    wilson,
    wilson_f1,
)
from medvision.metrics.probabilities import TOPS, WORST_LOG_LOSS, Probabilities, true_class_ranks
from medvision.metrics.ranks import Ranks
from medvision.tasks import Task

Interval = tuple[float, float]
Statistic = Literal["labels", "ranks", "probabilities"]
_UNBOUNDED = (-np.inf, np.inf)


@dataclass(frozen=True, eq=False)
class Cases:
    """What closed-form intervals are computed from: independent cases.

    Attributes:
        probs: (N, K) probabilities.
        targets: (N,) true classes.
        confidence_level: of the intervals, in (0, 1).
    """

    probs: NDArray[np.float64]
    targets: NDArray[np.int64]
    confidence_level: float

    @cached_property
    def tally(self) -> Tally:
        """Counts of the predicted classes."""
        return Tally.of(self.probs.argmax(axis=1), self.targets, self.probs.shape[1])

    @cached_property
    def matrix(self) -> NDArray[np.int64]:
        """(K, K) confusion matrix, true classes in rows."""
        k = self.probs.shape[1]
        return np.bincount(self.targets * k + self.probs.argmax(axis=1), minlength=k * k).reshape(k, k)

    @cached_property
    def ranks(self) -> NDArray[np.int64]:
        """(N,) how many classes are placed before the true one."""
        return true_class_ranks(self.probs, self.targets)


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: as in metrics.json.
        label: as in tables.
        short: as in sentences, where the label would be too long or begin with a capital letter.
        meaning: one plain sentence.
        statistic: what `function` takes: "labels" (a `Tally`), "ranks" (a `RankStatistic`) or "probabilities" (a
            `ProbabilityStatistic`), each of R resamples; None for a metric that another module measures.
        function: the metric of R resamples, (R,), or (R, K) if it is `per_class`; NaN where it is undefined.
        per_class: whether each class has a value, against all others.
        mean_of: name of the metric per class that this is the mean of, over the classes for which it is defined.
        interval: closed form for independent cases: (cases) to an interval, or (cases, class) if it is `per_class`;
            None where it does not apply. Without one the interval comes from the bootstrap.
        bounds: smallest and largest value, or a function of K that returns them.
        lower_is_better: whether small values are good.
        percent: whether it is shown in percent.
        rests_on: the cases behind a value per class: of the "class", of the "others", "predicted" as the class, "not
            predicted" as it, "either" of the class or predicted as it, or the rarer of class and others ("rarer").
        smallest_class: whether a value over all classes depends on the smallest one.
        caution: which rule says that an interval is unreliable: few "cases", few or almost perfectly "ranked" ones,
            or few "errors".
        undefined: why there is no value.
        min_classes: fewest classes for which the metric says anything.
        section: of the report: "results", "classes", "calibration", or "" for a metric of another module.
        headline: whether the console and the top of the report show it.
        compared: whether comparisons of models use it.
        tasks: kinds of task that have it.
    """

    name: str
    label: str
    meaning: str
    statistic: Statistic | None = None
    function: Callable[[Any], NDArray[np.float64]] | None = None
    per_class: bool = False
    mean_of: str | None = None
    interval: Callable[..., Interval | None] | None = None
    bounds: Interval | Callable[[int], Interval] = (0.0, 1.0)
    lower_is_better: bool = False
    percent: bool = False
    rests_on: Literal["class", "others", "predicted", "not predicted", "either", "rarer"] = "class"
    smallest_class: bool = False
    caution: Literal["cases", "ranked", "errors"] = "cases"
    undefined: str = ""
    min_classes: int = 2
    section: Literal["results", "classes", "calibration", ""] = ""
    headline: bool = False
    compared: bool = False
    short: str = ""
    tasks: tuple[str, ...] = field(default=("classes",))

    def bounds_of(self, num_classes: int) -> Interval:
        """Smallest and largest value for K classes."""
        return self.bounds(num_classes) if callable(self.bounds) else self.bounds

    @property
    def phrase(self) -> str:
        """Its name within a sentence."""
        return self.short or self.label

    @property
    def is_share(self) -> bool:
        """Whether it lies in [0, 1] with 1 best, so that an interval can be drawn on that axis."""
        return self.bounds == (0.0, 1.0) and not self.lower_is_better

    def __call__(self, probs: NDArray[np.float64], targets: NDArray[np.int64]) -> NDArray[np.float64]:
        """The metric of one set of cases: () or, per class, (K,).

        Args:
            probs: (N, K) in [0, 1], rows sum to 1.
            targets: (N,) in [0, K).
        """
        assert self.function is not None
        assert self.statistic is not None
        counters: dict[str, Callable[..., Callable[..., Any]]] = {
            "labels": _labels,
            "ranks": Ranks,
            "probabilities": Probabilities,
        }
        once = np.ones((1, len(targets)), dtype=np.uint8)
        return np.asarray(self.function(counters[self.statistic](probs, targets)(once))[0])


def _labels(probs: NDArray[np.float64], targets: NDArray[np.int64]) -> LabelCounts:
    return LabelCounts(probs.argmax(axis=1), targets, np.arange(len(targets)), probs.shape[1])


def _proportion(cases: Cases, successes: NDArray[np.int64], trials: NDArray[np.int64], c: int) -> Interval | None:
    return wilson(int(successes[c]), int(trials[c]), cases.confidence_level) if trials[c] else None


def _sensitivity(cases: Cases, c: int) -> Interval | None:
    return _proportion(cases, cases.tally.hits, cases.tally.actual, c)


def _specificity(cases: Cases, c: int) -> Interval | None:
    return _proportion(cases, cases.tally.rejected, cases.tally.total - cases.tally.actual, c)


def _ppv(cases: Cases, c: int) -> Interval | None:
    return _proportion(cases, cases.tally.hits, cases.tally.predicted, c)


def _npv(cases: Cases, c: int) -> Interval | None:
    return _proportion(cases, cases.tally.rejected, cases.tally.total - cases.tally.predicted, c)


def _f1(cases: Cases, c: int) -> Interval | None:
    hits, union = cases.tally.hits[c], (cases.tally.actual + cases.tally.predicted - cases.tally.hits)[c]
    return wilson_f1(int(hits), int(union), cases.confidence_level) if union else None


def _auroc(cases: Cases, c: int) -> Interval | None:
    if not 0 < cases.tally.actual[c] < cases.tally.total:
        return None
    return delong(cases.probs[:, c], cases.targets == c, cases.confidence_level)


def _accuracy(cases: Cases) -> Interval:
    return wilson(int(cases.tally.hits.sum()), len(cases.targets), cases.confidence_level)


def _macro_specificity(cases: Cases) -> Interval | None:
    several = np.count_nonzero(cases.tally.actual) > 1
    return macro_specificity(cases.matrix, cases.confidence_level) if several else None


def _macro_npv(cases: Cases) -> Interval | None:
    several = np.count_nonzero(cases.tally.predicted) > 1
    return macro_specificity(cases.matrix.T, cases.confidence_level) if several else None


def _macro_auroc(cases: Cases) -> Interval | None:
    several = np.count_nonzero(cases.tally.actual) > 1
    return delong_macro(cases.probs, cases.targets, cases.confidence_level) if several else None


def _top(k: int) -> Metric:
    return Metric(
        f"top_{k}",
        f"Top-{k} accuracy",
        f"The true class is among the {k} most probable ones.",
        "probabilities",
        lambda p: p.tops[k],
        interval=lambda cases: wilson(int((cases.ranks < k).sum()), len(cases.targets), cases.confidence_level),
        percent=True,
        min_classes=k + 1,
        section="results",
    )


_RECORDS = (
    Metric(
        "accuracy",
        "Accuracy",
        "Share of images classified correctly.",
        "labels",
        confusion.accuracy,
        interval=_accuracy,
        percent=True,
        section="results",
        headline=True,
        compared=True,
        short="accuracy",
    ),
    Metric(
        "balanced_accuracy",
        "Balanced accuracy",
        "Mean sensitivity of the classes, each with equal weight.",
        "labels",
        lambda tally: macro(confusion.sensitivity(tally)),
        mean_of="sensitivity",
        interval=lambda cases: mean_of_wilsons(cases.tally.hits, cases.tally.actual, cases.confidence_level),
        percent=True,
        section="results",
        headline=True,
        compared=True,
        short="balanced accuracy",
    ),
    Metric(
        "macro_auroc",
        "AUROC, mean of classes",
        "How well each class is ranked above the rest; 0.5 is chance.",
        "ranks",
        lambda ranks: macro(ranks.auroc()),
        mean_of="auroc",
        interval=_macro_auroc,
        caution="ranked",
        section="results",
        headline=True,
        compared=True,
        short="AUROC",
    ),
    Metric(
        "macro_average_precision",
        "Average precision, mean of classes",
        "Area under the precision-recall curve.",
        "ranks",
        lambda ranks: macro(ranks.average_precision()),
        mean_of="average_precision",
        caution="ranked",
        section="results",
    ),
    Metric(
        "macro_f1",
        "F1, mean of classes",
        "Harmonic mean of PPV and sensitivity.",
        "labels",
        lambda tally: macro(confusion.f1(tally)),
        mean_of="f1",
        section="results",
        headline=True,
        compared=True,
        short="macro F1",
    ),
    Metric(
        "macro_ppv",
        "PPV, mean of classes",
        "When the model predicts a class: how often it is right.",
        "labels",
        lambda tally: macro(confusion.ppv(tally)),
        mean_of="ppv",
        interval=lambda cases: mean_of_wilsons(cases.tally.hits, cases.tally.predicted, cases.confidence_level),
        percent=True,
        section="results",
        headline=True,
    ),
    Metric(
        "macro_specificity",
        "Specificity, mean of classes",
        "Share of images of other classes correctly not given a class.",
        "labels",
        lambda tally: macro(confusion.specificity(tally)),
        mean_of="specificity",
        interval=_macro_specificity,
        percent=True,
        section="results",
    ),
    Metric(
        "macro_npv",
        "NPV, mean of classes",
        "When the model rules a class out: how often it is right.",
        "labels",
        lambda tally: macro(confusion.npv(tally)),
        mean_of="npv",
        interval=_macro_npv,
        percent=True,
        section="results",
    ),
    Metric(
        "mcc",
        "Matthews correlation",
        "Agreement corrected for chance; 0 is chance, 1 perfect.",
        "labels",
        confusion.mcc,
        bounds=(-1.0, 1.0),
        smallest_class=True,
        undefined="only one class is present, or predicted",
        section="results",
    ),
    Metric(
        "kappa",
        "Cohen's kappa",
        "Agreement beyond chance; 0 is none, 1 perfect.",
        "labels",
        confusion.kappa,
        bounds=(-1.0, 1.0),
        smallest_class=True,
        undefined="only one class is present and predicted",
        section="results",
    ),
    Metric(
        "kappa_quadratic",
        "Quadratic kappa",
        "Cohen's kappa in which near misses count less; for ordered classes only.",
        "labels",
        confusion.kappa_quadratic,
        bounds=(-1.0, 1.0),
        smallest_class=True,
        undefined="only one class is present and predicted",
        section="results",
    ),
    *map(_top, TOPS),
    Metric(
        "sensitivity",
        "Sensitivity",
        "Share of the images of a class (or of the positive images) that were recognised; recall.",
        "labels",
        confusion.sensitivity,
        per_class=True,
        interval=_sensitivity,
        percent=True,
        section="classes",
    ),
    Metric(
        "specificity",
        "Specificity",
        "Share of the other (or negative) images that were correctly not given the class.",
        "labels",
        confusion.specificity,
        per_class=True,
        interval=_specificity,
        percent=True,
        rests_on="others",
        section="classes",
    ),
    Metric(
        "ppv",
        "PPV",
        "When the model predicts the class: how often it is right; precision.",
        "labels",
        confusion.ppv,
        per_class=True,
        interval=_ppv,
        percent=True,
        rests_on="predicted",
        undefined="this class was never predicted",
        section="classes",
    ),
    Metric(
        "npv",
        "NPV",
        "When the model rules the class out: how often it is right.",
        "labels",
        confusion.npv,
        per_class=True,
        interval=_npv,
        percent=True,
        rests_on="not predicted",
        undefined="every prediction is of this class",
        section="classes",
    ),
    Metric(
        "f1",
        "F1",
        "Harmonic mean of PPV and sensitivity.",
        "labels",
        confusion.f1,
        per_class=True,
        interval=_f1,
        rests_on="either",
        section="classes",
    ),
    Metric(
        "auroc",
        "AUROC",
        "How well the class is ranked above the rest; 0.5 is chance.",
        "ranks",
        lambda ranks: ranks.auroc(),
        per_class=True,
        interval=_auroc,
        rests_on="rarer",
        caution="ranked",
        section="classes",
    ),
    Metric(
        "average_precision",
        "Average precision",
        "Area under the precision-recall curve.",
        "ranks",
        lambda ranks: ranks.average_precision(),
        per_class=True,
        rests_on="rarer",
        caution="ranked",
        section="classes",
    ),
    Metric(
        "calibration_slope",
        "Calibration slope",
        "1 is best; below 1 the model is overconfident.",
        "probabilities",
        lambda p: p.slope,
        bounds=_UNBOUNDED,
        caution="errors",
        section="calibration",
    ),
    Metric(
        "calibration_intercept",
        "Calibration intercept",
        "0 is best; below 0 the probabilities are too high on average.",
        "probabilities",
        lambda p: p.intercept,
        bounds=_UNBOUNDED,
        caution="errors",
        section="calibration",
    ),
    Metric(
        "ece",
        "Calibration error (ECE)",
        "Mean gap between confidence and accuracy; 0 is best.",
        "probabilities",
        lambda p: p.ece(),
        lower_is_better=True,
        caution="errors",
        section="calibration",
        headline=True,
    ),
    Metric(
        "brier",
        "Brier score",
        "Squared error of the probabilities; 0 is best.",
        "probabilities",
        lambda p: p.brier,
        bounds=lambda num_classes: (0.0, 1.0 if num_classes == 2 else 2.0),
        lower_is_better=True,
        caution="errors",
        section="calibration",
    ),
    Metric(
        "log_loss",
        "Log loss",
        "Penalty for probability on the wrong classes; 0 is best.",
        "probabilities",
        lambda p: p.log_loss,
        bounds=(0.0, WORST_LOG_LOSS),
        lower_is_better=True,
        caution="errors",
        section="calibration",
        compared=True,
        short="log loss",
    ),
    # Measured by metrics.operating_point, metrics.conformal and metrics.selective.
    Metric(
        "ppv_at_prevalence",
        "PPV at the stated prevalence",
        "How often a positive result is right where positives are as frequent as stated.",
        percent=True,
    ),
    Metric(
        "npv_at_prevalence",
        "NPV at the stated prevalence",
        "How often a negative result is right where positives are as frequent as stated.",
        percent=True,
    ),
    Metric("coverage", "Coverage", "Share of images whose prediction set contains the true class.", percent=True),
    Metric("single", "Sets of one class", "Share of images with a single class in their set.", percent=True),
    Metric(
        "set_size",
        "Mean set size",
        "Classes per prediction set; 1 is most useful.",
        bounds=lambda num_classes: (0.0, float(num_classes)),
        lower_is_better=True,
    ),
    *(
        Metric(
            f"accuracy_at_{share}",
            f"Accuracy on the {share} % most confident images",
            f"The other {100 - share} % are left to a human reader.",
            percent=True,
        )
        for share in (95, 90, 80)
    ),
    Metric(
        "aurc",
        "Area under the risk-coverage curve",
        "Mean error over all shares of images answered; 0 is best.",
        lower_is_better=True,
    ),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in _RECORDS}


def metrics_of(task: Task) -> list[Metric]:
    """The metrics that are computed from predictions of a task, in the order of tables."""
    return [
        metric
        for metric in METRICS.values()
        if metric.function is not None and task.kind in metric.tasks and task.num_classes >= metric.min_classes
    ]


def section(name: str) -> list[str]:
    """Names of the metrics of a section of the report."""
    return [metric.name for metric in METRICS.values() if metric.section == name]


def compared() -> list[str]:
    """Names of the metrics by which models are compared."""
    return [metric.name for metric in METRICS.values() if metric.compared]


def add_metrics(records: Iterable[Metric]) -> None:
    """Enter metrics of another package, which every later evaluation and page of this process then has.

    Raises:
        ConfigError: if something is not a `Metric`, or its name is taken by another one.
    """
    for record in records:
        if not isinstance(record, Metric):
            raise ConfigError(f"evaluation.metrics: {record!r} is not a medvision.metrics.definitions.Metric.")
        if METRICS.get(record.name, record) != record:
            raise ConfigError(f"evaluation.metrics: there is a metric named {record.name} already. Rename yours.")
        METRICS[record.name] = record


def of_results(names: Iterable[str]) -> Mapping[str, Metric]:
    """The records of some names; a metric whose package is not loaded is shown by its name."""
    return {name: METRICS.get(name) or Metric(name, name, "") for name in names}
