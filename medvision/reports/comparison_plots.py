"""Forest plots of a comparison: one line for each model, and one for each pair.

Names stand above their lines instead of beside them, so that the same drawing is read on a telephone and on paper.
"""

import io
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from medvision.comparison.compare import Comparison, Pair
from medvision.metrics.definitions import METRICS
from medvision.reports.comparison_text import scaled, value_text
from medvision.reports.plots import BLUE, DIM, INK, RULE, short, to_svg

PAPER = "#ffffff"  # behind words; a page has its own
_WIDTH, _LINE, _REST = 4.4, 0.46, 0.75  # inches: of a drawing, of a line, of its axis
MOST_PAIRS = 15  # with more, only those of the best model are drawn


class Line(NamedTuple):
    """One line of a forest plot: a value with its interval, in the units of the axis."""

    name: str
    value: float
    low: float
    high: float
    text: str
    solid: bool
    marker: str


def models(comparison: Comparison, metric: str) -> list[Line]:
    """A line for each model that has a value."""
    factor = 100 if METRICS[metric].is_share else 1
    lines = []
    for row in comparison.rows:
        one = row.estimates[metric]
        if one.value is not None and one.low is not None and one.high is not None:
            value, low, high = (factor * number for number in (one.value, one.low, one.high))
            text = f"{value_text(metric, one.value)} ({value_text(metric, one.low)} to {value_text(metric, one.high)})"
            lines.append(Line(row.name, value, low, high, text, True, "D" if row.is_ensemble else "o"))
    return lines


def drawn_pairs(comparison: Comparison, metric: str) -> list[Pair]:
    """The pairs that have a line: all of them, or those of the best model where they are many."""
    pairs = [pair for pair in comparison.pairs if pair.differences[metric].value is not None]
    if len(pairs) <= MOST_PAIRS:
        return pairs
    sign = -1 if METRICS[metric].lower_is_better else 1
    known = {row.name: row.estimates[metric].value for row in comparison.rows if not row.is_ensemble}
    best = max((sign * value, name) for name, value in known.items() if value is not None)[1]
    return [pair for pair in pairs if best in (pair.first, pair.second)]


def differences(comparison: Comparison, metric: str) -> list[Line]:
    """A line for each of `drawn_pairs`, turned so that the better one comes first."""
    factor = 100 if METRICS[metric].is_share else 1
    sign = -1 if METRICS[metric].lower_is_better else 1
    lines = []
    for pair in drawn_pairs(comparison, metric):
        one = pair.differences[metric]
        if one.value is None or one.low is None or one.high is None:
            continue
        value, low, high = one.value, one.low, one.high
        first, second = pair.first, pair.second
        if sign * value < 0:
            value, low, high, first, second = -value, -high, -low, second, first
        texts = [text.replace("-", "−") for text in scaled(metric, [value, low, high])]
        text = f"{texts[0]} ({texts[1]} to {texts[2]})"
        name = f"{short(first, 16)} vs {short(second, 16)}"
        lines.append(Line(name, factor * value, factor * low, factor * high, text, one.distinguishable, "o"))
    return lines


def forest(lines: Sequence[Line], label: str, zero: bool, ax: Axes) -> Axes:
    """Draw lines from top to bottom; with `zero`, a rule at 0, and hollow grey where 0 cannot be left out."""
    for place, line in enumerate(lines):
        colour = BLUE if line.solid else DIM
        ax.plot([line.low, line.high], [place, place], color=colour, linewidth=2, solid_capstyle="round", zorder=3)
        face = colour if line.solid else PAPER
        ax.plot([line.value], [place], line.marker, color=colour, markerfacecolor=face, markersize=6.5, zorder=4)
        # Above the rules, so that these do not cross the words.
        words: dict[str, Any] = {
            "transform": ax.get_yaxis_transform(),
            "va": "center",
            "fontsize": 9.5,
            "zorder": 2.5,
            "bbox": {"facecolor": PAPER, "edgecolor": "none", "pad": 1.2},
        }
        ax.text(0, place - 0.32, short(line.name, 36), ha="left", fontweight="bold", **words)
        ax.text(1, place - 0.32, line.text, ha="right", **words)
    ax.set_ylim(len(lines) - 0.55, -0.7)
    ax.set_yticks([])
    ax.set_xlabel(label, color=DIM)
    ax.tick_params(axis="x", colors=DIM, length=0, pad=5)
    ax.grid(axis="x", color=RULE, linewidth=0.7)
    ax.set_axisbelow(True)
    ax.spines[:].set_visible(False)
    ax.spines["bottom"].set(visible=True, color=RULE)
    ax.margins(x=0.04)
    ax.locator_params(axis="x", nbins=6)
    if zero:
        ax.axvline(0, color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=2)
    return ax


def values_svg(comparison: Comparison, metric: str) -> Markup:
    """The models' plot for a page."""
    lines = models(comparison, metric)
    label = _axis(metric)
    alt = f"{label} with intervals: " + "; ".join(f"{line.name} {line.text}" for line in lines)
    return _svg(lambda ax: forest(lines, label, False, ax), "values", alt, len(lines))


def differences_svg(comparison: Comparison, metric: str) -> Markup:
    """The pairs' plot for a page."""
    lines = differences(comparison, metric)
    label = f"difference of {_axis(metric, of_difference=True)}"
    alt = f"{label} with intervals: " + "; ".join(f"{line.name} {line.text}" for line in lines)
    return _svg(lambda ax: forest(lines, label, True, ax), "differences", alt, len(lines))


def png(comparison: Comparison, metric: str) -> bytes:
    """Both plots beside each other, for paper."""
    left, right = models(comparison, metric), differences(comparison, metric)
    parts = [(left, _axis(metric), False), (right, f"difference of {_axis(metric, of_difference=True)}", True)]
    parts = [part for part in parts if part[0]]
    file = io.BytesIO()
    with rc_context({"font.size": 9, "text.color": INK, "text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        height = _REST + _LINE * max([len(part[0]) for part in parts], default=1)
        figure = Figure(figsize=(_WIDTH * max(len(parts), 1), height), layout="constrained")
        FigureCanvasAgg(figure)
        for place, (lines, label, zero) in enumerate(parts, start=1):
            forest(lines, label, zero, figure.add_subplot(1, len(parts), place))
        figure.get_layout_engine().set(wspace=0.08)  # type: ignore[union-attr, call-arg]
        figure.savefig(file, format="png", dpi=200, metadata={"Software": None})
    return file.getvalue()


def _axis(metric: str, *, of_difference: bool = False) -> str:
    title = METRICS[metric].phrase
    unit = "points" if of_difference else "%"
    return f"{title}, {unit}" if METRICS[metric].is_share else title


def _svg(draw: Callable[[Axes], Axes], name: str, alt: str, lines: int) -> Markup:
    return to_svg(draw, name, alt, (_WIDTH, _REST + _LINE * max(lines, 1))).replace(PAPER, "var(--card)")
