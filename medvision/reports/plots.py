"""Drawings of an evaluation, each `(numbers, ax) -> ax`; nothing is computed here but where ink goes.

Colours are those of Okabe and Ito, which are safe for colour-blind eyes, and never the only difference: lines differ in
dash as well, and a legend names them. `medvision.reports.plots` swaps them for lighter ones on a dark page.
"""

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from medvision.metrics.calibration import Reliability
from medvision.metrics.curves import Confusion, DecisionCurve, Histogram
from medvision.metrics.selective import RiskCoverage
from medvision.reports import plots

INK = "#1b2530"
DIM = "#5a6773"
RULE = "#d3dae1"
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"
PALETTE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
_NAME_LENGTH = 22  # characters of a name that a legend has room for


class Line(NamedTuple):
    """One curve.

    Attributes:
        name: what the legend calls it.
        x: (n,) ascending or not; NaN leaves a gap.
        y: (n,) of the same length.
    """

    name: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]


def short(name: str, length: int = _NAME_LENGTH) -> str:
    """A name on one line, cut in its middle where it is long: names of one family differ at their ends.

    >>> short("squamous cell carcinoma of the lung", 20)
    'squamous c… the lung'
    """
    name = " ".join(name.split())
    return name if len(name) <= length else f"{name[: length // 2]}…{name[len(name) - (length - length // 2 - 1) :]}"


def draw_roc(lines: Sequence[Line], ax: Axes, *, point: tuple[float, float] | None = None, faint: int = 0) -> Axes:
    """ROC curves over the diagonal of guessing.

    Args:
        lines: x is 1 - specificity, y sensitivity; in [0, 1].
        ax: to draw on.
        point: 1 - specificity and sensitivity of the operating point.
        faint: so many of the last lines are drawn thin and without a name.
    """
    ax.plot([0, 1], [0, 1], color=DIM, linewidth=0.8, linestyle=(0, (2, 3)), zorder=1)
    _lines(lines, ax, faint)
    if point is not None:
        ax.plot(*point, marker="o", markersize=7, color=INK, markerfacecolor="none", markeredgewidth=1.6, zorder=5)
        ax.plot([], [], "o", color=INK, markerfacecolor="none", label="operating point")
    _unit_square(ax)
    return finish(ax, "1 − specificity", "Sensitivity")


def draw_precision_recall(lines: Sequence[Line], ax: Axes, *, faint: int = 0) -> Axes:
    """Precision against sensitivity.

    Args:
        lines: x is sensitivity, y precision (PPV); in [0, 1].
        ax: to draw on.
        faint: so many of the last lines are drawn thin and without a name.
    """
    _lines(lines, ax, faint, drawstyle="steps-pre")
    _unit_square(ax)
    return finish(ax, "Sensitivity (recall)", "PPV (precision)")


def draw_reliability(diagrams: Mapping[str, Reliability], ax: Axes) -> Axes:
    """How often the model is right at each level of confidence, with intervals; the diagonal is perfect calibration.

    The area of a dot stands for the cases behind it.
    """
    ax.plot([0, 1], [0, 1], color=DIM, linewidth=0.8, linestyle=(0, (2, 3)), zorder=1)
    for number, (name, one) in enumerate(diagrams.items()):
        colour, here = PALETTE[number], one.counts > 0
        x, y = one.predicted[here], one.observed[here]
        ax.plot(x, y, color=colour, linewidth=1.3, linestyle=_DASHES[number], label=name, zorder=3)
        ax.vlines(x, one.low[here], one.high[here], color=colour, linewidth=0.8, alpha=0.5, zorder=2)
        area = 5 + 90 * one.counts[here] / one.counts.max()
        ax.scatter(x, y, s=area, color=colour, marker="os"[number % 2], alpha=0.8, linewidths=0, zorder=4)
    _unit_square(ax)
    return finish(ax, "Probability of the named class", "Share that was right")


