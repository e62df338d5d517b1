"""The intervals that have a formula, where every sample stands alone."""

import numpy as np

from medvision.evaluation.confusion import Tally, proportions
from medvision.evaluation.intervals import (
    delong,
    delong_macro,
    macro_specificity,
    mean_of_wilsons,
    wilson,
    wilson_f1,
)
from medvision.evaluation.predictions import Predictions
from medvision.evaluation.probabilities import TOPS, true_class_ranks

Intervals = dict[str, tuple[float, float]]


def closed_forms(predictions: Predictions, confidence_level: float) -> Intervals:
    """Intervals by metric, of those that are defined.

    These are accuracy, top-k accuracy, the balanced accuracy, and everything per class and its macro mean, but for
    average precision and the macro mean of F1.
    """
    targets, k = predictions.targets, len(predictions.class_names)
    tally = Tally.of(predictions.preds, targets, k)
    ranks = true_class_ranks(predictions.probs, targets)
    intervals = {"accuracy": wilson(int(tally.hits.sum()), len(targets), confidence_level)}
    for top in TOPS:
        intervals[f"top_{top}"] = wilson(int((ranks < top).sum()), len(targets), confidence_level)
    return intervals | _means(predictions, tally, confidence_level) | _per_class(predictions, tally, confidence_level)


def _means(predictions: Predictions, tally: Tally, confidence_level: float) -> Intervals:
    targets, k = predictions.targets, len(predictions.class_names)
    matrix = np.bincount(targets * k + predictions.preds, minlength=k * k).reshape(k, k)
    intervals = {
        "balanced_accuracy": mean_of_wilsons(tally.hits, tally.actual, confidence_level),
        "macro/precision": mean_of_wilsons(tally.hits, tally.predicted, confidence_level),
    }
    if np.count_nonzero(tally.actual) > 1:
        intervals["macro/specificity"] = macro_specificity(matrix, confidence_level)
        intervals["macro/auroc"] = delong_macro(predictions.probs, targets, confidence_level)
    if np.count_nonzero(tally.predicted) > 1:
        intervals["macro/npv"] = macro_specificity(matrix.T, confidence_level)
    return intervals


def _per_class(predictions: Predictions, tally: Tally, confidence_level: float) -> Intervals:
    intervals = {}
    for metric, (successes, trials) in proportions(tally).items():
        interval = wilson_f1 if metric == "f1" else wilson
        for c in np.flatnonzero(trials).tolist():
            name = f"{metric}/{predictions.class_names[c]}"
            intervals[name] = interval(int(successes[c]), int(trials[c]), confidence_level)
    for c, name in enumerate(predictions.class_names):
        if 0 < tally.actual[c] < tally.total:
            positive = predictions.targets == c
            intervals[f"auroc/{name}"] = delong(predictions.probs[:, c], positive, confidence_level)
    return intervals
