"""How much of a published gap is noise: four recipes that differ little, each trained with several seeds.

    python experiments/seeds/run.py

MNIST is looked for in MEDVISION_DATA. Finished runs in --out are not trained again. Tables and figure go to --results.
"""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from medvision import compose, fit
from medvision.comparison.compare import Candidate, Comparison, compare
from medvision.comparison.groups import find
from medvision.comparison.paired_tests import mcnemar
from medvision.comparison.replicates import Replicate
from medvision.config.compose import quoted
from medvision.metrics.intervals import wilson
from medvision.metrics.predictions import Predictions
from medvision.reports.plots import BLUE, DIM, INK, RULE, VERMILION
from medvision.runs.saved_run import SavedRun

DATA = {
    "digits": ("Digits", ("data=digits", "trainer.max_epochs=20")),
    "mnist": (
        "MNIST, 2,000 training images",
        ("data=mnist", "data.max_train_samples=2000", "data.val_fraction=0.01", "trainer.max_epochs=10"),
    ),
}
RECIPES = {
    "plain": ("augmentation=none", "model.hidden=64"),
    "wider": ("augmentation=none", "model.hidden=128"),
    "augmented": ("augmentation=digits", "model.hidden=64"),
    "by accuracy": ("augmentation=none", "model.hidden=64", "monitor=val/accuracy"),
}
SHARED = (
    "model=small_cnn",
    "trainer.accelerator=cpu",
    "logger=none",
    "optimizer=adamw",
    "optimizer.lr=3e-3",
    "scheduler=one_cycle",
    "evaluation.report=false",
    "evaluation.robustness=false",
    "evaluation.n_resamples=20",  # not used: what is asked of these runs is their accuracy
)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("outputs/seeds"), help="folder of the runs")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent)
    parser.add_argument("--tiny", action="store_true", help="digits alone, two seeds, one epoch: to try the script")
    given = parser.parse_args(arguments)
    given.results.mkdir(parents=True, exist_ok=True)
    lines, pairs, text = [], [], ""
    seeds = range(2 if given.tiny else given.seeds)
    for data in ["digits"] if given.tiny else DATA:
        recipes = {}
        for recipe in RECIPES:
            folders = [given.out / data / recipe / str(seed) for seed in seeds]
            for folder in folders:
                train(folder, ["trainer.max_epochs=1"] if given.tiny else [])
            recipes[recipe] = [run.predictions for run in find([str(folder) for folder in folders])[0]]
        found = compare([_candidate(recipe, members) for recipe, members in recipes.items()], n_resamples=200)
        here = [
            measured(data, name, seed, one) for name, members in recipes.items() for seed, one in enumerate(members)
        ]
        duels = [duel(data, found, recipes, *names) for names in combinations(recipes, 2)]
        text += table(data, found, pd.DataFrame(here), duels)
        lines += here
        pairs += duels
    pd.DataFrame(lines).to_csv(given.results / "results.csv", index=False, float_format="%.6g")
    pd.DataFrame(pairs).to_csv(given.results / "pairs.csv", index=False, float_format="%.6g")
    (given.results / "tables.md").write_text(text)
    FigureCanvasAgg(figure(pd.DataFrame(lines))).print_png(given.results / "accuracy.png")


def train(folder: Path, changes: Sequence[str]) -> None:
    """Train one seed of a recipe into DATA/RECIPE/SEED, unless that is done."""
    run = SavedRun(folder)
    if run.is_finished:
        return
    data, recipe, seed = folder.parts[-3:]
    where = f"{'resume' if run.is_resumable else 'out'}={quoted(folder)}"
    fit(compose(*DATA[data][1], *SHARED, *RECIPES[recipe], *changes, f"seed={seed}", where))


def _candidate(name: str, members: Sequence[Predictions]) -> Candidate:
    return Candidate(name, tuple(Replicate.of(seed, [(name, one)]) for seed, one in enumerate(members)))


def measured(data: str, recipe: str, seed: int, said: Predictions) -> dict[str, object]:
    """A line of results.csv."""
    right, n = int((said.preds == said.targets).sum()), len(said.targets)
    low, high = wilson(right, n, 0.95)
    accuracy = {"accuracy": right / n, "low": low, "high": high}
    return {"data": data, "recipe": recipe, "seed": seed, "test_images": n} | accuracy


