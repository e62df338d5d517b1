"""External tests: a run's model on images of another source, or the predictions of another program."""

import logging
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from medvision.cli.console import show_headline, show_report
from medvision.config.targets import build, load_metrics
from medvision.data.external import External, read_external
from medvision.data.options import DataOptions
from medvision.errors import ConfigError
from medvision.files import write_text
from medvision.inference.predictor import Predictor
from medvision.metrics.estimates import placed
from medvision.metrics.options import EvaluationOptions
from medvision.metrics.predictions import Predictions
from medvision.pipeline.evaluate import measure, measure_predictions, predict
from medvision.pipeline.reevaluate import with_evaluation
from medvision.pipeline.report import facts_of, gallery, write_metrics
from medvision.reports.report import report
from medvision.runs.directory import output_directory
from medvision.runs.saved_run import SavedRun

log = logging.getLogger(__name__)


def evaluate_external(cfg: DictConfig, console: Console) -> None:
    """Test a run's model on images of another source, in a folder of its own.

    Args:
        cfg: of the command `evaluate`, with data.
        console: for the output.

    Raises:
        RunError: if the run is not finished.
        DataError: if the images cannot be used, or have classes that the model does not know.
    """
    run = SavedRun.open(cfg.run).require_finished()
    trained = with_evaluation(run, cfg)
    options = EvaluationOptions.of(trained.evaluation)
    load_metrics(options.metrics)
    predictor = run.predictor(cfg.accelerator)
    values = cast(dict[str, Any], OmegaConf.to_container(cfg.data))
    found = read_external(
        build(values["source"], "data.source"),
        predictor.task,
        predictor.decode,
        DataOptions.of(values),
        split=cfg.split,
    )
    unseen = _never_seen(run, found)
    predictions = predict(predictor, found.arrays)
    estimates = measure(predictor, predictions, found.arrays.images, options, unseen, "external")
    folder = output_directory(cfg.out, run.path / "external", "evaluation")
    predictions.save(folder / "external.npz")
    write_text(folder / "quarantine.csv", found.quarantine.to_csv(index=False, lineterminator="\n"))
    write_text(folder / "config.yaml", OmegaConf.to_yaml(cfg))
    write_metrics(folder, estimates)
    facts = facts_of(trained, run, predictor, predictions, estimates, "external")
    facts |= {"title": f"{run.name} on {_title(cfg)}", **_facts(cfg, predictor, found, unseen)}
    pictures = gallery(options.pictures, predictor, predictions, found.arrays.images)
    write_text(folder / "report.html", report(predictions, facts, estimates, [], pictures, "external"))
    show_headline(console, run.name, estimates, options.confidence_level)
    show_report(console, folder / "report.html")


def evaluate_predictions(cfg: DictConfig, console: Console) -> None:
    """Evaluate the predictions of another program, in the folder `out`.

    Args:
        cfg: of the command `evaluate`, with `predictions`.
        console: for the output.

    Raises:
        ConfigError: if something is asked for that predictions alone do not give.
        DataError: if the table cannot be read as predictions, naming columns or rows.
    """
    unused = [name for name in ("prevalence", "pictures", "robustness") if cfg.evaluation[name] is not None]
    if unused:
        raise ConfigError(f"evaluation.{unused[0]} needs the model itself; a table of its predictions is not enough.")
    options = EvaluationOptions.of({key: value for key, value in cfg.evaluation.items() if value is not None})
    load_metrics(options.metrics)
    predictions = Predictions.from_csv(cfg.predictions)
    measured = measure_predictions(predictions, options.confidence_level, options.n_resamples)
    estimates = placed(measured, split="external")
    folder = output_directory(cfg.out, Path(cfg.predictions).parent, "evaluation")
    write_metrics(folder, estimates)
    name = Path(cfg.predictions).stem
    facts = {
        "confidence_level": options.confidence_level,
        "n_resamples": options.n_resamples,
        "title": name,
        "kind": "external test",
        "written": _now(),
        "command": f"medvision evaluate {' '.join(cfg.overrides)}",
        "notes": ["Only predictions are known here: neither the model nor the images were available."],
    }
    write_text(folder / "report.html", report(predictions, facts, estimates, [], [], "external"))
    show_headline(console, name, estimates, options.confidence_level)
    show_report(console, folder / "report.html")


def _never_seen(run: SavedRun, found: External) -> NDArray[np.bool_]:
    """(n,) which external images do not have the pixels of an image that trained the model or chose its epoch."""
    known = {row["pixels"] for row in run.splits if row["split"] in ("train", "val", "calibration")}
    unseen = np.array([digest.hex() not in known for digest in found.hashes.tolist()])
    if copies := int((~unseen).sum()):
        log.warning(
            "LEAK: %d of %d external images have the same pixels as images the model was trained or chosen on; the\n"
            "scores are also given without them.",
            copies,
            len(unseen),
        )
    return unseen


def _facts(cfg: DictConfig, predictor: Predictor, found: External, unseen: NDArray[np.bool_]) -> dict[str, Any]:
    """What differs from the run's own facts."""
    counts = np.bincount(found.arrays.targets, minlength=predictor.task.num_classes)
    return {
        "kind": "external test",
        "command": f"medvision evaluate {' '.join(cfg.overrides)}",
        "data": {
            "fingerprint": found.fingerprint,
            **predictor.task.to_json(),
            "images": {"external": len(found.arrays.ids)},
            "per_class": {"external": counts.tolist()},
            "quarantined": len(found.quarantine),
            "dropped": 0,
            "unused": 0,
            "one_coloured": 0,
            "leakage": {"policy": "keep", "test_images_seen": int((~unseen).sum())},
            "test_never_seen": int(unseen.sum()),
        },
        "quarantine": found.quarantine.to_dict("records"),
        "negative_controls": None,
    }


def _title(cfg: DictConfig) -> str:
    return Path(str(cfg.data.get("root") or cfg.choices.data)).name


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
