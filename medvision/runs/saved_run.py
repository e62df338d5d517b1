"""SavedRun: the one reader of a run directory."""

import csv
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from medvision.config.renames import updated
from medvision.errors import DataError, RunError
from medvision.metrics.estimates import SECTIONS, Estimate, Estimates, Key, from_json
from medvision.metrics.predictions import Predictions

if TYPE_CHECKING:
    from medvision.inference.predictor import Predictor


class SavedRun:
    """A run directory: `config.yaml`, `run.json`, metrics, predictions, model, report.

    Args:
        path: The directory; `open` checks that it holds a run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.yaml"
        self.model = path / "model"
        self.report = path / "report.html"
        self.last = path / "checkpoints" / "last.ckpt"
        self.best = path / "checkpoints" / "best.ckpt"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r}, status={self.status!r})"

    @classmethod
    def open(cls, path: str | Path) -> "SavedRun":
        """The run in a directory.

        Raises:
            RunError: if there is none.
        """
        run = cls(Path(path).absolute())
        if not run.config_file.is_file():
            raise RunError(f"{path} holds no run: config.yaml is missing.\nExpected the directory of an earlier run.")
        return run

    @property
    def facts(self) -> dict[str, Any]:
        """The content of run.json; empty if there is none.

        Raises:
            RunError: if it cannot be read.
        """
        file = self.path / "run.json"
        if not file.is_file():
            return {}
        try:
            facts = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{file} cannot be read: {error}.\nRestore it, or train again.") from error
        if not isinstance(facts, dict):
            raise RunError(f"{file} is not the record of a run.\nRestore it, or train again.")
        return facts

    @property
    def status(self) -> str | None:
        """running, finished, interrupted or failed; None where no run has begun."""
        status = self.facts.get("status")
        return None if status is None else str(status)

    @property
    def is_finished(self) -> bool:
        """Whether it came to its end."""
        return self.status == "finished"

    @property
    def must_stay(self) -> bool:
        """Whether something would be lost if another run took the directory: not where it failed without a trace."""
        return self.status is not None and (self.status != "failed" or self.last.exists())

    @property
    def is_resumable(self) -> bool:
        """Whether there is something left to continue."""
        return self.must_stay and not self.is_finished

    def require_finished(self) -> "SavedRun":
        """The run itself.

        Raises:
            RunError: if it is not finished.
        """
        if not self.is_finished:
            reason = self.facts.get("reason")
            raise RunError(
                f"{self.path} is not finished (status: {self.status}{f', {reason}' if reason else ''}).\n"
                f"Finish it first: medvision train resume={self.path}"
            )
        return self

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.yaml in plain values, keys and names as this version has them.

        Raises:
            RunError: if it cannot be read.
        """
        try:
            config = yaml.safe_load(self.config_file.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            reason = str(error).splitlines()[0]
            raise RunError(f"{self.config_file} cannot be read: {reason}.\nRestore it, or train again.") from error
        if not isinstance(config, dict):
            raise RunError(f"{self.config_file} is not the configuration of a run.\nRestore it, or train again.")
        return dict(updated(config))

    @property
    def metrics(self) -> Estimates:
        """metrics.json.

        Raises:
            RunError: if it cannot be read.
        """
        file = self.path / "metrics.json"
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            # Until version 0.1 the file was flat, with names such as test/recall/cat.
            return from_flat(content) if any("/" in name for name in content) else from_json(content)
        except (OSError, ValueError, TypeError, DataError) as error:
            raise RunError(f"{file} cannot be read: {error}.\nMake it again: medvision evaluate run=RUN") from error

    def estimate(self, metric: str, class_name: str | None = None, split: str = "test") -> Estimate:
        """One of `metrics`: `run.estimate("accuracy")`, `run.estimate("sensitivity", "pneumonia")`.

        Raises:
            KeyError: if the run has no such estimate.
        """
        return self.metrics[Key(metric, class_name, split=split)]

    @property
    def epochs(self) -> list[dict[str, float]]:
        """The rows of metrics.csv without empty cells; classical models have none."""
        rows = _table(self.path / "metrics.csv")
        return [{name: float(cell) for name, cell in row.items() if cell} for row in rows]

    @property
    def quarantine(self) -> list[dict[str, str]]:
        """path, reason and stage of each file that could not be used."""
        return _table(self.path / "quarantine.csv")

    @property
    def splits(self) -> list[dict[str, str]]:
        """id, label, group, split and hash of the pixels of every image."""
        return _table(self.path / "splits.csv")

    def predictions(self, split: str = "test") -> Predictions:
        """The predictions for every case of a split: val, calibration or test.

        Raises:
            DataError: if they cannot be read.
        """
        return Predictions.load(self.path / "predictions" / f"{split}.npz")

    def predictor(self, device: str = "cpu") -> "Predictor":
        """The trained model, loaded from its bundle.

        Raises:
            BundleError: if it cannot be loaded.
        """
        from medvision.inference.bundle import load_bundle  # torch, which a comparison does not need

        return load_bundle(self.model, device)

    @property
    def name(self) -> str:
        """Of the experiment, else of data and model."""
        return run_name(self.config)


def run_name(config: Any) -> str:
    """Name of a run: its experiment, else data and model."""
    choices = config["choices"]
    return str(choices.get("experiment") or f"{choices['data']}_{choices['model']}")


def find_resumable(resume: str, root: str, name: str) -> SavedRun:
    """The run to continue.

    Args:
        resume: its directory, or `auto` for the newest run below `<root>/<name>` that can be resumed.
        root: where runs are collected.
        name: of the experiment.

    Raises:
        RunError: if there is no such run.
    """
    if resume != "auto":
        return SavedRun.open(resume)
    runs = [SavedRun(file.parent) for file in (Path(root).absolute() / name).glob("*/run.json")]
    unfinished = [run for run in runs if run.is_resumable]
    if not unfinished:
        raise RunError(f"No unfinished run below {Path(root) / name}.\nStart one without resume=auto.")
    return max(unfinished, key=lambda run: str(run.facts["started"]))


def _table(file: Path) -> list[dict[str, str]]:
    if not file.is_file():
        return []
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


_SECTIONS = {"subgroup": "subgroups", "subgroup_gap": "subgroup_gaps", "probe": "negative_controls"}
_METRICS = {"recall": "sensitivity", "precision": "ppv"}
_CONTROLS = {"random_labels": "shuffled_labels"}


def from_flat(content: Mapping[str, Mapping[str, Any]]) -> Estimates:
    """The estimates of a flat metrics.json."""
    return {_key(name): Estimate(**values) for name, values in content.items()}


def _key(name: str) -> Key:
    split, _, rest = name.partition("/")
    section = None
    if split.endswith("_never_seen"):
        split, section = split.removesuffix("_never_seen"), "never_seen"
    first, _, inner = rest.partition("/")
    names: tuple[str, ...] = ()
    if (found := _SECTIONS.get(first, first)) in SECTIONS:
        section = found
        *before, rest = inner.split("/", SECTIONS[found])
        names = tuple(_CONTROLS.get(one, one) for one in before)
    metric, _, of = rest.partition("/")
    if metric == "macro":
        return Key(f"macro_{_METRICS.get(of, of)}", None, section, names, split)
    return Key(_METRICS.get(metric, metric), of or None, section, names, split)
