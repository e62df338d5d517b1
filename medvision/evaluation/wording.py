"""Metrics in words, and estimates as the text that a reader sees."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from medvision.evaluation.verdict import Estimate


class Metric(NamedTuple):
    """How a metric is shown.

    Attributes:
        label: its name.
        meaning: what it says, in one plain sentence.
        percent: shown in percent rather than as a decimal.
        bar: lies in [0, 1], 1 best, so that its interval can be drawn on that axis.
    """

    label: str
    meaning: str
    percent: bool = False
    bar: bool = True


METRICS = {
    "accuracy": Metric("Accuracy", "Share of images that were answered rightly.", percent=True),
    "balanced_accuracy": Metric(
        "Balanced accuracy", "Mean sensitivity of the classes, each counting the same.", percent=True
    ),
    "mcc": Metric("Matthews correlation", "Agreement corrected for chance; 0 is guessing, 1 perfect."),
    "kappa": Metric("Cohen's kappa", "Agreement beyond chance; 0 is none, 1 perfect."),
    "kappa_quadratic": Metric("Quadratic kappa", "The same, near misses counting less; for ordered classes only."),
    "macro/auroc": Metric("AUROC, mean of classes", "How well each class is ranked above the rest; 0.5 is guessing."),
    "macro/average_precision": Metric("Average precision, mean", "Area under the precision-recall curve."),
    "macro/f1": Metric("F1, mean of classes", "Balance of PPV and sensitivity."),
    "macro/precision": Metric("PPV, mean of classes", "Share of a naming that is right.", percent=True),
    "macro/specificity": Metric("Specificity, mean", "Share of the other classes that is cleared.", percent=True),
    "macro/npv": Metric("NPV, mean of classes", "Share of a clearing that is right.", percent=True),
    "top_2": Metric("Top 2", "The class is among the 2 most probable.", percent=True),
    "top_3": Metric("Top 3", "The class is among the 3 most probable.", percent=True),
    "top_5": Metric("Top 5", "The class is among the 5 most probable.", percent=True),
    "recall": Metric("Sensitivity", "Share of the images of a class that was found.", percent=True),
    "sensitivity": Metric("Sensitivity", "Share of the positive images that was found.", percent=True),
    "specificity": Metric("Specificity", "Share of the negative images that was cleared.", percent=True),
    "precision": Metric("PPV", "Share of the images named positive that was.", percent=True),
    "ppv": Metric("PPV", "Share of the images named positive that was.", percent=True),
    "npv": Metric("NPV", "Share of the images named negative that was.", percent=True),
    "ppv_at_prevalence": Metric("PPV at the stated prevalence", "What a positive answer would mean.", percent=True),
    "npv_at_prevalence": Metric("NPV at the stated prevalence", "What a negative answer would mean.", percent=True),
    "f1": Metric("F1", "Balance of PPV and sensitivity."),
    "auroc": Metric("AUROC", "How well the class is ranked above the rest; 0.5 is guessing."),
    "average_precision": Metric("Average precision", "Area under the precision-recall curve."),
    "log_loss": Metric("Log loss", "Penalty for misplaced probability; less is better.", bar=False),
    "brier": Metric("Brier score", "Squared error of the probabilities; less is better.", bar=False),
    "ece": Metric("Calibration error (ECE)", "Mean gap between confidence and accuracy; 0 is best.", bar=False),
    "calibration_slope": Metric("Calibration slope", "1 is best; below 1, the model is too sure of itself.", bar=False),
    "calibration_intercept": Metric("Calibration intercept", "0 is best; below 0, too high on average.", bar=False),
    "coverage": Metric("Coverage", "Share of images whose set holds their class.", percent=True),
    "single": Metric("Sets of one class", "Share of images that get a single answer.", percent=True),
    "set_size": Metric("Mean size of a set", "Classes per image; 1 is most useful.", bar=False),
    "aurc": Metric("Area under the risk-coverage curve", "Mean error over all shares; less is better.", bar=False),
    "accuracy_at_80": Metric("Accuracy on the surest 80 %", "The other 20 % go to a reader.", percent=True),
    "accuracy_at_90": Metric("Accuracy on the surest 90 %", "The other 10 % go to a reader.", percent=True),
    "accuracy_at_95": Metric("Accuracy on the surest 95 %", "The other 5 % go to a reader.", percent=True),
}


@dataclass(frozen=True)
class Shown:
    """An estimate as text.

    Attributes:
        name: of the estimate, as in metrics.json.
        exact: its value with all digits; None where it is undefined.
        value: "42.1 %", "0.812" or "undefined".
        interval: "37.4 to 47.1"; empty where there is none.
        n: samples behind it.
        bar: low, value and high in percent of a bar's length; None where there is nothing to draw.
        remarks: reason and caution.
        mark: number of the footnote with the remarks; 0 for none.
    """

    name: str
    exact: float | None
    value: str
    interval: str
    n: int
    bar: tuple[float, float, float] | None
    remarks: tuple[str, ...]
    mark: int = 0


def show(name: str, estimate: Estimate, metric: Metric) -> Shown:
    """The text of an estimate.

    >>> show("test/accuracy", Estimate(0.4213, 0.3735, 0.4706, 394), METRICS["accuracy"]).interval
    '37.4 to 47.1'
    """
    value, low, high = estimate.value, estimate.low, estimate.high
    # `caution` is of a later form of Estimate than the one that older runs were written with.
    remarks = tuple(text for text in (estimate.reason, getattr(estimate, "caution", None)) if text)
    if value is None:
        return Shown(name, None, "undefined", "", estimate.n, None, remarks)
    interval, bar = "", None
    if low is not None and high is not None:
        interval = f"{number(low, metric.percent)} to {number(high, metric.percent)}"
        if metric.bar and low >= 0 and high <= 1:
            bar = (100 * low, 100 * value, 100 * high)
    unit = "\u00a0%" if metric.percent else ""
    return Shown(name, value, number(value, metric.percent) + unit, interval, estimate.n, bar, remarks)


def number(value: float, percent: bool = False) -> str:
    """One decimal of a percentage or three of a plain number; one more, or a bound, where they would say 0 or 1.

    >>> number(0.4213, percent=True), number(0.9996, percent=True), number(0.999996), number(-0.12)
    ('42.1', '99.96', '>0.9999', '−0.120')
    """
    scaled, digits = (100 * value, 1) if percent else (value, 3)
    top = 100.0 if percent else 1.0
    for places in (digits, digits + 1):
        if not 0 < scaled < top or 0 < round(scaled, places) < top:
            return f"{scaled:.{places}f}".replace("-", "−")
    least = 10.0 ** -(digits + 1)
    return f"<{least:.{digits + 1}f}" if scaled < top / 2 else f">{top - least:.{digits + 1}f}"


def count(value: float) -> str:
    """A whole number with its thousands set apart.

    >>> count(54001)
    '54,001'
    """
    return f"{value:,.0f}"


def plural(value: int, noun: str) -> str:
    """A count with its noun.

    >>> plural(1, "image"), plural(1200, "image"), plural(2, "class"), plural(2, "case")
    ('1 image', '1,200 images', '2 classes', '2 cases')
    """
    ending = "" if value == 1 else "es" if noun.endswith("s") else "s"
    return f"{count(value)} {noun}{ending}"


def dimensions(value: Any) -> str:
    """A size, or whatever else is a value or a list of them.

    >>> dimensions([28, 28]), dimensions(224), dimensions(None)
    ('28 × 28', '224', 'an unknown number of')
    """
    if value is None:
        return "an unknown number of"
    return " × ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def with_interval(estimate: Estimate | None, metric: Metric, level: str) -> str:
    """An estimate within a sentence: "42.1 % (95 % interval 37.4 to 47.1)"."""
    if estimate is None or estimate.value is None:
        return "undefined"
    shown = show("", estimate, metric)
    return f"{shown.value} ({level} interval {shown.interval})" if shown.interval else shown.value


def level_text(facts: Mapping[str, Any]) -> str:
    """The confidence level of the intervals, such as "95 %"."""
    return f"{100 * (facts.get('confidence_level') or 0.95):g}\u00a0%"
