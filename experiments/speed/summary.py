"""The table and the picture of all benchmarks, made of the JSON in results/ and of nothing else.

Writes table.md and speed.png, and the table between the two markers in the README here and in docs/benchmarks.md. The
latter shows what a goal was set for.

    python experiments/speed/summary.py
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from measuring import RESULTS, figure, goal, ratio

from medvision.reports.plots import BLUE, DIM, INK, RULE, VERMILION

HERE = Path(__file__).parent
BEGIN, END = "<!-- benchmarks: written by experiments/speed/summary.py -->", "<!-- end of benchmarks -->"
NOTHING = "Nothing was measured yet: `make bench` does it.\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=HERE, help="folder of table.md and speed.png")
    readmes = (HERE / "README.md", HERE.parents[1] / "docs" / "benchmarks.md")
    parser.add_argument(
        "--readmes", type=Path, nargs=2, default=readmes, help="that of the benchmarks, and the page of the manual"
    )
    given = parser.parse_args(arguments)
    results = read(given.results)
    whole, headline = given.readmes
    (given.out / "table.md").write_text(table(results))
    whole.write_text(between(whole.read_text(), table(results) + pictures(results)))
    headline.write_text(between(headline.read_text(), table(results, goals_alone=True)))
    if results:
        FigureCanvasAgg(picture(results)).print_png(given.out / "speed.png")


def read(folder: Path) -> list[dict[str, Any]]:
    """All results, by name of their script; those of a tiny run are none."""
    found = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    return [result for result in found if not result["tiny"]]


def rows(results: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Every row with the result it is from: those with a goal first."""
    found = [(result, row) for result in results for row in result["rows"]]
    return sorted(found, key=lambda pair: pair[1]["goal"] is None)


def met(row: Mapping[str, Any]) -> bool:
    """Whether the median of the ratio meets the goal."""
    median = row["ratio"]["median"]
    return all(median >= limit if name == "at_least" else median <= limit for name, limit in row["goal"].items())


def table(results: Sequence[Mapping[str, Any]], *, goals_alone: bool = False) -> str:
    """The rows as a Markdown table, with machine and dates under it."""
    chosen = [(result, row) for result, row in rows(results) if row["goal"] or not goals_alone]
    if not chosen:
        return NOTHING
    lines = ["| what | medvision | against | ratio | goal | command |", "|---|---|---|---|---|---|"]
    for result, row in chosen:
        peer = f"{row['peer']['name']}: {figure(row['peer']['median'], row['unit'])}"
        verdict = f"{goal(row)}: {'met' if met(row) else '**not met**'}" if row["goal"] else ""
        cells = row["claim"], figure(row["ours"]["median"], row["unit"]), peer, ratio(row), verdict
        lines.append(f"| {' | '.join(cells)} | `{result['command']}` |")
    return "\n".join(lines) + "\n\n" + circumstances([result for result, _ in chosen])


def pictures(results: Sequence[Mapping[str, Any]]) -> str:
    """The pictures there are, for the README beside them."""
    names = {"speed.png": bool(results), "results/scaling.png": any("scaling.py" in one["command"] for one in results)}
    return "".join(f"\n![{Path(name).stem}]({name})\n" for name, there in names.items() if there)


def circumstances(results: Sequence[Mapping[str, Any]]) -> str:
    """When and on what it was measured: a sentence for each machine."""
    dates: dict[str, set[str]] = {}
    for result in results:
        facts = result["machine"]
        versions = ", ".join(f"{name} {facts['versions'][name]}" for name in ("torch", "lightning", "torchvision"))
        place = f"{facts['processor']}, cores: {facts['cores']}, threads: {facts['threads']}, {versions}"
        dates.setdefault(place, set()).add(result["measured"])
    sentences = [f"{', '.join(sorted(days))}: {place}." for place, days in dates.items()]
    return "Medians over the rounds, in brackets the range of the ratio. Measured " + " ".join(sentences) + "\n"


def between(text: str, new: str) -> str:
    """The text with what stands between the markers replaced.

    Raises:
        ValueError: if a marker is not there exactly once.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in after:
        raise ValueError(f"One {BEGIN} and, after it, one {END} expected.")
    return f"{before}{BEGIN}\n\n{new}\n{END}{after}"


def picture(results: Sequence[Mapping[str, Any]]) -> Figure:
    """All ratios with their range, on logarithmic scales: speed, shares of the peer's figure, shares of a limit."""
    several = [row for _, row in rows(results)]
    panels = {
        "how many times as fast as the peer": [row for row in several if row["kind"] == "speedup"],
        "medvision's figure divided by the peer's": [
            row for row in several if row["kind"] == "share" and row["peer"]["name"] != "allowed"
        ],
        "medvision's figure divided by what is allowed": [row for row in several if row["peer"]["name"] == "allowed"],
    }
    panels = {title: some for title, some in panels.items() if some}
    heights = [len(some) + 1.8 for some in panels.values()]
    drawing = Figure(figsize=(11, 0.32 * sum(heights)), dpi=100, layout="constrained")
    for ax, (title, some) in zip(
        drawing.subplots(len(panels), 1, height_ratios=heights, squeeze=False)[:, 0], panels.items(), strict=True
    ):
        draw(some, ax)
        ax.set_title(title, loc="left", fontsize=10, color=INK)
    drawing.supxlabel("stroke: the goal; orange: not met", fontsize=8, color=DIM)
    return drawing


def draw(several: Sequence[Mapping[str, Any]], ax: Axes) -> Axes:
    """One line for each row: dot and range of the ratio, a stroke where the goal lies, the numbers at the right."""
    for y, row in enumerate(several):
        median, low, high = (row["ratio"][name] for name in ("median", "low", "high"))
        colour = VERMILION if row["goal"] and not met(row) else BLUE
        ax.hlines(y, low, high, color=colour, linewidth=2.5, alpha=0.45)
        ax.plot(median, y, "o", color=colour, markersize=6, zorder=3)
        for limit in (row["goal"] or {}).values():
            ax.plot(limit, y, "|", color=INK, markersize=13, markeredgewidth=1.6, zorder=2)
        ax.text(1.01, y, ratio(row), transform=ax.get_yaxis_transform(), va="center", fontsize=8, color=INK)
    ax.axvline(1, color=DIM, linewidth=0.8, zorder=0)
    ax.set(xscale="log", ylim=(len(several) - 0.3, -0.7))
    ax.margins(x=0.05)
    ax.set_yticks(range(len(several)), [fill(row["claim"], 76) for row in several], fontsize=8)
    for axis in (ax.xaxis.set_major_formatter, ax.xaxis.set_minor_formatter):
        axis(FuncFormatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "125" else ""))
    ax.tick_params(axis="both", which="both", colors=DIM, length=0, labelcolor=INK, labelsize=8)
    ax.grid(axis="x", color=RULE, linewidth=0.6)
    ax.spines[:].set_visible(False)
    return ax


if __name__ == "__main__":
    main()
