"""Finished runs, found below a folder and grouped by what they have in common, ready to be compared."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from medvision.errors import DataError, RunError
from medvision.evaluation.comparison import COSTS, Candidate
from medvision.evaluation.predictions import Predictions
from medvision.evaluation.replicates import Replicate
from medvision.resume import ABOUT_THIS_COMMAND, FREE

# Runs that differ in nothing else are one configuration.
VARYING = ("seed", "data.fold", "choices", "overrides", "config_dir", *ABOUT_THIS_COMMAND, *FREE)


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """A run directory as it was read.

    Attributes:
        path: of the directory.
        config: config.yaml.
        facts: run.json.
        predictions: of the test cases.
    """

    path: Path
    config: Mapping[str, Any]
    facts: Mapping[str, Any]
    predictions: Predictions

    @property
    def place(self) -> tuple[int | None, int | None]:
        """Seed and fold."""
        return self.config.get("seed"), self.config.get("data", {}).get("fold")

    @property
    def key(self) -> str:
        """Equal for runs of one configuration."""
        config = json.loads(json.dumps(self.config, default=str))
        for name in VARYING:
            node = config
            *parents, leaf = name.split(".")
            for parent in parents:
                node = node.get(parent) or {}
            node.pop(leaf, None)
        return json.dumps(config, sort_keys=True)

    def cost(self) -> dict[str, float | None]:
        """What it took, None where run.json does not say."""
        seconds = self.facts.get("seconds") or {}
        files = [file for file in (self.path / "model").rglob("*") if file.is_file()]
        found = {
            "seconds_fit": seconds.get("fit"),
            "seconds_predict_per_image": seconds.get("predict_per_image"),
            "size_bytes": sum(file.stat().st_size for file in files) or None,
            "peak_memory_bytes": self.facts.get("peak_memory_bytes"),
            "parameters": self.facts.get("parameters"),
        }
        return {name: found[name] for name in COSTS}


def find(places: str | Sequence[str]) -> tuple[list[FinishedRun], list[str]]:
    """Read runs.

    Args:
        places: run directories, which must be finished, and folders, below which all finished runs are taken.

    Returns:
        At least two runs, and a note on each that a folder holds but that was left out.

    Raises:
        RunError: if a place holds no run, a run that is not finished, or the same one as another place; or if there is
            one run only.
        DataError: if predictions cannot be read.
    """
    places = [places] if isinstance(places, str) else places
    found: dict[Path, FinishedRun] = {}
    notes: list[str] = []
    for place in places:
        folder = Path(place)
        if not folder.is_dir():
            raise RunError(f"{place} is no folder.\nExpected run directories, or a folder that holds some.")
        named = (folder / "run.json").is_file()
        files = [folder / "run.json"] if named else sorted(folder.rglob("run.json"))
        left_out = []
        for file in files:
            path, facts = file.parent.resolve(), _facts(file)
            status = facts.get("status")
            if status != "finished":
                reason = f"{status}: {facts['reason']}" if facts.get("reason") else str(status)
                if named:
                    raise RunError(
                        f"{place} is not finished ({reason}).\n"
                        f"Go on with it by python -m medvision.train resume={place}, or leave it out."
                    )
                left_out.append(f"{file.parent} was left out: not finished ({reason}).")
            elif path in found:
                raise RunError(f"{file.parent} is named twice.\nName each run once.")
            else:
                found[path] = _read(file.parent, facts)
        if len(left_out) == len(files):
            unfinished = f" ({len(left_out)} that are not finished)" if left_out else ""
            raise RunError(f"No finished run below {place}{unfinished}.\nTrain first: python -m medvision.train.")
        notes += left_out
    if len(found) < 2:
        only = f" ({found.popitem()[1].path})" if found else ""
        raise RunError(
            f"One run is nothing to compare{only}.\n"
            "Name two or more: runs=[RUN,RUN], or a folder of them: runs=multirun/EXPERIMENT/HASH."
        )
    return list(found.values()), notes


def candidates(runs: Sequence[FinishedRun]) -> list[Candidate]:
    """Group runs that differ in seed or fold only, and give each group a name that tells it from the others.

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
                f"{twice[0][0].path} and {twice[0][1].path} are both {where} of one configuration.\n"
                "Leave one of them out."
            )
        apart.append(group)
    return [_candidate(name, group) for name, group in zip(_names(apart), apart, strict=True)]


def notes(runs: Sequence[FinishedRun]) -> list[str]:
    """What the runs themselves say that a comparison of them must repeat."""
    found = []
    processors = {(run.facts.get("processor"), run.facts.get("gpu"), run.facts.get("threads")) for run in runs}
    if len(processors) > 1:
        found.append("The runs were made on different machines or numbers of threads: their times do not compare.")
    for run in runs:
        data = run.facts.get("data") or {}
        tested, unseen = (data.get("images") or {}).get("test"), data.get("test_never_seen")
        if tested and unseen is not None and unseen < tested:
            found.append(f"{run.path}: {tested - unseen} of {tested} test images had been trained or validated on.")
    folds = {run.key: (run.config.get("data") or {}).get("n_folds") for run in runs}
    for key, n_folds in folds.items():
        there = {run.place[1] for run in runs if run.key == key}
        if n_folds and 1 < len(there) < n_folds:
            found.append(f"{len(there)} of {n_folds} folds are there: the other cases were not tested.")
    return list(dict.fromkeys(found))


def _candidate(name: str, group: Sequence[FinishedRun]) -> Candidate:
    by_seed: dict[Any, list[FinishedRun]] = {}
    for run in sorted(group, key=lambda run: [-1 if part is None else part for part in run.place]):
        by_seed.setdefault(run.place[0], []).append(run)
    replicates = tuple(
        Replicate.of(seed, [(str(run.path), run.predictions) for run in folds]) for seed, folds in by_seed.items()
    )
    costs = [run.cost() for run in group]
    mean: dict[str, float | None] = {}
    for key in COSTS:
        known = [value for one in costs if (value := one[key]) is not None]
        mean[key] = sum(known) / len(known) if len(known) == len(costs) else None
    return Candidate(name, replicates, mean, tuple(str(run.path) for run in group))


def _names(groups: Sequence[Sequence[FinishedRun]]) -> list[str]:
    """The first of these that is different for all: model, experiment, what was typed, both; else the path."""
    first = [group[0] for group in groups]
    choices = [run.config.get("choices") or {} for run in first]
    models = [str(one.get("model")) for one in choices]
    experiments = [str(one.get("experiment") or one.get("data")) for one in choices]
    lines = [[str(line).lstrip("+") for line in run.config.get("overrides") or ()] for run in first]
    told = ("seed", "out", "resume", "data.fold", "output_root", "model", "experiment")
    typed = [
        ", ".join(
            line for line in own if line.partition("=")[0] not in told and not all(line in other for other in lines)
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
    return [str(run.path) for run in first]


def _facts(file: Path) -> dict[str, Any]:
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{file} cannot be read: {error}.\nLeave this run out, or train it again.") from error
    if not isinstance(facts, dict):
        raise RunError(f"{file} is not the record of a run.\nLeave this folder out.")
    return facts


def _read(path: Path, facts: Mapping[str, Any]) -> FinishedRun:
    try:
        config = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
        predictions = Predictions.load(path / "predictions" / "test.npz")
    except (OSError, ValueError, yaml.YAMLError, DataError) as error:
        raise RunError(f"{path} cannot be compared: {error}\nLeave this run out, or train it again.") from error
    return FinishedRun(path, config, facts, predictions)
