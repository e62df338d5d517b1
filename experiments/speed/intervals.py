"""Intervals of a million binary predictions: DeLong, 1,000 resamples of the AUROC, and the whole of `evaluate`.

The bootstrap is compared with a loop over scikit-learn's roc_auc_score on resampled indices, of which a few rounds are
timed, in turns with some of ours. Seconds are those of the processor, which a single thread on an idle machine takes
by the clock as well. Last comes a test set of MNIST's size, 10,000 images of ten classes.

    OMP_NUM_THREADS=1 python experiments/speed/intervals.py
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.metrics import roc_auc_score

from medvision.evaluation import Predictions, evaluate
from medvision.evaluation.intervals import delong
from medvision.evaluation.ranking import Ranking
from medvision.evaluation.resampling import Resampling

RESAMPLES = 1000
TURN = 16  # of our resamples between two of scikit-learn's


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=8)
    arguments = parser.parse_args()
    million = predictions(arguments.n, 2, distance=1.0)
    scores, positive = million.probs[:, 1], million.targets == 1
    table = Table(title=f"{arguments.n:,} binary predictions, {RESAMPLES:,} resamples", title_justify="left")
    for column in ("what", "time", "allowed"):
        table.add_column(column, justify="right" if column != "what" else "left")
    table.add_row("DeLong", f"{median(lambda: delong(scores, positive, 0.95)):.2f} s", "1 s")
    ours, theirs, ratios = bootstraps(scores, positive, million, arguments.rounds)
    table.add_row("bootstrap of the AUROC", f"{ours * RESAMPLES:.1f} s", "10 s")
    table.add_row("the same by scikit-learn, extrapolated", f"{theirs * RESAMPLES:.0f} s", "")
    low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
    table.add_row("ratio", f"{middle:.0f} ({low:.0f} to {high:.0f})", "at least 30")
    table.add_row("evaluate, all metrics", f"{seconds(lambda: evaluate(million, n_resamples=RESAMPLES)):.1f} s", "")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    table.add_row("peak memory", f"{peak:.2f} GiB", "2 GB")
    mnist = predictions(10_000, 10, distance=5.0)
    table.add_row("evaluate, 10,000 of ten classes", f"{median(lambda: evaluate(mnist)):.2f} s", "5 s")
    Console().print(table)


def predictions(n: int, k: int, distance: float) -> Predictions:
    rng = np.random.default_rng(0)
    targets, logits = rng.integers(0, k, n), rng.normal(size=(n, k)).astype(np.float32)
    logits[np.arange(n), targets] += distance
    names = [f"class {c}" for c in range(k)]
    return Predictions.from_logits(ids=np.arange(n), targets=targets, logits=logits, class_names=names)


def bootstraps(
    scores: np.ndarray, positive: np.ndarray, million: Predictions, rounds: int
) -> tuple[float, float, list[float]]:
    """Median seconds of a resample of ours and of scikit-learn's, and the ratio of each round."""
    rng = np.random.default_rng(0)
    resampling, ranking = Resampling.of(million), Ranking.of(scores, positive)

    def loop() -> None:
        rows = rng.integers(len(scores), size=len(scores))
        roc_auc_score(positive[rows], scores[rows])

    ours, theirs = [], []
    for _ in range(rounds + 1):
        ours.append(seconds(lambda: ranking.auroc(resampling.draw(rng, TURN))) / TURN)
        theirs.append(seconds(loop))
    ratios = [their / our for our, their in zip(ours[1:], theirs[1:], strict=True)]  # the first round warms up
    return statistics.median(ours[1:]), statistics.median(theirs[1:]), ratios


def median(call: Callable[[], object]) -> float:
    return statistics.median([seconds(call) for _ in range(4)][1:])


def seconds(call: Callable[[], object]) -> float:
    begin = time.process_time()
    call()
    return time.process_time() - begin


if __name__ == "__main__":
    main()
