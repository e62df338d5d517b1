"""How often the intervals of `evaluate` hold the truth, over test sets drawn from populations whose truth is known.

The scores of an image are normal around the truth, as of a network whose probabilities are too extreme by half, or
right. With groups, half of what is seen belongs to the patient and is shared by all four images. The truth is the
value in a million images. Results go to coverage.json, and as a table to the screen.

    python experiments/coverage/coverage.py
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from medvision.metrics.estimates import Key
from medvision.metrics.evaluate import evaluate
from medvision.metrics.predictions import Predictions
from medvision.randomness import generator


@dataclass(frozen=True)
class Setting:
    """A population, and the size of the test sets drawn from it."""

    priors: tuple[float, ...]
    spread: float  # distance between the classes, in standard deviations of the scores
    units: int
    images: int = 1  # of each unit
    sharpness: float = 1.5  # 1 is calibrated

    @property
    def name(self) -> str:
        kind = f"{self.units} x {self.images}" if self.images > 1 else f"{self.units}"
        share = " : ".join(f"{prior:g}" for prior in self.priors)
        return f"n {kind}, {share}, distance {self.spread:g}" + (", calibrated" if self.sharpness == 1 else "")

    def draw(self, rng: np.random.Generator, units: int) -> Predictions:
        k, images = len(self.priors), self.images
        targets = np.repeat(rng.choice(k, size=units, p=self.priors), images)
        scores = rng.normal(size=(len(targets), k))
        if images > 1:
            scores = (scores + np.repeat(rng.normal(size=(units, k)), images, axis=0)) / np.sqrt(2)
        scores[np.arange(len(targets)), targets] += self.spread
        logits = self.sharpness * (self.spread * scores + np.log(self.priors))
        return Predictions.from_logits(
            ids=np.arange(len(targets)),
            groups=np.repeat(np.arange(units), images) if images > 1 else None,
            targets=targets,
            logits=logits,
            class_names=[f"{c + 1}" for c in range(k)],
        )


HALF, TENTH, THREE = (0.5, 0.5), (0.9, 0.1), (0.5, 0.3, 0.2)
SETTINGS = [
    *(Setting(HALF, 1.5, n) for n in (50, 200, 1000)),
    Setting(HALF, 1.5, 200, sharpness=1),
    *(Setting(TENTH, 1.5, n) for n in (100, 200, 1000)),
    *(Setting(THREE, 1.5, n) for n in (200, 1000)),
    *(Setting(HALF, 2.6, n) for n in (50, 200)),
    Setting(TENTH, 2.6, 1000),
    *(Setting(THREE, 1.5, n, images=4) for n in (20, 50, 100, 200)),
]
COLUMNS = (
    *("accuracy", "balanced_accuracy", "mcc", "kappa", "log_loss", "brier", "ece"),
    *("calibration_slope", "calibration_intercept", "macro_specificity", "macro_ppv", "macro_f1"),
    *("macro_auroc", "macro_average_precision"),
)
OF_A_CLASS = ("sensitivity", "specificity", "ppv", "npv", "f1", "auroc", "average_precision")
KEYS = {name: Key(name) for name in COLUMNS} | {f"{name}, class 2": Key(name, "2") for name in OF_A_CLASS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=2_000)
    parser.add_argument("--resamples", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    results = {}
    for setting in SETTINGS:
        begin = time.perf_counter()
        results[setting.name] = coverage(setting, arguments.draws, arguments.resamples)
        print(f"{setting.name}: {time.perf_counter() - begin:.0f} s", flush=True)
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    show(results)


def coverage(setting: Setting, draws: int, resamples: int) -> dict[str, dict[str, float | None]]:
    """By metric: the truth, the share of defined intervals that hold it, and the share of draws that define one."""
    rng = generator("coverage", setting.name)
    million = setting.draw(rng, 1_000_000 // setting.images)
    alone = Predictions.from_logits(
        ids=million.ids, targets=million.targets, logits=million.logits, class_names=million.class_names
    )
    exact = evaluate(alone, n_resamples=2)
    truth = {name: exact[key].value for name, key in KEYS.items()}
    held, defined = dict.fromkeys(KEYS, 0), dict.fromkeys(KEYS, 0)
    low, high = dict.fromkeys(KEYS, 0), dict.fromkeys(KEYS, 0)
    cautious = dict.fromkeys(KEYS, 0)
    for _ in range(draws):
        estimates = evaluate(setting.draw(rng, setting.units), n_resamples=resamples)
        for name, key in KEYS.items():
            estimate = estimates[key]
            if estimate.value is None:
                continue
            defined[name] += 1
            low[name] += truth[name] < estimate.low
            high[name] += truth[name] > estimate.high
            held[name] += estimate.low <= truth[name] <= estimate.high
            cautious[name] += estimate.caution is not None
    return {
        name: {
            "truth": round(truth[name], 5),
            "coverage": round(held[name] / defined[name], 4) if defined[name] else None,
            "truth_below": round(low[name] / max(defined[name], 1), 4),
            "truth_above": round(high[name] / max(defined[name], 1), 4),
            "defined": round(defined[name] / draws, 4),
            "with_caution": round(cautious[name] / draws, 4),
        }
        for name in KEYS
    }


def show(results: dict[str, dict[str, dict[str, float | None]]]) -> None:
    """Coverage in per cent, one row per metric."""
    table = Table(title="coverage of 95 % intervals, %")
    table.add_column("metric")
    for number in range(len(results)):
        table.add_column(str(number + 1), justify="right")
    for name in KEYS:
        shares = [result[name]["coverage"] for result in results.values()]
        table.add_row(name, *("" if share is None else f"{100 * share:.1f}" for share in shares))
    Console(width=200).print(table)
    for number, name in enumerate(results):
        print(number + 1, name)


if __name__ == "__main__":
    main()
