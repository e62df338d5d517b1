"""Models compared on the same cases: every metric with its interval, every pair with the interval of its difference.

Where cases are independent, accuracies are compared by McNemar's test and AUROCs by DeLong's; everything else by the
paired bootstrap, in which all models see the same resamples. As soon as cases share a group, whole groups are resampled
and the bootstrap replaces both tests. It replaces them, too, for configurations with several seeds, which are not one
model each. Holm's correction is over all pairs, for each metric by itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvision.comparison.differences import Difference, Scale, Score, corrected
from medvision.comparison.replicates import Replicate, Spread, aligned, ensemble
from medvision.comparison.shared_resamples import score_all
from medvision.errors import ConfigError
from medvision.metrics.bootstrap import Resampling
from medvision.metrics.definitions import compared
from medvision.metrics.estimates import Estimate, Key
from medvision.metrics.evaluate import evaluate
from medvision.metrics.predictions import Predictions


@dataclass(frozen=True, eq=False)
class Candidate:
    """A configuration to compare.

    Attributes:
        name: for readers, each once.
        replicates: one for each seed.
        cost: what one run took; see `COSTS`. None where unknown.
        runs: where they lie.
    """

    name: str
    replicates: tuple[Replicate, ...]
    cost: Mapping[str, float | None] = field(default_factory=dict)
    runs: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str, predictions: Predictions) -> "Candidate":
        """A single model."""
        return cls(name, (Replicate.of(None, [(name, predictions)]),))


# What a model costs, and what readers call it.
COSTS = {
    "seconds_fit": "training time",
    "seconds_predict_per_image": "prediction time per image",
    "size_bytes": "size on disk",
    "peak_memory_bytes": "peak memory",
    "parameters": "parameters",
}
# An ensemble takes all members one after another: these add up, while memory is that of the largest.
_ADD_UP = ("seconds_fit", "seconds_predict_per_image", "size_bytes", "parameters")


@dataclass(frozen=True)
class Row:
    """One model of the table.

    Attributes:
        name: for readers.
        seeds: how many; of an ensemble, its members.
        folds: how many were joined; 1 for a plain test set.
        is_ensemble: whether it is the mean of a configuration's members.
        estimates: each metric with its interval, over cases and, with several seeds, over seeds.
        over_seeds: how much each metric varies between seeds; empty for fewer than two.
        over_folds: the same between folds.
        cost: of one run; of an ensemble, of its members together.
        runs: where they lie.
    """

    name: str
    seeds: int
    folds: int
    is_ensemble: bool
    estimates: Mapping[str, Estimate]
    over_seeds: Mapping[str, Spread]
    over_folds: Mapping[str, Spread]
    cost: Mapping[str, float | None]
    runs: tuple[str, ...]


@dataclass(frozen=True)
class Pair:
    """Two models and their differences by metric; `identical` if they say the same of every case."""

    first: str
    second: str
    differences: Mapping[str, Difference]
    identical: bool


@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Attributes:
        class_names: of the models.
        n: cases.
        units: groups, a case that stands alone counting as one.
        grouped: whether cases share groups.
        rows: the models as given, each followed by its ensemble if it has one.
        pairs: of all models, ensembles left out.
        confidence_level: of the intervals.
        n_resamples: of the bootstrap.
    """

    class_names: tuple[str, ...]
    n: int
    units: int
    grouped: bool
    rows: tuple[Row, ...]
    pairs: tuple[Pair, ...]
    confidence_level: float
    n_resamples: int

    def to_json(self) -> dict[str, Any]:
        """Everything, in plain values."""
        return {
            "n": self.n,
            "units": self.units,
            "grouped": self.grouped,
            "class_names": list(self.class_names),
            "confidence_level": self.confidence_level,
            "n_resamples": self.n_resamples,
            "models": [
                {
                    "name": row.name,
                    "seeds": row.seeds,
                    "folds": row.folds,
                    "ensemble": row.is_ensemble,
                    "runs": list(row.runs),
                    "metrics": {name: estimate.to_json() for name, estimate in row.estimates.items()},
                    "over_seeds": {name: vars(spread) for name, spread in row.over_seeds.items()},
                    "over_folds": {name: vars(spread) for name, spread in row.over_folds.items()},
                    "cost": dict(row.cost),
                }
                for row in self.rows
            ],
            "pairs": [
                {
                    "first": pair.first,
                    "second": pair.second,
                    "identical": pair.identical,
                    "differences": {name: vars(one) for name, one in pair.differences.items()},
                }
                for pair in self.pairs
            ],
        }


