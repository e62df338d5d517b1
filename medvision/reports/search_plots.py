"""Drawings of a search: how it went, and which values mattered."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from medvision.reports.plots import BLUE, DIM, INK, VERMILION, finish, short


def draw_history(
    values: Sequence[tuple[int, float]],
    pruned: Sequence[tuple[int, float]],
    smaller_is_better: bool,
    label: str,
    ax: Axes,
) -> Axes:
    """The value of each trial, and the best one so far.

    Args:
        values: number and value of each finished trial, in order.
        pruned: number and last value of each trial that was pruned.
        smaller_is_better: which way is up.
        label: of the values.
        ax: to draw on.
    """
    best, line = None, []
    for _, value in values:
        best = value if best is None else min(best, value) if smaller_is_better else max(best, value)
        line.append(best)
    numbers = [number for number, _ in values]
    if pruned:
        ax.plot(*zip(*pruned, strict=True), "x", color=DIM, markersize=4, label="pruned, when it was")
    ax.plot(numbers, [value for _, value in values], "o", color=BLUE, markersize=4, label="finished")
    end = max(number for number, _ in [*values, *pruned])
    numbers, line = [*numbers, end], [*line, line[-1]]
    ax.step(numbers, line, where="post", color=VERMILION, linewidth=1.4, label="best so far")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return finish(ax, "Trial", label)


def draw_importance(shares: Mapping[str, float], ax: Axes) -> Axes:
    """How much of the variation between trials each key explains, as bars.

    Args:
        shares: of each key, at most 1 together; the greatest first.
        ax: to draw on.
    """
    names = [short(name, 30) for name in shares]
    bars = ax.barh(names, list(shares.values()), color=BLUE, height=0.6)
    ax.bar_label(bars, [f"{share:.0%}" for share in shares.values()], padding=3, color=INK)
    ax.invert_yaxis()
    ax.set_xlim(0, 1.1 * max(shares.values()) or 1)
    finish(ax, "Share of the variation between trials", "")
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", colors=DIM)
    return ax
