"""The verdict on a set of predictions: every metric with its interval and the number of samples behind it.

Where samples are independent, accuracy, recall, precision and F1 get Wilson's interval, AUROC gets DeLong's, and the
macro means get the bootstrap. As soon as two samples share a group (a patient, a study) they are not independent, and
the bootstrap over whole groups replaces all of these.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medvision.errors import ConfigError
from medvision.evaluation.intervals import Resampling, bootstrap, delong, from_resamples, wilson, wilson_f1
from medvision.evaluation.metrics import Scorer
from medvision.evaluation.predictions import Predictions


@dataclass(frozen=True)
class Estimate:
    """A metric and how far it can be trusted.

    Attributes:
        value: the metric on these samples; None where it is undefined.
        low: lower end of the interval; None where `value` is.
        high: upper end of the interval; None where `value` is.
        n: samples that the value rests on: those of the class for recall, those predicted as it for precision, those
            that are either for F1, all for the others.
        reason: why the value is undefined, or that a macro mean leaves classes out.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    reason: str | None = None

    def to_json(self) -> dict[str, float | int | str | None]:
        """The form it has in metrics.json; `reason` only where there is one."""
        numbers: dict[str, float | int | str | None] = {
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "n": self.n,
        }
        return numbers if self.reason is None else numbers | {"reason": self.reason}


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
        `accuracy`, then `macro/<metric>`, then `<metric>/<class name>` for recall, precision, f1 and auroc.

    Raises:
        ConfigError: if `confidence_level` or `n_resamples` is out of range.
    """
    if not 0 < confidence_level < 1 or n_resamples < 2:
        raise ConfigError(
            "expected a confidence_level between 0 and 1 and n_resamples of 2 or more; "
            f"found {confidence_level} and {n_resamples}"
        )
    scorer, resampling = Scorer(predictions), Resampling.of(predictions)
    values = {name: float(value[0]) for name, value in scorer(_once(predictions)).items()}
    resampled = bootstrap(scorer, resampling, n_resamples, seed)
    units = _independent_units(predictions, resampling.slots)
    proportions = _proportions(scorer, predictions)
    exact = {} if resampling.grouped else _closed_forms(predictions, proportions, confidence_level)
    estimates = {}
    for name, value in values.items():
        n = proportions[name][1] if name in proportions else len(predictions.ids)
        if np.isnan(value):
            estimates[name] = Estimate(None, None, None, n, _why_undefined(name, proportions))
        else:
            low, high = exact.get(name) or from_resamples(value, resampled[name], units[name], confidence_level)
            estimates[name] = Estimate(value, low, high, n, _left_out(name, values, predictions.class_names))
    return estimates


def _once(predictions: Predictions) -> NDArray[np.int32]:
    return np.ones((1, len(predictions.ids)), dtype=np.int32)


def _proportions(scorer: Scorer, predictions: Predictions) -> dict[str, tuple[int, int]]:
    """Successes and trials of the per-class metrics that are proportions, or for F1 a function of one."""
    hits, predicted, actual = (row[0].tolist() for row in scorer.tally(_once(predictions)))
    pairs = {}
    for c, name in enumerate(predictions.class_names):
        pairs[f"recall/{name}"] = hits[c], actual[c]
        pairs[f"precision/{name}"] = hits[c], predicted[c]
        pairs[f"f1/{name}"] = hits[c], predicted[c] + actual[c] - hits[c]
    return pairs


def _closed_forms(
    predictions: Predictions, proportions: dict[str, tuple[int, int]], confidence_level: float
) -> dict[str, tuple[float, float]]:
    right = int((predictions.preds == predictions.targets).sum())
    intervals = {"accuracy": wilson(right, len(predictions.ids), confidence_level)}
    for name, (successes, trials) in proportions.items():
        if trials:
            interval = wilson_f1 if name.startswith("f1/") else wilson
            intervals[name] = interval(successes, trials, confidence_level)
    for c, name in enumerate(predictions.class_names):
        positive = predictions.targets == c
        if positive.any() and not positive.all():
            intervals[f"auroc/{name}"] = delong(predictions.probs[:, c], positive, confidence_level)
    return intervals


def _independent_units(predictions: Predictions, slots: NDArray[np.intp]) -> dict[str, int]:
    """Units that each metric rests on, as trials for Wilson's interval where resamples do not vary.

    A macro mean over K classes gets K times those of its smallest class: errors that went unseen would do it most
    harm there, and all of them could be there.
    """
    shape = int(slots.max()) + 1, len(predictions.class_names)
    present, predicted = np.zeros(shape, bool), np.zeros(shape, bool)
    present[slots, predictions.targets] = True
    predicted[slots, predictions.preds] = True
    elsewhere = present.sum(axis=1, keepdims=True) > present
    by_metric = {
        "recall": present.sum(axis=0),
        "precision": predicted.sum(axis=0),
        "f1": (present | predicted).sum(axis=0),
        "auroc": np.minimum(present.sum(axis=0), elsewhere.sum(axis=0)),
    }
    units = {"accuracy": shape[0]}
    for metric, per_class in by_metric.items():
        some = per_class[per_class > 0]
        units[f"macro/{metric}"] = int(some.size * some.min(initial=shape[0]))
        units |= {
            f"{metric}/{name}": int(count) for name, count in zip(predictions.class_names, per_class, strict=True)
        }
    return units


def _why_undefined(name: str, proportions: dict[str, tuple[int, int]]) -> str:
    metric, _, of = name.partition("/")
    if metric == "macro":
        return "undefined for every class"
    if metric == "precision":
        return "this class was never predicted"
    _, samples = proportions[f"recall/{of}"]
    return "every sample is of this class" if samples else "no sample of this class"


def _left_out(name: str, values: dict[str, float], class_names: tuple[str, ...]) -> str | None:
    if not name.startswith("macro/"):
        return None
    metric = name.removeprefix("macro/")
    counted = sum(not np.isnan(values[f"{metric}/{class_name}"]) for class_name in class_names)
    return None if counted == len(class_names) else f"mean over {counted} of {len(class_names)} classes"
