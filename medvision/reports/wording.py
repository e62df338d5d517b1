"""Estimates and tasks as the text that a reader sees."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medvision.metrics.definitions import METRICS, Metric
from medvision.metrics.estimates import Estimate, Key
from medvision.tasks import Task


def question(task: Task) -> str:
    """What the model answers, in half a sentence."""
    match task.kind:
        case "classes":
            return f"which of {task.num_classes} classes an image shows: {', '.join(task.class_names)}"


@dataclass(frozen=True)
class Shown:
    """An estimate as text.

    Attributes:
        name: what it is of, for `data` elements and screen readers.
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


def show(key: Key, estimate: Estimate) -> Shown:
    """The text of an estimate.

    >>> show(Key("accuracy", split="test"), Estimate(0.4213, 0.3735, 0.4706, 394)).interval
    '37.4 to 47.1'
    """
    metric, name = METRICS[key.metric], described(key)
    value, low, high = estimate.value, estimate.low, estimate.high
    remarks = tuple(text for text in (estimate.reason, estimate.caution) if text)
    if value is None:
        return Shown(name, None, "undefined", "", estimate.n, None, remarks)
    interval, bar = "", None
    if low is not None and high is not None:
        interval = f"{number(low, metric.percent)} to {number(high, metric.percent)}"
        if metric.is_share and low >= 0 and high <= 1:
            bar = (100 * low, 100 * value, 100 * high)
    unit = "\u00a0%" if metric.percent else ""
    return Shown(name, value, number(value, metric.percent) + unit, interval, estimate.n, bar, remarks)


def shown(estimates: Mapping[Key, Estimate], key: Key) -> Shown | None:
    """The text of the estimate of a key, None where there is none."""
    estimate = estimates.get(key)
    return None if estimate is None else show(key, estimate)


def described(key: Key) -> str:
    """A key in one line.

    >>> described(Key("sensitivity", "pneumonia", split="test"))
    'test, pneumonia: sensitivity'
    """
    parts = [key.split, key.section, *key.names, key.class_name]
    return f"{', '.join(part for part in parts if part)}: {key.metric}"


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
    """A whole number with thousands separators.

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
    """A size, or any other value or list of values.

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
    text = show(Key(metric.name), estimate)
    return f"{text.value} ({level} interval {text.interval})" if text.interval else text.value


def level_text(facts: Mapping[str, Any]) -> str:
    """The confidence level of the intervals, such as "95 %"."""
    return f"{100 * (facts.get('confidence_level') or 0.95):g}\u00a0%"
