"""The report of a run, put together from what the run directory holds."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf

from medvision.config.redact import without_passwords
from medvision.files import write_text
from medvision.inference.bundle import write_card
from medvision.inference.explain import activation_maps, overlay, picture, why_no_maps
from medvision.inference.predictor import Predictor
from medvision.metrics.estimates import Estimate, Key, selected, to_json
from medvision.metrics.predictions import Predictions
from medvision.metrics.subgroups import members
from medvision.reports.gallery import Picture, choose
from medvision.reports.model_card import model_card
from medvision.reports.report import report
from medvision.runs.saved_run import SavedRun, run_name


def write_metrics(folder: Path, estimates: Mapping[Key, Estimate]) -> None:
    """Write metrics.json."""
    content = json.dumps(to_json(estimates), indent=2, ensure_ascii=False)
    write_text(folder / "metrics.json", content + "\n")


def write_report(
    cfg: DictConfig,
    run: SavedRun,
    predictor: Predictor,
    predictions: Predictions,
    images: NDArray[np.uint8],
    estimates: Mapping[Key, Estimate],
) -> None:
    """Write report.html of the test split, and the model card into the bundle.

    Args:
        cfg: of the run.
        run: with everything but the report.
        predictor: of the run's model.
        predictions: of the test split.
        images: (N, C, H, W) uint8, of the same cases.
        estimates: all of metrics.json.
    """
    facts = facts_of(cfg, run, predictor, predictions, estimates)
    pictures = gallery(cfg.evaluation.pictures, predictor, predictions, images)
    write_text(run.report, report(predictions, facts, estimates, run.epochs, pictures))
    write_card(run.model, model_card(facts, estimates))


def gallery(each: int, predictor: Predictor, predictions: Predictions, images: NDArray[np.uint8]) -> list[Picture]:
    """The pictures of a report: each case as the network saw it, and with the activation map of its prediction.

    Args:
        each: pictures in each section.
        predictor: that made the predictions.
        predictions: of N cases.
        images: (N, C, H, W) uint8 of the same cases, in memory or memory-mapped.
    """
    if not each:
        return []
    cases = [(section, int(row)) for section, rows in choose(predictions, each).items() for row in rows]
    rows = np.array([row for _, row in cases], np.intp)
    shown, preds = np.asarray(images[rows]), predictions.preds
    maps = None if why_no_maps(predictor) else activation_maps(predictor, shown, preds[rows])
    names, probs, targets = predictions.class_names, predictions.probs, predictions.targets
    return [
        Picture(
            section=section,
            id=str(predictions.ids[row]),
            target=names[targets[row]],
            pred=names[preds[row]],
            prob=float(probs[row, preds[row]]),
            prob_target=float(probs[row, targets[row]]),
            original=picture(shown[place]),
            overlay=None if maps is None else overlay(shown[place], maps[place]),
        )
        for place, (section, row) in enumerate(cases)
    ]


def facts_of(
    cfg: DictConfig,
    run: SavedRun,
    predictor: Predictor,
    predictions: Predictions,
    estimates: Mapping[Key, Estimate],
    split: str = "test",
) -> dict[str, Any]:
    """What is known of a run beside its numbers; see `medvision.reports.tables.FACTS`."""
    record, epochs = run.facts, run.epochs
    views = predictor.decision.tta
    return {
        "title": run_name(cfg),
        "kind": "internal test",
        "written": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": without_passwords(f"medvision train {' '.join(cfg.overrides)}"),
        "config": without_passwords(OmegaConf.to_yaml(cfg)),
        "seed": cfg.seed,
        "confidence_level": cfg.evaluation.confidence_level,
        "n_resamples": cfg.evaluation.n_resamples,
        "data": record["data"],
        "quarantine": run.quarantine,
        "environment": {name: record[name] for name in ("versions", "python", "processor", "git") if name in record},
        "seconds": record.get("seconds"),
        "model": {
            "name": cfg.choices.model,
            "parameters": record.get("parameters"),
            "image_size": list(predictor.decode["size"]),
            "channels": predictor.decode["channels"],
            "resize": predictor.decode["resize"],
            "precision": cfg.trainer.precision if epochs else None,
            "epochs": len(epochs) or None,
            "best_epoch": _best_epoch(cfg.monitor, epochs),
            "monitor": cfg.monitor if epochs else None,
            "augmentation": cfg.choices.augmentation if epochs else None,
            "views": None if views == "none" else views,
            "optimizer": cfg.choices.optimizer if epochs else None,
        },
        "calibration": record.get("calibration"),
        "operating_point": _operating_point(cfg, record),
        "conformal": record.get("conformal"),
        "cam": why_no_maps(predictor),
        "robustness": _robustness(estimates, split),
        "negative_controls": record.get("negative_controls"),
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


def _robustness(estimates: Mapping[Key, Estimate], split: str) -> dict[str, int] | None:
    found = selected(estimates, split=split, section="robustness")
    return {"n": next(iter(found.values())).n} if found else None


def _best_epoch(monitor: str, rows: Sequence[Mapping[str, float]]) -> int | None:
    """Counted from 1; the earliest of equal ones, as checkpoints are kept."""
    values = [row[monitor] for row in rows if monitor in row]
    if not values:
        return None
    return values.index(min(values) if monitor == "val/loss" else max(values)) + 1