def duel(
    data: str, found: Comparison, recipes: Mapping[str, Sequence[Predictions]], first: str, second: str
) -> dict[str, object]:
    """A line of pairs.csv: two recipes by all seeds, and by one seed of each for every choice of the two."""
    one = next(pair for pair in found.pairs if (pair.first, pair.second) == (first, second)).differences["accuracy"]
    gaps, p = _single(product(recipes[first], recipes[second]))
    sign = np.sign(one.value)
    _, p_own = _single(pair for name in (first, second) for pair in combinations(recipes[name], 2))
    return {
        "data": data,
        "first": first,
        "second": second,
        "difference": one.value,
        "low": one.low,
        "high": one.high,
        "p_holm": one.p_holm,
        "distinguishable": one.distinguishable,
        "single_lowest": gaps.min(),  # a seed of each, for every choice of the two
        "single_highest": gaps.max(),
        "single_reversed": (gaps * sign < 0).mean(),
        "single_tied": (gaps == 0).mean(),
        "mcnemar_agrees": ((p < 0.05) & (gaps * sign > 0)).mean(),
        "mcnemar_reversed": ((p < 0.05) & (gaps * sign < 0)).mean(),
        "mcnemar_within_a_recipe": (p_own < 0.05).mean(),
    }


def _single(pairs: Iterable[tuple[Predictions, ...]]) -> tuple[np.ndarray, np.ndarray]:
    """Differences of accuracy and p-values of McNemar's test for pairs of Predictions on the same cases."""
    gaps, p = [], []
    for ours, theirs in pairs:
        first, second = ours.preds == ours.targets, theirs.preds == theirs.targets
        gaps.append(first.mean() - second.mean())
        p.append(mcnemar(int((first & ~second).sum()), int((second & ~first).sum())))
    return np.array(gaps), np.array(p)


def table(data: str, found: Comparison, lines: pd.DataFrame, duels: Sequence[Mapping[str, object]]) -> str:
    """Two tables in Markdown: the recipes, and their pairs."""
    text = f"### {DATA[data][0]}: {found.n:,} test images\n\n"
    text += "| recipe | mean accuracy, % | between seeds | lowest to highest seed | half an interval |\n"
    text += "|---|---:|---:|---:|---:|\n"
    for row in found.rows:
        if row.is_ensemble:
            continue
        both, own = row.estimates["accuracy"], lines[lines.recipe == row.name]
        text += (
            f"| {row.name} | {_points(both.value)} ({_points(both.low)} to {_points(both.high)}) | "
            f"{_points(row.over_seeds['accuracy'].standard_deviation)} | "
            f"{_points(own.accuracy.min())} to {_points(own.accuracy.max())} | "
            f"{_points(((own.high - own.low) / 2).mean())} |\n"
        )
    text += "\n| pair | difference, points | one seed each | reversed | tied | p < 0.05 | reversed | own |\n"
    text += "|---|---:|---:|---:|---:|---:|---:|---:|\n"
    for one in duels:
        verdict, shares = "" if one["distinguishable"] else ", not distinguishable", list(one.values())[-5:]
        text += (
            f"| {one['first']} less {one['second']} | {_points(one['difference'])} ({_points(one['low'])} to "
            f"{_points(one['high'])}){verdict} | {_points(one['single_lowest'])} to {_points(one['single_highest'])} | "
            f"{' | '.join(f'{share:.0%}' for share in shares)} |\n"
        )
    return text + "\n"


def _points(value: float) -> str:
    return f"{100 * value:.2f}".replace("-", "−")


def figure(results: pd.DataFrame) -> Figure:
    """Each seed as a dot, and beside them the interval that the first seed alone would have been published with."""
    names = list(results.data.unique())
    drawing = Figure(figsize=(4.1 * len(names), 3.2), dpi=100, layout="constrained")
    for place, data in enumerate(names):
        ax = drawing.add_subplot(1, len(names), place + 1)
        for x, (_, rows) in enumerate(results[results.data == data].groupby("recipe", sort=False)):
            ax.scatter(np.full(len(rows), x), 100 * rows.accuracy, s=22, color=BLUE, alpha=0.6, linewidth=0, zorder=3)
            ax.hlines(100 * rows.accuracy.mean(), x - 0.12, x + 0.12, color=INK, linewidth=1.4, zorder=4)
            first = 100 * rows.iloc[0][["accuracy", "low", "high"]].astype(float)
            ends = [[first.accuracy - first.low], [first.high - first.accuracy]]
            ax.errorbar([x + 0.25], [first.accuracy], ends, color=VERMILION, marker="o", markersize=4, capsize=3)
        ax.set_xticks(range(len(RECIPES)), list(RECIPES))
        ax.set_title(DATA[data][0], loc="left", fontsize=10, color=INK)
        ax.set_ylabel("test accuracy, %", color=DIM)
        ax.tick_params(colors=DIM, length=0)
        ax.grid(axis="y", color=RULE, linewidth=0.6)
        ax.spines[:].set_visible(False)
    return drawing


if __name__ == "__main__":
    main()
