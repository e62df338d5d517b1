"""A comparison as one HTML file that needs nothing else, and as a table of numbers."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from medvision.comparison.compare import COSTS, Comparison
from medvision.metrics.definitions import METRICS, compared
from medvision.reports import comparison_plots as plots
from medvision.reports import comparison_text as text
from medvision.reports.pages import environment


def render(comparison: Comparison, metric: str, notes: Sequence[str], written: str) -> str:
    """The page.

    Args:
        comparison: what was found.
        metric: of the sentences and the plots; one of `medvision.metrics.definitions.compared`.
        notes: what a reader must keep in mind.
        written: date and version, for the foot.
    """
    filled = environment()
    filled.filters["minus"] = lambda said: said.replace(" -", " −").replace("(-", "(−")
    order = [metric, *(name for name in compared() if name != metric)]
    drawn = plots.drawn_pairs(comparison, metric)
    return filled.get_template("comparison.html.j2").render(
        comparison=comparison,
        cases=text.cases(comparison),
        level=f"{comparison.confidence_level:.0%}",
        metric=metric,
        metrics={name: METRICS[name] for name in order},
        models=[row for row in comparison.rows if not row.is_ensemble],
        best={name: _best(comparison, name) for name in compared()},
        headline=text.headline(comparison, metric),
        sentences=text.sentences(comparison, metric),
        notes=notes,
        method=list(text.method(comparison)),
        cares=_cares(comparison),
        values=plots.values_svg(comparison, metric),
        differences=plots.differences_svg(comparison, metric) if drawn else None,
        hidden=len(comparison.pairs) - len(drawn),
        costs=COSTS,
        cost_text=text.cost,
        value_text=text.value_text,
        p_text=_p_text,
        scaled=text.scaled,
        written=written,
    )


def table(comparison: Comparison) -> pd.DataFrame:
    """Every number in a line of its own.

    Columns: `model`, `compared_with` (empty for a model's own numbers), `metric`, `value`, `low`, `high`, `n`, and for
    differences `p`, `p_holm`, `test`. A standard deviation between runs is the metric `<metric>/sd_seeds` or
    `<metric>/sd_folds`; costs have no interval.
    """
    lines: list[dict[str, Any]] = []
    for row in comparison.rows:
        for name, one in row.estimates.items():
            numbers = {"value": one.value, "low": one.low, "high": one.high, "n": one.n}
            lines.append({"model": row.name, "metric": name} | numbers)
        for unit, spreads in (("seeds", row.over_seeds), ("folds", row.over_folds)):
            for name, spread in spreads.items():
                common = {"model": row.name, "n": len(spread.values)}
                mean = {"metric": f"{name}/mean_{unit}", "value": spread.mean, "low": spread.low, "high": spread.high}
                lines.append(common | mean)
                lines.append(common | {"metric": f"{name}/sd_{unit}", "value": spread.standard_deviation})
        lines += [{"model": row.name, "metric": name, "value": value} for name, value in row.cost.items()]
    for pair in comparison.pairs:
        for name, difference in pair.differences.items():
            found = {key: value for key, value in vars(difference).items() if key != "distinguishable"}
            common = {"model": pair.first, "compared_with": pair.second, "metric": name, "n": comparison.n}
            lines.append(common | found)
    columns = ["model", "compared_with", "metric", "value", "low", "high", "n", "p", "p_holm", "test"]
    return pd.DataFrame(lines).reindex(columns=columns)


def _cares(comparison: Comparison) -> dict[str, list[str]]:
    """Why intervals are to be taken with care, or values are undefined: each reason with whose they are."""
    found: dict[str, list[str]] = {}
    for row in comparison.rows:
        for name, one in row.estimates.items():
            for reason in filter(None, (one.reason, one.caution)):
                found.setdefault(reason, []).append(f"{row.name}, {METRICS[name].phrase}")
    return found


def _best(comparison: Comparison, metric: str) -> set[str]:
    """The models that share the best value."""
    known = {row.name: row.estimates[metric].value for row in comparison.rows}
    values = [value for value in known.values() if value is not None]
    if len(values) < 2:
        return set()
    top = min(values) if METRICS[metric].lower_is_better else max(values)
    return {name for name, value in known.items() if value == top}


def _p_text(p: float | None) -> str:
    """A p-value as text.

    >>> _p_text(0.0312), _p_text(0.00001), _p_text(None)
    ('0.031', '< 0.001', '')
    """
    if p is None:
        return ""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
