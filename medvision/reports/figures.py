"""The figures of the report, each with its caption."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from sklearn.metrics import precision_recall_curve, roc_curve

from medvision.metrics import curves
from medvision.metrics.calibration import reliability
from medvision.metrics.estimates import Estimate, Key, selected
from medvision.metrics.operating_point import positive_scores, positive_truth
from medvision.metrics.predictions import Predictions, softmax
from medvision.metrics.selective import RiskCoverage, risk_coverage
from medvision.reports import plots
from medvision.reports.plots import Line, to_svg
from medvision.reports.tables import MANY_CLASSES
from medvision.reports.wording import number, plural

ROBUSTNESS = {
    "noise": "noise",
    "blur": "blur",
    "contrast": "contrast",
    "jpeg": "JPEG compression",
    "rotation": "rotation",
}
STRENGTHS = range(1, 6)
_POINTS = 500  # of a curve with a filled area, which matplotlib does not simplify
_COLOURED = 6  # curves with a colour of their own
_EMPHASISED = 3  # those of the classes with the lowest values, where there are more than that


class Figure(NamedTuple):
    """A drawing and its caption."""

    svg: Markup
    caption: str


def draw_all(
    predictions: Predictions,
    facts: Mapping[str, Any],
    estimates: Mapping[Key, Estimate],
    rows: Sequence[Mapping[str, float]],
    split: str,
) -> dict[str, Figure]:
    """Every drawing that there are numbers for, by name."""
    point = facts.get("operating_point")
    drawn = {
        "roc": _ranked(predictions, estimates, split, point),
        "precision-recall": _precision_recall(predictions, estimates, split),
        "reliability": _reliability(predictions, facts),
        "probabilities": _probabilities(predictions),
        "risk-coverage": _risk_coverage(predictions),
    }
    if point is not None and (benefit := _net_benefit(predictions, point)) is not None:
        drawn["net-benefit"] = benefit
    if len(predictions.class_names) > MANY_CLASSES:
        drawn["confusion"] = _confusion(predictions)
    if selected(estimates, split=split, section="robustness"):
        drawn["robustness"] = _robustness(estimates, split)
    return drawn | _learning(rows)


def _figure(name: str, draw: Callable[[Axes], Axes], caption: str, size: tuple[float, float] = (4.4, 3.9)) -> Figure:
    return Figure(to_svg(draw, name, caption, size), caption)


def _order(
    predictions: Predictions, estimates: Mapping[Key, Estimate], split: str, metric: str
) -> tuple[list[int], int]:
    """Classes to draw, those with a colour first, and how many of the last are to stay faint."""
    sizes = np.bincount(predictions.targets, minlength=len(predictions.class_names))
    drawable = [c for c, size in enumerate(sizes) if 0 < size < len(predictions.targets)]
    if len(sizes) == 2:  # both curves say the same; the second class is the finding by custom
        drawable = drawable[-1:]
    if len(drawable) <= _COLOURED:
        return drawable, 0

    def value(c: int) -> float:
        e = estimates.get(Key(metric, predictions.class_names[c], split=split))
        return 1.0 if e is None or e.value is None else e.value

    return sorted(drawable, key=lambda c: (value(c), c)), len(drawable) - _EMPHASISED


def _named(predictions: Predictions, estimates: Mapping[Key, Estimate], split: str, metric: str, c: int) -> str:
    e = estimates.get(Key(metric, predictions.class_names[c], split=split))
    name = plots.short(predictions.class_names[c])
    return name if e is None or e.value is None else f"{name}  {number(e.value)}"


def _place(specificity: float | None, sensitivity: float | None) -> tuple[float, float] | None:
    return None if specificity is None or sensitivity is None else (1 - specificity, sensitivity)


def _ranked(
    predictions: Predictions, estimates: Mapping[Key, Estimate], split: str, point: Mapping[str, Any] | None
) -> Figure:
    classes, faint = _order(predictions, estimates, split, "auroc")
    lines = []
    for c in classes:
        false_alarms, sensitivities, _ = roc_curve(predictions.targets == c, predictions.probs[:, c])
        name = _named(predictions, estimates, split, "auroc", c)
        lines.append(Line(name, false_alarms, sensitivities))
    place = None
    if point is not None and list(point["positive"]) == [predictions.class_names[c] for c in classes]:
        specificity, sensitivity = (
            estimates.get(Key(name, section="operating_point", split=split)) for name in ("specificity", "sensitivity")
        )
        if specificity is not None and sensitivity is not None:
            place = _place(specificity.value, sensitivity.value)
    caption = "ROC curves: each class against the rest, with its AUROC. The dotted diagonal is chance."
    return _figure("roc", lambda ax: plots.draw_roc(lines, ax, point=place, faint=faint), caption)


def _precision_recall(predictions: Predictions, estimates: Mapping[Key, Estimate], split: str) -> Figure:
    classes, faint = _order(predictions, estimates, split, "average_precision")
    lines = []
    for c in classes:
        ppv, sensitivity, _ = precision_recall_curve(predictions.targets == c, predictions.probs[:, c])
        # Its last point, where nothing is called positive, has no PPV.
        name = _named(predictions, estimates, split, "average_precision", c)
        lines.append(Line(name, sensitivity[-2::-1], ppv[-2::-1]))
    caption = "Precision-recall curves with the average precision. PPV depends on how frequent a class is here."
    return _figure("pr", lambda ax: plots.draw_precision_recall(lines, ax, faint=faint), caption)


def _reliability(predictions: Predictions, facts: Mapping[str, Any]) -> Figure:
    level = facts.get("confidence_level") or 0.95
    n_bins = 10 if len(predictions.ids) < 1000 else 15
    after = reliability(predictions.probs, predictions.targets, n_bins, level)
    diagrams = {"as reported": after}
    if facts.get("calibration") is not None:
        before = softmax(predictions.logits)
        diagrams["before calibration"] = reliability(before, predictions.targets, n_bins, level)
    caption = (
        "Reliability: how often the predicted class was right, against its probability. On the dotted line a stated "
        "80 % is right 8 times in 10; below it the model is overconfident. Larger dots stand for more images."
    )
    return _figure("reliability", partial(plots.draw_reliability, diagrams), caption)


def _probabilities(predictions: Predictions) -> Figure:
    histogram = curves.histogram(predictions.probs.max(axis=1), predictions.preds == predictions.targets)
    caption = "Probabilities of the predicted class, for images classified correctly and wrongly."
    return _figure("probabilities", partial(plots.draw_histogram, histogram, ("right", "wrong")), caption)


def _risk_coverage(predictions: Predictions) -> Figure:
    curve = risk_coverage(predictions)
    shares = np.linspace(curve.coverage[0], 1, _POINTS)
    curve = RiskCoverage(shares, np.interp(shares, *curve))
    caption = (
        "Risk and coverage: the error rate when only the most confident images are answered and the others are left "
        "to a human reader."
    )
    return _figure("risk", partial(plots.draw_risk_coverage, curve), caption)


def _net_benefit(predictions: Predictions, point: Mapping[str, Any]) -> Figure | None:
    positive = positive_truth(predictions, point["positive"])
    if positive.all() or not positive.any():
        return None
    score = positive_scores(predictions.probs, predictions.class_names, point["positive"])
    stated = point.get("prevalence")
    curve = curves.decision_curve(score, positive, prevalence=stated)
    among = (
        "the share of positives in this test" if stated is None else f"the stated prevalence, {100 * stated:g}\u00a0%"
    )
    caption = (
        "Decision curve: the net benefit of acting on the model, against the probability from which one would act, "
        f"at {among}. Where its line is the highest, the model is better than acting on all images or on none."
    )
    draw = partial(plots.draw_decision_curve, curve, threshold=point["threshold"])
    return _figure("benefit", draw, caption)


def _confusion(predictions: Predictions) -> Figure:
    matrix = curves.confusion(predictions.targets, predictions.preds, len(predictions.class_names))
    k = len(predictions.class_names)
    caption = f"Confusion matrix of {plural(k, 'class')}: shares of each true class, brighter for more."
    return _figure("confusion", partial(plots.draw_confusion, matrix), caption)


def _robustness(estimates: Mapping[Key, Estimate], split: str) -> Figure:
    lines = []
    for kind, name in ROBUSTNESS.items():
        keys = {s: Key("accuracy", section="robustness", names=(kind, str(s)), split=split) for s in STRENGTHS}
        found = [(strength, estimates.get(key)) for strength, key in keys.items()]
        known = [(strength, e.value) for strength, e in found if e is not None and e.value is not None]
        if known:
            lines.append(Line(name, *np.array(known, dtype=np.float64).T))
    whole = estimates.get(Key("accuracy", split=split))
    level = (
        None if whole is None or whole.value is None else Line("original images", np.zeros(1), np.array([whole.value]))
    )
    caption = "Accuracy on corrupted images, at five strengths of each corruption."
    return _figure("robustness", lambda ax: plots.draw_lines(lines, ax, ("Strength", "Accuracy"), level=level), caption)


def _learning(rows: Sequence[Mapping[str, float]]) -> dict[str, Figure]:
    """A drawing for each measure that metrics.csv has of training or validation, in the order of its columns."""
    columns: dict[str, dict[str, Line]] = {}
    for key in rows[0] if rows else ():
        split, _, measure = key.partition("/")
        if split not in ("train", "val") or not measure:
            continue
        points = [(row["epoch"] + 1, row[key]) for row in rows if row.get(key) is not None and np.isfinite(row[key])]
        if points:
            name = {"train": "training", "val": "validation"}[split]
            columns.setdefault(measure, {})[name] = Line(name, *np.array(points, dtype=np.float64).T)
    return {
        f"learning-{place}": _figure(
            f"learning-{place}",
            partial(
                plots.draw_lines,
                [lines[name] for name in sorted(lines)],
                labels=("Epoch", {"auroc": "AUROC"}.get(measure, measure.capitalize())),
            ),
            f"{measure.capitalize() if measure != 'auroc' else 'AUROC'} by epoch.",
            (4.4, 3.0),
        )
        for place, (measure, lines) in enumerate(columns.items())
    }
