"""The tables of the report: rows of estimates, each with its interval, its n and its footnotes."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from medvision.evaluation.curves import Confusion
from medvision.evaluation.predictions import Predictions
from medvision.evaluation.subgroups import MIN_CASES
from medvision.evaluation.verdict import Estimate
from medvision.evaluation.wording import METRICS, Metric, Shown, count, show

# More classes than this are shown by their extremes, with the whole table folded away.
MANY_CLASSES = 12
EXTREMES = 10

FACTS = (
    *("title", "kind", "written", "command", "config", "seed", "confidence_level", "n_resamples", "data", "quarantine"),
    *("environment", "seconds", "model", "calibration", "operating_point", "conformal", "cam", "robustness", "probes"),
    "notes",
)
"""What the report and the model card are told of a run; null where it is not known."""

HEADLINE = (
    "accuracy",
    "balanced_accuracy",
    "macro/auroc",
    "macro/average_precision",
    "macro/f1",
    "macro/precision",
    "macro/specificity",
    "macro/npv",
    "mcc",
    "kappa",
    "kappa_quadratic",
    "top_2",
    "top_3",
    "top_5",
)
PER_CLASS = ("recall", "specificity", "precision", "npv", "f1", "auroc", "average_precision")
CALIBRATION = ("calibration_slope", "calibration_intercept", "ece", "brier", "log_loss")
OPERATING_POINT = (
    "sensitivity",
    "specificity",
    "ppv",
    "npv",
    "accuracy",
    "ppv_at_prevalence",
    "npv_at_prevalence",
)
SUBGROUP = ("accuracy", "balanced_accuracy", "macro/auroc")
SELECTIVE = ("accuracy_at_95", "accuracy_at_90", "accuracy_at_80", "aurc")


class Row(NamedTuple):
    """A row: what it is about, a word of explanation, and its cells (None: nothing to show)."""

    head: str
    under: str
    cells: Sequence[Shown | str | None]


@dataclass
class Table:
    """A table on its way to the page.

    Attributes:
        id: unique in the page.
        caption: what it shows.
        columns: heads of the columns, that of the row heads first.
        rows: filled by `add`.
        notes: footnotes; an estimate's mark is the place of its remarks in this list, from 1.
        wide: whether cells have an interval bar of their own, one estimate a row.
    """

    id: str
    caption: str
    columns: Sequence[str]
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    wide: bool = False

    def add(self, head: str, cells: Iterable[Shown | str | None], under: str = "") -> None:
        """Append a row, its remarks as footnotes."""
        self.rows.append(Row(head, under, [self._marked(cell) for cell in cells]))

    def _marked(self, cell: Shown | str | None) -> Shown | str | None:
        if not isinstance(cell, Shown) or not cell.remarks:
            return cell
        text = "; ".join(cell.remarks)
        if text not in self.notes:
            self.notes.append(text)
        return dataclasses.replace(cell, mark=self.notes.index(text) + 1)


def listing(
    id: str, caption: str, estimates: Mapping[str, Estimate], prefix: str, names: Iterable[str]
) -> Table | None:
    """One estimate a row, those that exist; None where none does."""
    table = Table(id, caption, ("Measure", "Value", "Interval", "n"), wide=True)
    for name in names:
        metric = METRICS[name]
        if shown := _shown(estimates, f"{prefix}/{name}", metric):
            table.add(metric.label, [shown], metric.meaning)
    return table if table.rows else None


def side_by_side(
    id: str,
    caption: str,
    estimates: Mapping[str, Estimate],
    prefixes: Mapping[str, str],
    names: Iterable[str],
) -> Table | None:
    """The same measures under several conditions, a column each.

    Args:
        id: of the table.
        caption: of the table.
        estimates: by name.
        prefixes: head of a column to the prefix of its estimates.
        names: of the measures.

    Returns:
        None where no measure is known under the first condition.
    """
    table = Table(id, caption, ("Measure", *prefixes))
    for name in names:
        metric = METRICS[name]
        cells = [_shown(estimates, f"{prefix}/{name}", metric) for prefix in prefixes.values()]
        if cells[0] is not None:
            table.add(metric.label, cells, metric.meaning)
    return table if table.rows else None


def per_class(predictions: Predictions, estimates: Mapping[str, Estimate], part: str) -> list[Table]:
    """Every measure of every class; where classes are many, first those that are found least."""
    sizes = np.bincount(predictions.targets, minlength=len(predictions.class_names))
    columns = ("Class", "Images", *(METRICS[name].label for name in PER_CLASS))

    def filled(id: str, caption: str, rows: Iterable[int]) -> Table:
        table = Table(id, caption, columns)
        for c in rows:
            name = predictions.class_names[c]
            cells = [_shown(estimates, f"{part}/{metric}/{name}", METRICS[metric]) for metric in PER_CLASS]
            table.add(name, [count(sizes[c]), *cells])
        return table

    everything = filled("per-class-all", "Every class against the others.", range(len(sizes)))
    if len(sizes) <= MANY_CLASSES:
        return [everything]
    recalls = [estimates.get(f"{part}/recall/{name}") for name in predictions.class_names]
    known = [c for c, e in enumerate(recalls) if e is not None and e.value is not None]
    worst = sorted(known, key=lambda c: (recalls[c].value, c))[:EXTREMES]  # type: ignore[union-attr]
    first = filled("per-class", f"The {len(worst)} classes of {len(sizes)} that were recognised least.", worst)
    return [first, everything]


def subgroups(estimates: Mapping[str, Estimate], part: str, level: str) -> list[tuple[float, Table]]:
    """A table for each column of the metadata, the widest gap in accuracy first.

    Args:
        estimates: all of metrics.json.
        part: how their names begin.
        level: the confidence level in words.

    Returns:
        Gap between subgroups of enough cases to be compared, in [0, 1], and table.
    """
    columns: dict[str, dict[str, None]] = {}
    for name in estimates:
        if name.startswith(f"{part}/subgroup/"):
            # Neither column nor value has a slash; see `medvision.evaluation.subgroups`.
            _, _, column, value, _ = name.split("/", 4)
            columns.setdefault(column, {})[value] = None
    found = []
    for number, (column, values) in enumerate(columns.items()):
        caption, gap = f"By {column}.", estimates.get(f"{part}/subgroup_gap/{column}/accuracy")
        if gap is not None:
            caption += f" The widest gap in accuracy is {_points(gap, level)}."
        table = Table(f"subgroup-{number}", caption, (column, "Images", *(METRICS[m].label for m in SUBGROUP)))
        compared = []
        for value in values:
            names = [f"{part}/subgroup/{column}/{value}/{metric}" for metric in SUBGROUP]
            cells = [_shown(estimates, name, METRICS[metric]) for name, metric in zip(names, SUBGROUP, strict=True)]
            accuracy = cells[0]
            table.add(value, [None if accuracy is None else count(accuracy.n), *cells])
            if accuracy is not None and accuracy.exact is not None and accuracy.n >= MIN_CASES:
                compared.append(accuracy.exact)
        found.append((max(compared, default=0.0) - min(compared, default=0.0), table))
    return sorted(found, key=lambda pair: -pair[0])


def _points(gap: Estimate, level: str) -> str:
    value, low, high = (
        f"{100 * (end or 0):.1f}".replace("-", "\N{MINUS SIGN}") for end in (gap.value, gap.low, gap.high)
    )
    return f"{value} points ({level} interval {low} to {high})"


def prefixed(
    id: str,
    caption: str,
    head: str,
    estimates: Mapping[str, Estimate],
    prefix: str,
    keys: Iterable[str],
    metric: Metric,
) -> Table | None:
    """One estimate a row, of things with names of their own: classes, probes."""
    table = Table(id, caption, (head, "Value", "Interval", "n"), wide=True)
    for key in keys:
        if shown := _shown(estimates, f"{prefix}/{key}", metric):
            table.add(key, [shown])
    return table if table.rows else None


def characteristics(predictions: Predictions, facts: Mapping[str, Any], part: str) -> Table:
    """Images of each class in each split."""
    data = facts.get("data") or {}
    splits = dict(data.get("per_class") or {})
    names = data.get("class_names") or predictions.class_names
    if tuple(names) != predictions.class_names or part not in splits:
        splits[part] = np.bincount(predictions.targets, minlength=len(predictions.class_names)).tolist()
    splits = {split: sizes for split, sizes in splits.items() if len(sizes) == len(predictions.class_names)}
    table = Table("characteristics", "Images of each class in each split.", ("Class", *splits))
    totals = {split: max(1, sum(sizes)) for split, sizes in splits.items()}
    for c, name in enumerate(predictions.class_names):
        table.add(name, [f"{count(sizes[c])} ({100 * sizes[c] / totals[s]:.0f}\u00a0%)" for s, sizes in splits.items()])
    table.add("All", [count(sum(sizes)) for sizes in splits.values()])
    return table


def confusions(predictions: Predictions, matrix: Confusion) -> Table:
    """The confusions that happened most."""
    wrong, names = matrix.counts.copy(), predictions.class_names
    np.fill_diagonal(wrong, 0)
    table = Table("confusions", "The most frequent confusions.", ("True class", "Named as", "Images", "Of the class"))
    for place in np.argsort(-wrong, axis=None, kind="stable")[: EXTREMES + 5].tolist():
        true, named = divmod(place, len(names))
        if wrong[true, named]:
            share = f"{100 * matrix.rates[true, named]:.1f}\u00a0%"
            table.add(names[true], [names[named], count(wrong[true, named]), share])
    return table


def _shown(estimates: Mapping[str, Estimate], name: str, metric: Metric) -> Shown | None:
    estimate = estimates.get(name)
    return None if estimate is None else show(name, estimate, metric)