def draw_histogram(histogram: Histogram, names: tuple[str, str], ax: Axes) -> Axes:
    """Stacked counts of probabilities.

    Args:
        histogram: of two groups of images.
        names: of the group that counts as positive, and of the other.
        ax: to draw on.
    """
    below = np.zeros(len(histogram.positive))
    for number, (name, counts) in enumerate(zip(names, (histogram.positive, histogram.negative), strict=True)):
        ax.bar(
            histogram.edges[:-1],
            counts,
            np.diff(histogram.edges),
            bottom=below,
            align="edge",
            color=PALETTE[number],
            hatch=("", "////")[number],
            edgecolor=RULE,
            linewidth=0.4,
            label=name,
        )
        below += counts
    ax.set_xlim(histogram.edges[0], histogram.edges[-1])
    return finish(ax, "Probability of the named class", "Images")


def draw_risk_coverage(curve: RiskCoverage, ax: Axes) -> Axes:
    """Error rate among the most confident images, against the share of images that are answered."""
    ax.plot(curve.coverage, curve.risk, color=BLUE, linewidth=1.6)
    ax.fill_between(curve.coverage, curve.risk, color=BLUE, alpha=0.12, linewidth=0)
    ax.set_xlim(0, 1)
    ax.set_ylim(0, max(0.02, 1.15 * float(curve.risk.max())))
    return finish(ax, "Share of images answered", "Error rate among them")


def draw_decision_curve(curve: DecisionCurve, ax: Axes, *, threshold: float | None = None) -> Axes:
    """Net benefit of the model, of treating everybody and of treating nobody.

    Args:
        curve: the numbers.
        ax: to draw on.
        threshold: the operating point's, marked by a vertical line.
    """
    lines = (
        ("the model", curve.model, BLUE, "-"),
        ("treat everybody", curve.treat_all, VERMILION, "--"),
        ("treat nobody", curve.treat_none, DIM, "-."),
    )
    for name, benefit, colour, dash in lines:
        ax.plot(curve.thresholds, benefit, color=colour, linestyle=dash, linewidth=1.5, label=name)
    if threshold is not None:
        ax.axvline(threshold, color=INK, linewidth=0.8, linestyle=(0, (2, 3)), label="operating point")
    # Treating everybody falls without end where the threshold nears 1; the question is what lies above nobody.
    top = max(0.02, float(curve.model.max()), float(curve.treat_all.max()))
    ax.set_ylim(-0.3 * top, 1.15 * top)
    ax.set_xlim(0, 1)
    return finish(ax, "Threshold probability", "Net benefit per image")


def draw_lines(lines: Sequence[Line], ax: Axes, labels: tuple[str, str], *, level: Line | None = None) -> Axes:
    """Lines with marks at their points, as for epochs or strengths of a disturbance.

    Args:
        lines: a point for each epoch or strength.
        ax: to draw on.
        labels: of the x and the y axis.
        level: its first y is drawn as a horizontal line, for comparison.
    """
    if level is not None:
        ax.axhline(float(level.y[0]), color=INK, linewidth=0.9, linestyle=(0, (2, 3)), label=level.name)
    longest = max((len(line.x) for line in lines), default=0)
    for number, line in enumerate(lines):
        ax.plot(
            line.x,
            line.y,
            color=PALETTE[number % len(PALETTE)],
            linestyle=_DASHES[number % len(_DASHES)],
            marker="osD^vP"[number % 6] if longest <= 30 else "",
            markersize=3.5,
            linewidth=1.4,
            label=short(line.name),
        )
    if longest and all(float(value).is_integer() for line in lines for value in line.x):
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return finish(ax, *labels)


def draw_confusion(confusion: Confusion, ax: Axes) -> Axes:
    """Row-wise rates of a confusion matrix too large for a table; brighter is more."""
    # The square root shows the rare confusions, which are what such a picture is looked at for.
    ax.imshow(np.sqrt(np.nan_to_num(confusion.rates)), cmap="cividis", vmin=0, vmax=1, interpolation="nearest")
    return finish(ax, "Predicted class (number)", "True class (number)", grid=False)


