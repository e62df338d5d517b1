"""Intervals of a million binary predictions: DeLong, 1,000 resamples of the AUROC, and the whole of `evaluate`.

The bootstrap is compared with a loop over scikit-learn's roc_auc_score on resampled indices, of which one is timed for
some of ours and both are extrapolated to all resamples; drawing them is included on both sides. `evaluate` gives every
metric an interval; it is compared with what that loop needs for the AUROC alone. Seconds are those of the processor,
which a single thread on an idle machine takes by the clock as well. Last come a limit on memory and a test set of
MNIST's size, 10,000 images of ten classes.

    python experiments/speed/intervals.py
"""

import time
from collections.abc import Callable, Sequence

import numpy as np
from measuring import allowed, clocked, in_turns, parser, publish, read, speedup
from sklearn.metrics import roc_auc_score

from medvision.metrics.bootstrap import Resampling
from medvision.metrics.evaluate import evaluate
from medvision.metrics.intervals import delong
from medvision.metrics.predictions import Predictions
from medvision.metrics.ranks import Ranking
from medvision.runs.provenance import peak_memory

RESAMPLES = 1000
TURN = 16  # of our resamples between two of scikit-learn's
LOOP = "a loop over scikit-learn"


def main(arguments: Sequence[str] | None = None) -> None:
    given = read(parser(__file__, __doc__, rounds=8), arguments)
    n, few = (2_000, 500) if given.tiny else (1_000_000, 10_000)
    million, mnist = predictions(n, 2, distance=1.0), predictions(few, 10, distance=5.0)
    scores, positive = million.probs[:, 1], million.targets == 1
    quick = {
        "DeLong": processor(lambda: delong(scores, positive, 0.95)),
        "ten classes": processor(lambda: evaluate(mnist)),
    }
    brief = in_turns(quick, min(given.rounds, 3))
    found = in_turns(bootstraps(scores, positive, million), given.rounds)
    whole = {"evaluate": [processor(lambda: evaluate(million, n_resamples=RESAMPLES))()], LOOP: found[LOOP][-1:]}
    peak = peak_memory() / 1e9
    what = f"of {n:,} binary predictions"
    rows = [
        allowed(f"DeLong's interval {what}", brief["DeLong"], 1.0),
        speedup(f"{RESAMPLES:,} bootstrap resamples of the AUROC {what}", found, "medvision", LOOP, at_least=30),
        speedup(f"every metric with its interval {what}, over the AUROC alone", whole, "evaluate", LOOP),
        allowed(f"peak memory of all that, {what}", [peak], 2.0, unit="GB"),
        allowed(f"every metric with its interval of {few:,} predictions of ten classes", brief["ten classes"], 5.0),
    ]
    publish(rows, given)


def predictions(n: int, k: int, distance: float) -> Predictions:
    rng = np.random.default_rng(0)
    targets, logits = rng.integers(0, k, n), rng.normal(size=(n, k)).astype(np.float32)
    logits[np.arange(n), targets] += distance
    names = [f"class {c}" for c in range(k)]
    return Predictions.from_logits(ids=np.arange(n), targets=targets, logits=logits, class_names=names)


def bootstraps(scores: np.ndarray, positive: np.ndarray, million: Predictions) -> dict[str, Callable[[], float]]:
    """Either side's seconds for all resamples, extrapolated from a few."""
    rng = np.random.default_rng(0)
    resampling, ranking = Resampling.of(million), Ranking.of(scores, positive)
    ours = processor(lambda: ranking.auroc(resampling.draw(rng, TURN)))

    def loop() -> None:
        rows = rng.integers(len(scores), size=len(scores))
        roc_auc_score(positive[rows], scores[rows])

    theirs = processor(loop)
    return {"medvision": lambda: ours() / TURN * RESAMPLES, LOOP: lambda: theirs() * RESAMPLES}


def processor(task: Callable[[], object]) -> Callable[[], float]:
    return clocked(task, time.process_time)


if __name__ == "__main__":
    main()
