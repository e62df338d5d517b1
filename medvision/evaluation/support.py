"""What each metric rests on: how many samples, how many independent units of them, and why it may be undefined."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from medvision.evaluation.confusion import Tally, proportions
from medvision.evaluation.predictions import Predictions


@dataclass(frozen=True)
class Support:
    """Samples and units behind the metrics per class; a unit counts for a class if any of its samples does.

    Attributes:
        total: samples in all.
        units: units in all.
        wrong_units: units with a wrong prediction.
        samples_per_class: by metric, (K,) samples that it rests on.
        units_per_class: by metric, (K,) units that it rests on.
        class_names: K names.
    """

    total: int
    units: int
    wrong_units: int
    samples_per_class: dict[str, NDArray[np.int64]]
    units_per_class: dict[str, NDArray[np.int64]]
    class_names: tuple[str, ...]

    @classmethod
    def of(cls, predictions: Predictions, slots: NDArray[np.intp]) -> Self:
        """Count the (N,) units of the samples, in [0, U)."""
        n, k, units = len(predictions.targets), len(predictions.class_names), int(slots.max()) + 1
        of_class, named = np.zeros((units, k), bool), np.zeros((units, k), bool)
        of_class[slots, predictions.targets] = True
        named[slots, predictions.preds] = True
        # A unit has samples of other classes if it has more classes than this one.
        of_others = of_class.sum(axis=1, keepdims=True) > of_class
        named_others = named.sum(axis=1, keepdims=True) > named
        rarer = np.minimum(of_class.sum(axis=0), of_others.sum(axis=0))
        trials = {metric: trials for metric, (_, trials) in _proportions(predictions).items()}
        return cls(
            n,
            units,
            len(np.unique(slots[predictions.preds != predictions.targets])),
            trials | {"auroc": np.full(k, n), "average_precision": np.full(k, n)},
            {
                "recall": of_class.sum(axis=0),
                "specificity": of_others.sum(axis=0),
                "precision": named.sum(axis=0),
                "npv": named_others.sum(axis=0),
                "f1": (of_class | named).sum(axis=0),
                "auroc": rarer,
                "average_precision": rarer,
            },
            predictions.class_names,
        )

    def samples(self, name: str) -> int:
        """Samples that a metric rests on, by its full name."""
        metric, _, of = name.partition("/")
        return int(self.samples_per_class[metric][self.class_names.index(of)]) if _of_class(name) else self.total

    def fewest_units(self, name: str) -> int:
        """Units behind a metric; for one that looks at several classes those of the smallest class that has any."""
        metric, _, of = name.partition("/")
        if _of_class(name):
            return int(self.units_per_class[metric][self.class_names.index(of)])
        if metric in ("balanced_accuracy", "mcc", "kappa", "kappa_quadratic"):
            metric, of = "macro", "recall"
        if metric != "macro":
            return self.units
        some = self.units_per_class[of][self.units_per_class[of] > 0]
        return int(some.min(initial=self.units))

    def trials(self, name: str) -> int:
        """Trials that Wilson's interval is given where resamples do not vary.

        A macro mean of proportions gets those of its smallest class times the number of classes: errors that went
        unseen would do it most harm there, and all of them could be there. One area under a curve says much the same
        as the next, so their mean gets no more than one of them.
        """
        fewest = self.fewest_units(name)
        several = not _of_class(name) and fewest < self.units and not name.endswith(("auroc", "average_precision"))
        return min(self.units, fewest * len(self.class_names)) if several else fewest


def _of_class(name: str) -> bool:
    return "/" in name and not name.startswith("macro/")


def _proportions(predictions: Predictions) -> dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]]:
    return proportions(Tally.of(predictions.preds, predictions.targets, len(predictions.class_names)))


def why_undefined(name: str, support: Support) -> str:
    """The reason why a metric, by its full name, is undefined; for the calibration see `Recalibration`."""
    metric, _, of = name.partition("/")
    if metric == "macro":
        return "undefined for every class"
    if metric in ("mcc", "kappa", "kappa_quadratic"):
        return (
            "only one class is present, or predicted" if metric == "mcc" else "only one class is present and predicted"
        )
    if metric == "precision":
        return "this class was never predicted"
    if metric == "npv":
        return "every prediction is of this class"
    samples = support.samples(f"recall/{of}")
    return "every sample is of this class" if samples else "no sample of this class"
