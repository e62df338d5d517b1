"""What the terminal shows of a comparison."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from medvision.evaluation.comparison import Comparison
from medvision.evaluation.comparison_text import cases, cost, sentences, tell
from medvision.evaluation.shared_resamples import METRICS

_SENTENCES = 15  # the page has all


def show(console: Console, comparison: Comparison, metric: str, notes: Sequence[str]) -> None:
    """Print the table, a sentence for each pair, and what to keep in mind."""
    title = f"Comparison on {cases(comparison)}, {comparison.confidence_level:.0%} intervals"
    table = Table(title=Text(title), title_justify="left", title_style="bold")
    table.add_column("model", overflow="fold")
    shown = list(dict.fromkeys([metric, "accuracy", "macro/auroc"]))
    for name in shown:
        table.add_column(METRICS[name].title + (", %" if METRICS[name].bounded else ""), justify="right")
    costs = {"seconds_fit": "training", "size_bytes": "size"}
    for title in costs.values():
        table.add_column(title, justify="right")
    for row in comparison.rows:
        numbers = []
        for name in shown:
            one = row.estimates[name]
            interval = f" ({tell(name, one.low)} to {tell(name, one.high)})" if one.value is not None else ""
            numbers.append(tell(name, one.value) + interval)
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
