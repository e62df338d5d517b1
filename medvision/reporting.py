"""The report of a run, put together from what the run directory holds."""

import csv
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from medvision.evaluation import Estimate, Predictions
from medvision.evaluation.gallery import Picture, choose
from medvision.evaluation.model_card import model_card
from medvision.evaluation.report import report
from medvision.evaluation.strata import members
from medvision.files import write_text
from medvision.inference.bundle import amend_bundle
from medvision.inference.explain import pictures, why_no_maps
from medvision.inference.predictor import Predictor
from medvision.provenance import without_passwords
from medvision.rundir import RunDirectory


def write_metrics(file: Path, estimates: Mapping[str, Estimate]) -> None:
    """Write metrics.json."""
    content = {name: estimate.to_json() for name, estimate in estimates.items()}
    write_text(file, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_metrics(file: Path) -> dict[str, Estimate]:
    """Read what `write_metrics` wrote."""
    content = json.loads(file.read_text(encoding="utf-8"))
    return {name: Estimate(**values) for name, values in content.items()}


def write_report(
    cfg: DictConfig,
    directory: RunDirectory,
    predictor: Predictor,
    predictions: Predictions,
    images: Any,
    estimates: Mapping[str, Estimate],
    title: str,
) -> None:
    """Write report.html of the test split, and the model card into the bundle.

    Args:
        cfg: of the run.
        directory: of the run, with everything but the report.
        predictor: of the run's model.
        predictions: of the test split.
        images: (N, C, H, W) uint8, of the same cases.
        estimates: all of metrics.json.
        title: of the page.
    """
    facts = collect(cfg, directory, predictor, predictions, estimates, title)
    shown = gallery(cfg.evaluation.pictures, predictor, predictions, images)
    rows = _rows(directory.path / "metrics.csv")
    write_text(directory.path / "report.html", report(predictions, facts, estimates, rows, shown))
    amend_bundle(directory.model, card=model_card(facts, estimates))


def write_external_report(
    folder: Path,
    facts: Mapping[str, Any],
    predictor: Predictor,
    predictions: Predictions,
    images: Any,
    estimates: Mapping[str, Estimate],
    pictures_each: int,
) -> None:
    """Write report.html of an external test set; `facts` as `collect` gives them, with what differs put in."""
    shown = gallery(pictures_each, predictor, predictions, images)
    write_text(folder / "report.html", report(predictions, facts, estimates, [], shown, part="external"))


def gallery(each: int, predictor: Predictor, predictions: Predictions, images: Any) -> list[Picture]:
    """The pictures of a report, `each` in each of its sections."""
    return pictures(predictor, images, predictions, choose(predictions, each)) if each else []


def collect(
    cfg: DictConfig,
    directory: RunDirectory,
    predictor: Predictor,
    predictions: Predictions,
    estimates: Mapping[str, Estimate],
    title: str,
    part: str = "test",
) -> dict[str, Any]:
    """What is known of a run beside its numbers, in the form that `medvision.evaluation.report.report` takes."""
    record, rows = directory.facts, _rows(directory.path / "metrics.csv")
    best = _best_epoch(cfg.monitor, rows)
    return {
        "title": title,
        "kind": "internal test",
        "written": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": without_passwords(f"python -m medvision.train {' '.join(cfg.overrides)}"),
        "config": without_passwords(OmegaConf.to_yaml(cfg)),
        "seed": cfg.seed,
        "confidence_level": cfg.evaluation.confidence_level,
        "n_resamples": cfg.evaluation.n_resamples,
        "data": record["data"],
        "quarantine": _table(directory.path / "quarantine.csv"),
        "environment": {name: record[name] for name in ("versions", "python", "processor", "git") if name in record},
        "seconds": record.get("seconds"),
        "model": {
            "name": cfg.choices.model,
            "parameters": record.get("parameters"),
            "image_size": list(predictor.decode["size"]),
            "channels": predictor.decode["channels"],
            "resize": predictor.decode["resize"],
            "precision": cfg.trainer.precision if rows else None,
            "epochs": len(rows) or None,
            "best_epoch": best,
            "monitor": cfg.monitor if rows else None,
            "augmentation": cfg.choices.augmentation if rows else None,
            "views": None if predictor.tta == "none" else predictor.tta,
            "optimizer": cfg.choices.optimizer if rows else None,
        },
        "calibration": record.get("calibration"),
        "operating_point": _operating_point(cfg, record),
        "conformal": record.get("conformal"),
        "cam": why_no_maps(predictor),
        "robustness": _robustness(estimates, part),
        "probes": record.get("probes"),
        "notes": [*record.get("notes", []), *_without_subgroups(predictions)],
    }


def _without_subgroups(predictions: Predictions) -> list[str]:
    """Why a column of the data is no table of subgroups in the report."""
    found = {name: members(column) for name, column in predictions.meta.items()}
    return [f"No subgroups by {name}: {reason}." for name, reason in found.items() if isinstance(reason, str)]


def _operating_point(cfg: DictConfig, record: Mapping[str, Any]) -> dict[str, Any] | None:
    """As it was chosen, with the prevalence that was stated last."""
    point = record.get("operating_point")
    return None if point is None else {**point, "prevalence": cfg.evaluation.prevalence}


def _robustness(estimates: Mapping[str, Estimate], part: str) -> dict[str, int] | None:
    first = estimates.get(f"{part}/robustness/noise/1/accuracy")
    return None if first is None else {"n": first.n}


def _rows(file: Path) -> list[dict[str, float]]:
    """metrics.csv, without the cells that are empty; classical models have none."""
    return [{name: float(cell) for name, cell in row.items() if cell} for row in _table(file)] if file.is_file() else []


def _table(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def _best_epoch(monitor: str, rows: Sequence[Mapping[str, float]]) -> int | None:
    """Counted from 1; the earliest of equal ones, as checkpoints are kept."""
    values = [row[monitor] for row in rows if monitor in row]
    if not values:
        return None
    return values.index(min(values) if monitor == "val/loss" else max(values)) + 1
