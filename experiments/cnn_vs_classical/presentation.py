"""What the study shows: tables in Markdown and a figure, from the lines of results.csv and pairs.csv."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from medvision.reports.comparison_text import cost
from medvision.reports.plots import DIM, INK, PALETTE, RULE

TITLES = {
    "digits": "Digits, 16 x 16 grey",
    "mnist": "MNIST, 28 x 28 grey",
    "cifar": "CIFAR-10, JPEG copy, 32 x 32 RGB",
    "brain_mri": "Brain MRI, 64 x 64 grey",
}
_COSTS = ("seconds_fit", "seconds_predict_per_image", "size_bytes")


def tables(results: pd.DataFrame, pairs: pd.DataFrame) -> str:
    """For each data set a table of the models at its largest size, in Markdown."""
    text = ""
    for data, rows in results.groupby("data", sort=False):
        rows = rows[rows.train_images == rows.train_images.max()]
        first = rows.iloc[0]
        text += (
            f"### {TITLES[str(data)]}: {first.train_images:,} training images, {first.test_images:,} test images\n\n"
        )
        text += "| model | accuracy, % | CNN less this model, points | fit | prediction per image | on disk | loss |\n"
        text += "|---|---:|---:|---:|---:|---:|---:|\n"
        for row in rows.itertuples():
            pair = pairs[
                (pairs.data == data)
                & (pairs.train_images == row.train_images)
                & (pairs["first"] == "CNN")
                & (pairs.second == row.model)
            ]
            told = "" if pair.empty else _difference(pair.iloc[0])
            text += (
                f"| {row.model} | {_percent(row.accuracy, row.low, row.high)} | {told} | "
                f"{cost('seconds_fit', row.seconds_fit)} | "
                f"{cost('seconds_predict_per_image', row.seconds_predict_per_image)} | "
                f"{cost('size_bytes', row.size_bytes)} | {_loss(row.corruption_loss)} |\n"
            )
        text += "\n"
    return text


def summary(results: pd.DataFrame, pairs: pd.DataFrame) -> str:
    """What each model was good and bad at, over all data sets and sizes, in Markdown."""
    text = (
        "| model | highest accuracy, or not distinguishable from it | fit | prediction per image | on disk | loss |\n"
    )
    text += "|---|---:|---:|---:|---:|---:|\n"
    best = results.loc[results.groupby(["data", "train_images"]).accuracy.idxmax()]
    for model, rows in results.groupby("model", sort=False):
        leads, equals = 0, 0
        for winner in best.itertuples():
            here = pairs[(pairs.data == winner.data) & (pairs.train_images == winner.train_images)]
            both = here[["first", "second"]].isin([model, winner.model]).all(axis=1)
            leads += winner.model == model
            equals += winner.model != model and not here[both].distinguishable.iloc[0]
        ranges = [
            " to ".join(dict.fromkeys(cost(name, value) for value in (rows[name].min(), rows[name].max())))
            for name in _COSTS
        ]
        lost = rows.corruption_loss.dropna()
        text += f"| {model} | {leads} + {equals} of {len(best)} | {' | '.join(ranges)} | "
        text += f"{_loss(lost.min())} to {_loss(lost.max())} |\n"
    return text


def _percent(*values: float) -> str:
    return "{:.1f} ({:.1f} to {:.1f})".format(*(100 * value for value in values))


def _loss(share: float) -> str:
    return f"{round(100 * share, 1) + 0:.1f}"  # no minus before a zero


def _difference(pair: pd.Series) -> str:
    told = _percent(pair.difference, pair.low, pair.high).replace("-", "−")
    return told if pair.distinguishable else f"{told}, not distinguishable"


def figure(results: pd.DataFrame) -> Figure:
    """Accuracy by number of training images, a panel for each data set."""
    names = list(results.data.unique())
    drawing = Figure(figsize=(8.2, 3.3 * ((len(names) + 1) // 2)), dpi=100, layout="constrained")
    for place, data in enumerate(names):
        ax = drawing.add_subplot((len(names) + 1) // 2, 2, place + 1)
        for line, (model, rows) in enumerate(results[results.data == data].groupby("model", sort=False)):
            values = 100 * rows[["low", "accuracy", "high"]].to_numpy()
            ends = np.abs(values[:, [0, 2]] - values[:, [1]]).T
            colour, style = (DIM, ":") if model == "majority" else (PALETTE[line], "-")
            ax.errorbar(rows.train_images, values[:, 1], ends, color=colour, linestyle=style, marker="o", markersize=4,
                        capsize=2.5, linewidth=1.4, label=model)  # fmt: skip
        ax.set_xscale("log")
        sizes = sorted(results[results.data == data].train_images.unique())
        # The number before the last has no room where these two are close.
        ax.set_xticks(sizes, [f"{n:,}" if n == sizes[-1] or 1.5 * n < sizes[-1] else "" for n in sizes])
        ax.minorticks_off()
        ax.set_ylim(0, 100)
        ax.set_title(TITLES[data], loc="left", fontsize=10, color=INK)
        ax.set_xlabel("training images", color=DIM)
        ax.set_ylabel("test accuracy, %", color=DIM)
        ax.tick_params(colors=DIM, length=0)
        ax.grid(color=RULE, linewidth=0.6)
        ax.spines[:].set_visible(False)
    drawing.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    return drawing
