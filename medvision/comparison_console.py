"""What the terminal shows of a comparison."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from medvision.evaluation.comparison import COSTS, Comparison
from medvision.evaluation.comparison_text import cases, cost, sentences
from medvision.evaluation.shared_resamples import METRICS

_SENTENCES = 15  # the page has all


def show(console: Console, comparison: Comparison, metric: str, notes: Sequence[str]) -> None:
    """Print the table, a sentence for each pair, and what to keep in mind."""
    level = f"{comparison.confidence_level:.0%}"
    table = Table(title=Text(f"Comparison on {cases(comparison)}"), title_justify="left", title_style="bold")
    table.add_column("model", overflow="fold")
    shown = list(dict.fromkeys([metric, "accuracy", "macro/auroc"]))
    for name in shown:
        table.add_column(f"{METRICS[name].title} ({level})", justify="right")
    costs = ("seconds_fit", "size_bytes")
    for name in costs:
        table.add_column(COSTS[name], justify="right")
    for row in comparison.rows:
        numbers = []
        for name in shown:
            one = row.estimates[name]
            known = one.low is not None and one.high is not None
            numbers.append(f"{one.value:.4f} ({one.low:.4f} to {one.high:.4f})" if known else "undefined")
        paid = [cost(name, row.cost.get(name)) for name in costs]
        seeds = f"{row.name}, mean of {row.seeds} seeds" if row.seeds > 1 and not row.is_ensemble else row.name
        table.add_row(Text(seeds), *numbers, *paid)
    console.print(table)
    said = sentences(comparison, metric)
    for pair, text in said[:_SENTENCES]:
        style = "bold" if pair.differences[metric].distinguishable else ""
        console.print(Text(text, style), soft_wrap=True)
    if len(said) > _SENTENCES:
        console.print(f"... and {len(said) - _SENTENCES} more pairs on the page")
    for note in notes:
        console.print(Text(f"note: {note}", "yellow"), soft_wrap=True)
