"""The tables of the report: rows of estimates, each with its interval, its n and its footnotes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from medvision.metrics.curves import Confusion
from medvision.metrics.definitions import METRICS, section
from medvision.metrics.estimates import Estimate, Key, selected
from medvision.metrics.predictions import Predictions
from medvision.metrics.subgroups import MIN_CASES
from medvision.reports.wording import Shown, count, shown

# More classes than this are shown by their extremes, with the whole table folded away.
MANY_CLASSES = 12
EXTREMES = 10

FACTS = (
    *("title", "kind", "written", "command", "config", "seed", "confidence_level", "n_resamples", "data", "quarantine"),
    *("environment", "seconds", "model", "calibration", "operating_point", "conformal", "cam", "robustness"),
    *("negative_controls", "notes"),
)
"""What the report and the model card say of a run; None where it is not known."""

OPERATING_POINT = (
    "sensitivity",
    "specificity",
    "ppv",
    "npv",
    "accuracy",
    "ppv_at_prevalence",
    "npv_at_prevalence",
)
SUBGROUP = ("accuracy", "balanced_accuracy", "macro_auroc")
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
        return replace(cell, mark=self.notes.index(text) + 1)


def listing(id: str, caption: str, estimates: Mapping[Key, Estimate], names: Iterable[str], of: Key) -> Table | None:
    """One estimate a row.

    Args:
        id: of the table.
        caption: of the table.
        estimates: all there are.
        names: of the metrics; those without an estimate have no row.
        of: the key of each estimate, but for its metric.

    Returns:
        None where there is no estimate.
    """
    table = Table(id, caption, ("Measure", "Value", "Interval", "n"), wide=True)
    for name in names:
        if (cell := shown(estimates, replace(of, metric=name))) is not None:
            table.add(METRICS[name].label, [cell], METRICS[name].meaning)
    return table if table.rows else None


def side_by_side(
    id: str, caption: str, estimates: Mapping[Key, Estimate], names: Iterable[str], columns: Mapping[str, Key]
) -> Table | None:
    """The same metrics under several conditions, a column each.

    Args:
        id: of the table.
        caption: of the table.
        estimates: all there are.
        names: of the metrics.
        columns: head of a column to the key of its estimates, but for their metric.

    Returns:
        None where no metric is known under the first condition.
    """
    table = Table(id, caption, ("Measure", *columns))
    for name in names:
        cells = [shown(estimates, replace(of, metric=name)) for of in columns.values()]
        if cells[0] is not None:
            table.add(METRICS[name].label, cells, METRICS[name].meaning)
    return table if table.rows else None


def per_class(predictions: Predictions, estimates: Mapping[Key, Estimate], split: str) -> list[Table]:
    """Every metric of every class; where classes are many, first those with the lowest sensitivity."""
    names = predictions.class_names
    sizes = np.bincount(predictions.targets, minlength=len(names))
    metrics = section("classes")
    columns = ("Class", "Images", *(METRICS[metric].label for metric in metrics))

    def filled(id: str, caption: str, rows: Iterable[int]) -> Table:
        table = Table(id, caption, columns)
        for c in rows:
            cells = [shown(estimates, Key(metric, names[c], split=split)) for metric in metrics]
            table.add(names[c], [count(sizes[c]), *cells])
        return table

    everything = filled("per-class-all", "Every class against the others.", range(len(sizes)))
    if len(sizes) <= MANY_CLASSES:
        return [everything]
    known = {}
    for c, name in enumerate(names):
        estimate = estimates.get(Key("sensitivity", name, split=split))
        if estimate is not None and estimate.value is not None:
            known[c] = estimate.value
    worst = sorted(known, key=lambda c: (known[c], c))[:EXTREMES]
    first = filled("per-class", f"The {len(worst)} classes of {len(sizes)} with the lowest sensitivity.", worst)
    return [first, everything]


def subgroups(estimates: Mapping[Key, Estimate], split: str, level: str) -> list[tuple[float, Table]]:
    """A table for each column of the metadata, the widest gap in accuracy first.

    Args:
        estimates: all there are.
        split: whose subgroups.
        level: the confidence level in words.

    Returns:
        Gap between subgroups of enough cases to be compared, in [0, 1], and table.
    """
    columns: dict[str, dict[str, None]] = {}
    for key in selected(estimates, split=split, section="subgroups"):
        column, value = key.names
        columns.setdefault(column, {})[value] = None
    found = []
    for place, (column, values) in enumerate(columns.items()):
        caption = f"By {column}."
        gap = estimates.get(Key("accuracy", section="subgroup_gaps", names=(column,), split=split))
        if gap is not None:
            caption += f" The widest gap in accuracy is {_points(gap, level)}."
        table = Table(f"subgroup-{place}", caption, (column, "Images", *(METRICS[name].label for name in SUBGROUP)))
        compared = []
        for value in values:
            of = Key("", section="subgroups", names=(column, value), split=split)
            cells = [shown(estimates, replace(of, metric=metric)) for metric in SUBGROUP]
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


def by_name(
    id: str, caption: str, head: str, estimates: Mapping[Key, Estimate], keys: Mapping[str, Key]
) -> Table | None:
    """One estimate a row, of things with names of their own, such as classes; None where there is none."""
    table = Table(id, caption, (head, "Value", "Interval", "n"), wide=True)
    for name, key in keys.items():
        if (cell := shown(estimates, key)) is not None:
            table.add(name, [cell])
    return table if table.rows else None


def characteristics(predictions: Predictions, facts: Mapping[str, Any], split: str) -> Table:
    """Images of each class in each split."""
    data = facts.get("data") or {}
    splits = dict(data.get("per_class") or {})
    names = data.get("class_names") or predictions.class_names
    if tuple(names) != predictions.class_names or split not in splits:
        splits[split] = np.bincount(predictions.targets, minlength=len(predictions.class_names)).tolist()
    splits = {name: sizes for name, sizes in splits.items() if len(sizes) == len(predictions.class_names)}
    table = Table("characteristics", "Images of each class in each split.", ("Class", *splits))
    totals = {name: max(1, sum(sizes)) for name, sizes in splits.items()}
    for c, name in enumerate(predictions.class_names):
        table.add(name, [f"{count(sizes[c])} ({100 * sizes[c] / totals[s]:.0f}\u00a0%)" for s, sizes in splits.items()])
    table.add("All", [count(sum(sizes)) for sizes in splits.values()])
    return table


def confusions(predictions: Predictions, matrix: Confusion) -> Table:
    """The most frequent confusions."""
    wrong, names = matrix.counts.copy(), predictions.class_names
    np.fill_diagonal(wrong, 0)
    table = Table(
        "confusions", "The most frequent confusions.", ("True class", "Predicted class", "Images", "Of the class")
    )
    for place in np.argsort(-wrong, axis=None, kind="stable")[: EXTREMES + 5].tolist():
        true, named = divmod(place, len(names))
        if wrong[true, named]:
            share = f"{100 * matrix.rates[true, named]:.1f}\u00a0%"
            table.add(names[true], [names[named], count(wrong[true, named]), share])
    return table