def compare(
    candidates: Sequence[Candidate], confidence_level: float = 0.95, n_resamples: int = 1000, seed: int = 0
) -> Comparison:
    """Compare models on the same cases.

    Args:
        candidates: at least one.
        confidence_level: in (0, 1).
        n_resamples: of the bootstrap, at least 2.
        seed: of the resamples.

    Raises:
        DataError: if cases, targets, groups or class names differ.
        ConfigError: if two candidates have one name, or a number is out of range.
    """
    names = [one.name for one in candidates]
    if len(set(names)) < len(names):
        raise ConfigError(f"Two models have one name: {', '.join(names)}.\nGive each a name of its own.")
    if not 0 < confidence_level < 1 or n_resamples < 2:
        raise ConfigError(
            "Expected a confidence_level between 0 and 1 and n_resamples of 2 or more; "
            f"found {confidence_level} and {n_resamples}."
        )
    candidates = _on_the_same_cases(candidates)
    sets = [[replicate.predictions for replicate in one.replicates] for one in candidates]
    # Each ensemble stands behind its members, and all see the same resamples.
    models = [one for members in sets for one in (*members, *([ensemble(members)] if len(members) > 1 else []))]
    first = models[0]
    resampling = Resampling.of(first)
    scale = Scale(first, resampling, confidence_level)
    values, resampled = score_all(models, resampling, n_resamples, seed)

    def alone(one: Predictions) -> dict[str, Estimate]:
        estimates = evaluate(one, confidence_level, n_resamples, seed)
        return {name: estimates[Key(name)] for name in compared()}

    rows, scores, start = [], [], 0
    for candidate, members in zip(candidates, sets, strict=True):
        own = slice(start, start + len(members))
        start = own.stop + (len(members) > 1)
        score = Score.of(members[0], values[own], resampled[own])
        scores.append(score)
        if len(members) == 1:
            rows.append(_row(candidate, score, alone(members[0]), confidence_level))
            continue
        over_seeds = {name: scale.estimate(name, score) for name in compared()}
        rows.append(_row(candidate, score, over_seeds, confidence_level))
        rows.append(_ensemble_row(candidate, alone(models[own.stop])))
    return Comparison(
        class_names=first.class_names,
        n=scale.n,
        units=scale.units,
        grouped=scale.grouped,
        rows=tuple(rows),
        pairs=_pairs(candidates, scores, scale),
        confidence_level=confidence_level,
        n_resamples=n_resamples,
    )


def _pairs(candidates: Sequence[Candidate], scores: Sequence[Score], scale: Scale) -> tuple[Pair, ...]:
    places = list(combinations(range(len(candidates)), 2))
    by_metric = {
        name: corrected([scale.difference(name, scores[i], scores[j]) for i, j in places], scale.confidence_level)
        for name in compared()
    }
    return tuple(
        Pair(
            candidates[i].name,
            candidates[j].name,
            {name: differences[place] for name, differences in by_metric.items()},
            _identical(candidates[i], candidates[j]),
        )
        for place, (i, j) in enumerate(places)
    )


def _identical(one: Candidate, other: Candidate) -> bool:
    return len(one.replicates) == len(other.replicates) and all(
        np.array_equal(ours.predictions.probs, theirs.predictions.probs)
        for ours, theirs in zip(one.replicates, other.replicates, strict=True)
    )


def _on_the_same_cases(candidates: Sequence[Candidate]) -> list[Candidate]:
    labelled = [
        (f"{one.name}, seed {replicate.seed}" if len(one.replicates) > 1 else one.name, replicate.predictions)
        for one in candidates
        for replicate in one.replicates
    ]
    ready = iter(aligned(labelled))
    return [
        replace(one, replicates=tuple(replace(replicate, predictions=next(ready)) for replicate in one.replicates))
        for one in candidates
    ]


def _row(candidate: Candidate, score: Score, estimates: Mapping[str, Estimate], confidence_level: float) -> Row:
    folds = [fold for replicate in candidate.replicates for fold in replicate.folds]
    per_seed = len(candidate.replicates[0].folds)
    by_fold = [_values(fold) for fold in folds] if per_seed > 1 else []

    def spreads(values: Any, spread: Any) -> dict[str, Spread]:
        table = np.asarray(values)
        if len(table) < 2:
            return {}
        columns = {name: table[:, m] for m, name in enumerate(compared()) if np.isfinite(table[:, m]).all()}
        return {name: spread(column.tolist()) for name, column in columns.items()}

    return Row(
        name=candidate.name,
        seeds=score.seeds,
        folds=per_seed,
        is_ensemble=False,
        estimates=estimates,
        over_seeds=spreads(score.by_seed, lambda column: Spread.over_seeds(column, confidence_level)),
        over_folds=spreads(by_fold, Spread.over_folds),
        cost=candidate.cost,
        runs=candidate.runs,
    )


def _values(fold: Predictions) -> NDArray[np.float64]:
    values, _ = score_all([fold], Resampling.of(fold), 0, 0)
    return np.asarray(values[0])


def _ensemble_row(candidate: Candidate, estimates: Mapping[str, Estimate]) -> Row:
    members = len(candidate.replicates)
    cost = {
        name: members * value if value is not None and name in _ADD_UP else value
        for name, value in candidate.cost.items()
    }
    return Row(
        name=f"{candidate.name}, ensemble of {members}",
        seeds=members,
        folds=len(candidate.replicates[0].folds),
        is_ensemble=True,
        estimates=estimates,
        over_seeds={},
        over_folds={},
        cost=cost,
        runs=candidate.runs,
    )