def _lines(lines: Sequence[Line], ax: Axes, faint: int, drawstyle: str = "default") -> None:
    named = lines[: len(lines) - faint]
    for line in lines[len(lines) - faint :]:
        ax.plot(line.x, line.y, color=DIM, linewidth=0.6, alpha=0.45, zorder=2, drawstyle=drawstyle)
    for number, line in enumerate(named):
        style: dict[str, Any] = {"color": PALETTE[number % len(PALETTE)], "linestyle": _DASHES[number % len(_DASHES)]}
        ax.plot(line.x, line.y, linewidth=1.6, label=line.name, zorder=3, drawstyle=drawstyle, **style)
    if faint:
        ax.plot([], [], color=DIM, linewidth=0.6, alpha=0.6, label=f"{faint} other classes")


def _unit_square(ax: Axes) -> None:
    ax.set_xlim(-0.01, 1.01)
    ax.set_ylim(-0.01, 1.01)
    ax.set_aspect("equal")


def finish(ax: Axes, x: str, y: str, *, grid: bool = True) -> Axes:
    """Label the axes and give them the look that all drawings have."""
    ax.set_xlabel(x, color=INK)
    ax.set_ylabel(y, color=INK)
    ax.tick_params(colors=DIM, length=0, pad=5)
    ax.patch.set_visible(False)
    ax.set_axisbelow(True)
    if grid:
        ax.grid(color=RULE, linewidth=0.6)
    for side, spine in ax.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(DIM)
        spine.set_linewidth(0.7)
    labels = ax.get_legend_handles_labels()[1]
    if labels:
        # Below the axes, where it hides no curve.
        columns = 2 if max(map(len, labels)) <= _NAME_LENGTH + 4 else 1
        ax.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, -0.17),
            ncols=columns,
            frameon=False,
            fontsize=8.5,
            labelcolor=INK,
            handlelength=2.6,
            columnspacing=1.4,
        )
    return ax


# Colours of the drawings to custom properties that the page's style defines for light, dark and print.
_VARIABLES = {
    plots.INK: "text",
    plots.DIM: "dim",
    plots.RULE: "rule",
    plots.BLUE: "blue",
    plots.VERMILION: "vermilion",
    plots.GREEN: "green",
    plots.PURPLE: "purple",
    plots.ORANGE: "orange",
    plots.SKY: "sky",
}
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that everybody's drawing is laid out alike
    "font.size": 9,
    "text.color": plots.INK,
    "text.parse_math": False,  # a class may be called "$x_1$"
    "svg.fonttype": "none",
    "svg.hashsalt": "medvision",  # equal drawings get equal ids
    "hatch.linewidth": 0.6,
    "path.simplify_threshold": 0.3,  # pixels
}


def to_svg(draw: Callable[[Axes], Axes], name: str, alt: str, size: tuple[float, float] = (4.4, 3.5)) -> Markup:
    """Draw, and give the picture as an element that stands in a page.

    Equal drawings give equal text.

    Args:
        draw: draws on the axes it is given.
        name: prefix of every id in the picture, unique in the page.
        alt: what the picture shows, in words.
        size: width and height in inches of 72 units.
    """
    file = io.StringIO()
    with rc_context(_STYLE), warnings.catch_warnings():
        # A character that this font lacks is drawn by the reader's own.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.add_subplot())
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    text = file.getvalue()
    body = text[text.index("<svg") :]
    body = body[body.index(">") + 1 : body.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", body)
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, f"var(--{variable})")
    body = body.replace("'DejaVu Sans'", "system-ui, sans-serif")
    body = re.sub(r"\n\s*", "\n", body)
    width, height = (72 * side for side in size)
    return Markup('<svg viewBox="0 0 {0:g} {1:g}" width="{0:g}" height="{1:g}" role="img" aria-label="{2}">').format(
        width, height, escape(alt)
    ) + Markup(body + "</svg>")
