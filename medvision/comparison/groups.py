"""Finished runs, found below a folder and grouped by configuration into candidates of a comparison."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvision.comparison.compare import COSTS, Candidate
from medvision.comparison.replicates import Replicate
from medvision.errors import DataError, RunError
from medvision.metrics.predictions import Predictions
from medvision.runs.resume import ABOUT_THIS_COMMAND, FREE
from medvision.runs.saved_run import SavedRun

# Runs that differ in nothing else are one configuration.
VARYING = ("seed", "data.fold", "choices", "overrides", "config_dir", *ABOUT_THIS_COMMAND, *FREE)


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """A finished run with its test predictions.

    Attributes:
        saved: that was read.
        predictions: of the test cases.
    """

    saved: SavedRun
    predictions: Predictions

    @property
    def place(self) -> tuple[int | None, int | None]:
        """Seed and fold."""
        return self.saved.config.get("seed"), self.saved.config.get("data", {}).get("fold")

    @property
    def key(self) -> str:
        """Equal for runs of one configuration."""
        config = json.loads(json.dumps(self.saved.config, default=str))
        for name in VARYING:
            node = config
            *parents, leaf = name.split(".")
            for parent in parents:
                node = node.get(parent) or {}
            node.pop(leaf, None)
        return json.dumps(config, sort_keys=True)

    def cost(self) -> dict[str, float | None]:
        """Time, memory and size, None where run.json does not have them."""
        facts = self.saved.facts
        seconds = facts.get("seconds") or {}
        files = [file for file in self.saved.model.rglob("*") if file.is_file()]
        found = {
            "seconds_fit": seconds.get("fit"),
            "seconds_predict_per_image": seconds.get("predict_per_image"),
            "size_bytes": sum(file.stat().st_size for file in files) or None,
            "peak_memory_bytes": facts.get("peak_memory_bytes"),
            "parameters": facts.get("parameters"),
        }
        return {name: found[name] for name in COSTS}


def find(places: str | Sequence[str]) -> tuple[list[FinishedRun], list[str]]:
    """Read runs.

    Args:
        places: run directories, which must be finished, and folders, below which all finished runs are taken.

    Returns:
        At least two runs, and a note on each unfinished run that was left out of a folder.

    Raises:
        RunError: if a place holds no run, a run that is not finished, or the same one as another place; or if there is
            only one run.
        DataError: if predictions cannot be read.
    """
    places = [places] if isinstance(places, str) else places
    found: dict[Path, FinishedRun] = {}
    notes: list[str] = []
    for place in places:
        folder = Path(place)
        if not folder.is_dir():
            raise RunError(f"{place} is not a folder.\nExpected run directories, or a folder with some.")
        named = (folder / "run.json").is_file()
        runs = [SavedRun(folder)] if named else [SavedRun(file.parent) for file in sorted(folder.rglob("run.json"))]
        left_out = []
        for run in runs:
            if not named and not run.is_finished:
                reason = run.facts.get("reason")
                left_out.append(
                    f"{run.path} was left out: not finished ({run.status}{f': {reason}' if reason else ''})."
                )
                continue
            run.require_finished()
            if run.path.resolve() in found:
                raise RunError(f"{run.path} is named twice.\nName each run once.")
            found[run.path.resolve()] = _read(run)
        if len(left_out) == len(runs):
            unfinished = f" ({len(left_out)} unfinished)" if left_out else ""
            raise RunError(f"No finished run below {place}{unfinished}.\nTrain first: medvision train.")
        notes += left_out
    if len(found) < 2:
        only = f" ({found.popitem()[1].saved.path})" if found else ""
        raise RunError(
            f"A comparison needs two runs or more; found one{only}.\n"
            "Name them: runs=[RUN,RUN], or a folder of them: runs=multirun/EXPERIMENT/HASH."
        )
    return list(found.values()), notes


def candidates(runs: Sequence[FinishedRun]) -> list[Candidate]:
    """Group runs that differ in seed or fold only, and give each group a name of its own.

    Runs that are equal even in these are compared as models of their own, named by their path.

    Raises:
        RunError: if a seed and fold is there twice beside other ones.
        DataError: if a case was tested in two folds of a configuration.
    """
    groups: dict[str, list[FinishedRun]] = {}
    for run in runs:
        groups.setdefault(run.key, []).append(run)
    apart: list[list[FinishedRun]] = []
    for group in groups.values():
        by_place: dict[Any, list[FinishedRun]] = {}
        for run in group:
            by_place.setdefault(run.place, []).append(run)
        if len(by_place) == 1:
            apart += [[run] for run in group]
            continue
        if twice := [same for same in by_place.values() if len(same) > 1]:
            seed, fold = twice[0][0].place
            where = f"seed {seed}" + ("" if fold is None else f", fold {fold}")
            raise RunError(
                f"{twice[0][0].saved.path} and {twice[0][1].saved.path} are both {where} of one configuration.\n"
                "Leave one of them out."
            )
        apart.append(group)
    return [_candidate(name, group) for name, group in zip(_names(apart), apart, strict=True)]


def notes(runs: Sequence[FinishedRun]) -> list[str]:
    """What a comparison must repeat of what the runs themselves recorded."""
    found = []
    facts = {id(run): run.saved.facts for run in runs}
    machines = {(one.get("processor"), one.get("gpu"), one.get("threads")) for one in facts.values()}
    if len(machines) > 1:
        found.append("The runs were made on different machines or numbers of threads: their times do not compare.")
    for run in runs:
        data = facts[id(run)].get("data") or {}
        tested, unseen = (data.get("images") or {}).get("test"), data.get("test_never_seen")
        if tested and unseen is not None and unseen < tested:
            found.append(
                f"{run.saved.path}: {tested - unseen} of {tested} test images had been trained or validated on."
            )
    folds = {run.key: (run.saved.config.get("data") or {}).get("n_folds") for run in runs}
    for key, n_folds in folds.items():
        there = {run.place[1] for run in runs if run.key == key}
        if n_folds and 1 < len(there) < n_folds:
            found.append(f"Only {len(there)} of {n_folds} folds are finished: the other cases were not tested.")
    return list(dict.fromkeys(found))


def _candidate(name: str, group: Sequence[FinishedRun]) -> Candidate:
    by_seed: dict[Any, list[FinishedRun]] = {}
    for run in sorted(group, key=lambda run: [-1 if part is None else part for part in run.place]):
        by_seed.setdefault(run.place[0], []).append(run)
    replicates = tuple(
        Replicate.of(seed, [(str(run.saved.path), run.predictions) for run in folds]) for seed, folds in by_seed.items()
    )
    costs = [run.cost() for run in group]
    mean: dict[str, float | None] = {}
    for key in COSTS:
        known = [value for one in costs if (value := one[key]) is not None]
        mean[key] = sum(known) / len(known) if len(known) == len(costs) else None
    return Candidate(name, replicates, mean, tuple(str(run.saved.path) for run in group))


def _names(groups: Sequence[Sequence[FinishedRun]]) -> list[str]:
    """The first of these that is different for all: model, experiment, what was typed, both; else the path."""
    first = [group[0] for group in groups]
    choices = [run.saved.config.get("choices") or {} for run in first]
    models = [str(one.get("model")) for one in choices]
    experiments = [str(one.get("experiment") or one.get("data")) for one in choices]
    lines = [[str(line).lstrip("+") for line in run.saved.config.get("overrides") or ()] for run in first]
    known = ("seed", "out", "resume", "data.fold", "output_root", "model", "experiment")
    typed = [
        ", ".join(
            line for line in own if line.partition("=")[0] not in known and not all(line in other for other in lines)
        )
        for own in lines
    ]
    for names in (
        models,
        experiments,
        [f"{model}, {line}" if line else model for model, line in zip(models, typed, strict=True)],
        [f"{experiment}, {model}" for experiment, model in zip(experiments, models, strict=True)],
    ):
        if len(set(names)) == len(names):
            return names
    return [str(run.saved.path) for run in first]


def _read(run: SavedRun) -> FinishedRun:
    try:
        return FinishedRun(run, run.predictions("test"))
    except DataError as error:
        raise RunError(f"{run.path} cannot be compared: {error}\nLeave this run out, or train it again.") from error
