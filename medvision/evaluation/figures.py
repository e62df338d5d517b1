"""Which drawings the report has, and what each shows in words."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from medvision.evaluation import curves, plots
from medvision.evaluation.calibration import reliability
from medvision.evaluation.operating_point import positive_scores, positive_truth
from medvision.evaluation.plots import Line
from medvision.evaluation.predictions import Predictions, softmax
from medvision.evaluation.svg import to_svg
from medvision.evaluation.tables import MANY_CLASSES
from medvision.evaluation.verdict import Estimate
from medvision.evaluation.wording import number, plural

ROBUSTNESS = {
    "noise": "noise",
    "blur": "blur",
    "contrast": "contrast",
    "jpeg": "JPEG compression",
    "rotation": "rotation",
}
STRENGTHS = range(1, 6)
_COLOURED = 6  # curves with a colour of their own
_EMPHASISED = 3  # those of the classes told worst, where there are more than that


class Figure(NamedTuple):
    """A drawing and its caption."""

    svg: Markup
    caption: str


def draw_all(
    predictions: Predictions,
    facts: Mapping[str, Any],
    estimates: Mapping[str, Estimate],
    rows: Sequence[Mapping[str, float]],
    part: str,
) -> dict[str, Figure]:
    """Every drawing that there are numbers for, by name."""
    point = facts.get("operating_point")
    drawn = {
        "roc": _ranked(predictions, estimates, part, point),
        "precision-recall": _precision_recall(predictions, estimates, part),
        "reliability": _reliability(predictions, facts),
        "probabilities": _probabilities(predictions),
        "risk-coverage": _risk_coverage(predictions),
    }
    if point is not None and (benefit := _net_benefit(predictions, point)) is not None:
        drawn["net-benefit"] = benefit
    if len(predictions.class_names) > MANY_CLASSES:
        drawn["confusion"] = _confusion(predictions)
    if any(f"{part}/robustness/{kind}/1/accuracy" in estimates for kind in ROBUSTNESS):
        drawn["robustness"] = _robustness(estimates, part)
    return drawn | _learning(rows)


def _figure(name: str, draw: Callable[[Axes], Axes], caption: str, size: tuple[float, float] = (4.4, 3.9)) -> Figure:
    return Figure(to_svg(draw, name, caption, size), caption)


def _order(
    predictions: Predictions, estimates: Mapping[str, Estimate], part: str, metric: str
) -> tuple[list[int], int]:
    """Classes to draw, those with a colour first, and how many of the last are to stay faint."""
    sizes = np.bincount(predictions.targets, minlength=len(predictions.class_names))
    drawable = [c for c, size in enumerate(sizes) if 0 < size < len(predictions.targets)]
    if len(sizes) == 2:  # both curves say the same; the second class is the finding by custom
        drawable = drawable[-1:]
    if len(drawable) <= _COLOURED:
        return drawable, 0

    def told(c: int) -> float:
        e = estimates.get(f"{part}/{metric}/{predictions.class_names[c]}")
        return 1.0 if e is None or e.value is None else e.value

    return sorted(drawable, key=lambda c: (told(c), c)), len(drawable) - _EMPHASISED


def _named(predictions: Predictions, estimates: Mapping[str, Estimate], part: str, metric: str, c: int) -> str:
    e = estimates.get(f"{part}/{metric}/{predictions.class_names[c]}")
    name = plots.short(predictions.class_names[c])
    return name if e is None or e.value is None else f"{name}  {number(e.value)}"


def _place(specificity: float | None, sensitivity: float | None) -> tuple[float, float] | None:
    return None if specificity is None or sensitivity is None else (1 - specificity, sensitivity)


def _ranked(
    predictions: Predictions, estimates: Mapping[str, Estimate], part: str, point: Mapping[str, Any] | None
) -> Figure:
    classes, faint = _order(predictions, estimates, part, "auroc")
    lines = []
    for c in classes:
        curve = curves.roc(predictions.probs[:, c], predictions.targets == c)
        name = _named(predictions, estimates, part, "auroc", c)
        lines.append(Line(name, curve.false_positive_rate, curve.true_positive_rate))
    place = None
    if point is not None and list(point["positive"]) == [predictions.class_names[c] for c in classes]:
        specificity, sensitivity = (
            estimates.get(f"{part}/operating_point/{name}") for name in ("specificity", "sensitivity")
        )
        if specificity is not None and sensitivity is not None:
            place = _place(specificity.value, sensitivity.value)
    caption = "ROC curves: each class against the rest, with its AUROC. The dotted diagonal is guessing."
    return _figure("roc", lambda ax: plots.draw_roc(lines, ax, point=place, faint=faint), caption)


def _precision_recall(predictions: Predictions, estimates: Mapping[str, Estimate], part: str) -> Figure:
    classes, faint = _order(predictions, estimates, part, "average_precision")
    lines = []
    for c in classes:
        curve = curves.precision_recall(predictions.probs[:, c], predictions.targets == c)
        lines.append(Line(_named(predictions, estimates, part, "average_precision", c), curve.recall, curve.precision))
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
        "Reliability: how often the named class was right, against the probability it was given. On the dotted line a "
        "stated 80 % is right 8 times in 10; below it the model is too sure. Larger dots hold more images."
    )
    return _figure("reliability", partial(plots.draw_reliability, diagrams), caption)


def _probabilities(predictions: Predictions) -> Figure:
    histogram = curves.histogram(predictions.probs.max(axis=1), predictions.preds == predictions.targets)
    caption = "Probabilities of the named class, for images that were named rightly and wrongly."
    return _figure("probabilities", partial(plots.draw_histogram, histogram, ("right", "wrong")), caption)


def _risk_coverage(predictions: Predictions) -> Figure:
    curve = curves.risk_coverage(predictions)
    caption = "Risk and coverage: the error rate when only the surest images are answered and the rest go to a reader."
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
        "Decision curve: the net benefit of acting on the model, where the threshold is the probability from which one "
        f"would act, at {among}. The model is worth using where its line is the highest."
    )
    draw = partial(plots.draw_decision_curve, curve, threshold=point["threshold"])
    return _figure("benefit", draw, caption)


def _confusion(predictions: Predictions) -> Figure:
    matrix = curves.confusion(predictions.targets, predictions.preds, len(predictions.class_names))
    k = len(predictions.class_names)
    caption = f"Confusion matrix of {plural(k, 'class')}: shares of each true class, brighter for more."
    return _figure("confusion", partial(plots.draw_confusion, matrix), caption)


def _robustness(estimates: Mapping[str, Estimate], part: str) -> Figure:
    lines = []
    for kind, name in ROBUSTNESS.items():
        found = [(strength, estimates.get(f"{part}/robustness/{kind}/{strength}/accuracy")) for strength in STRENGTHS]
        known = [(strength, e.value) for strength, e in found if e is not None and e.value is not None]
        if known:
            lines.append(Line(name, *np.array(known, dtype=np.float64).T))
    whole = estimates.get(f"{part}/accuracy")
    level = None if whole is None or whole.value is None else Line("undisturbed", np.zeros(1), np.array([whole.value]))
    caption = "Accuracy on disturbed images, at five strengths of each disturbance."
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
