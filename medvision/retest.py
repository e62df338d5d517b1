"""A finished run tested once more: on its own test images, or on images from elsewhere."""

import logging
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from medvision.assessment import describe, measure, predict
from medvision.console import show_headline
from medvision.data.external import External, read_external
from medvision.errors import ConfigError, RunError
from medvision.evaluation import Predictions
from medvision.evaluation.report import report
from medvision.files import write_text
from medvision.inference.bundle import load_bundle
from medvision.inference.predictor import Predictor
from medvision.probes import probe
from medvision.reporting import collect, write_external_report, write_metrics
from medvision.run import judge, name_of
from medvision.rundir import RunDirectory, find, fresh, writable
from medvision.stages import read_data
from medvision.targets import build
from medvision.training.signals import StopSignal

log = logging.getLogger(__name__)


def again(cfg: DictConfig, stop: StopSignal, console: Console) -> None:
    """Make predictions, numbers, report and model card of a run anew.

    Args:
        cfg: of the command `evaluate`, without data.
        stop: to stop the probes by.
        console: to speak on.

    Raises:
        RunError: if the run is not finished, or its images are no longer those it was trained with.
    """
    directory, trained = _finished(cfg)
    with directory.locked():
        data = read_data(trained)
        if data.fingerprint() != directory.facts["data"]["fingerprint"]:
            raise RunError(
                f"The images of {directory.path} are no longer those it was trained with (their fingerprint changed).\n"
                "Restore them, or test on them as external data: data=..."
            )
        probes = probe(trained, directory, data, stop, console) if cfg.probes else None
        metrics = judge(trained, directory, data, cfg.accelerator, probes)
    show_headline(console, name_of(trained), metrics, trained.evaluation.confidence_level)
    _say(console, directory.path / "report.html")


def elsewhere(cfg: DictConfig, console: Console) -> None:
    """Test a run's model on images from elsewhere, in a folder of its own.

    Args:
        cfg: of the command `evaluate`, with data.
        console: to speak on.

    Raises:
        RunError: if the run is not finished.
        DataError: if the images cannot be used, or have classes that the model does not know.
    """
    directory, trained = _finished(cfg)
    predictor = load_bundle(directory.model, cfg.accelerator)
    found = read_external(
        build(cfg.data.source),
        predictor.class_names,
        predictor.decode,
        split=cfg.split,
        on_bad_image=cfg.data.on_bad_image,
        max_bad_fraction=cfg.data.max_bad_fraction,
    )
    unseen = _never_seen(directory, found)
    predictions = predict(predictor, found.arrays)
    metrics = measure(trained.evaluation, predictor, predictions, found.arrays.images, unseen, "external")
    folder = _folder(cfg, directory)
    predictions.save(folder / "external.npz")
    write_text(folder / "quarantine.csv", found.quarantine.to_csv(index=False, lineterminator="\n"))
    write_text(folder / "config.yaml", OmegaConf.to_yaml(cfg))
    write_metrics(folder / "metrics.json", metrics)
    facts = collect(
        trained, directory, predictor, predictions, metrics, f"{name_of(trained)} on {_title(cfg)}", "external"
    )
    facts |= _facts(cfg, predictor, found, unseen)
    write_external_report(
        folder, facts, predictor, predictions, found.arrays.images, metrics, trained.evaluation.pictures
    )
    show_headline(console, name_of(trained), metrics, trained.evaluation.confidence_level)
    _say(console, folder / "report.html")


def foreign(cfg: DictConfig, console: Console) -> None:
    """Judge what another program's model predicted, in the folder `out`.

    Args:
        cfg: of the command `evaluate`, with `predictions`.
        console: to speak on.

    Raises:
        ConfigError: if something is asked for that predictions alone do not give.
        DataError: if the table cannot be read as predictions, naming columns or rows.
    """
    unused = [name for name in ("prevalence", "pictures", "robustness") if cfg.evaluation[name] is not None]
    if unused:
        raise ConfigError(f"evaluation.{unused[0]} needs the model itself; a table of its predictions is not enough.")
    predictions = Predictions.from_csv(cfg.predictions)
    level, n_resamples = cfg.evaluation.confidence_level or 0.95, cfg.evaluation.n_resamples or 1000
    metrics = {f"external/{name}": one for name, one in describe(predictions, level, n_resamples).items()}
    folder = _made(Path(cfg.out).absolute())
    write_metrics(folder / "metrics.json", metrics)
    name = Path(cfg.predictions).stem
    facts = {
        "confidence_level": level,
        "n_resamples": n_resamples,
        "title": name,
        "kind": "external test",
        "written": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": f"python -m medvision.evaluate {' '.join(cfg.overrides)}",
        "notes": ["Only predictions are known here: neither the model nor the images were seen."],
    }
    write_text(folder / "report.html", report(predictions, facts, metrics, [], [], part="external"))
    show_headline(console, name, metrics, level)
    _say(console, folder / "report.html")


def _finished(cfg: DictConfig) -> tuple[RunDirectory, DictConfig]:
    """The run, and its config with what the command says of `evaluation`."""
    directory = find(cfg.run, "", "")
    status = directory.facts.get("status")
    if status != "finished":
        raise RunError(
            f"{cfg.run} is not finished (status: {status}), so that there is nothing to evaluate.\n"
            f"Finish it: python -m medvision.train resume={cfg.run}"
        )
    trained = cast(DictConfig, OmegaConf.load(directory.config))
    trained.evaluation.report = True
    for name, value in cfg.evaluation.items():
        if value is not None:
            trained.evaluation[name] = value
    return directory, trained


def _never_seen(directory: RunDirectory, found: External) -> Any:
    """(n,) which external images the run had not among its own, by their pixels."""
    own = pd.read_csv(directory.path / "splits.csv", dtype=str, keep_default_na=False)
    known = set(own["pixels"][own["split"].isin(("train", "val", "calibration"))])
    unseen = np.array([one.hex() not in known for one in found.hashes.tolist()])
    if copies := int((~unseen).sum()):
        log.warning(
            "LEAK: %d of %d external images have the same pixels as images the model was trained or chosen on; the\n"
            "scores are also given without them.",
            copies,
            len(unseen),
        )
    return unseen


def _folder(cfg: DictConfig, directory: RunDirectory) -> Path:
    return fresh(directory.path / "external") if cfg.out is None else _made(Path(cfg.out).absolute())


def _made(folder: Path) -> Path:
    with writable("evaluation"):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def _facts(cfg: DictConfig, predictor: Predictor, found: External, unseen: Any) -> dict[str, Any]:
    """What differs from the run's own facts."""
    counts = np.bincount(found.arrays.targets, minlength=len(predictor.class_names))
    return {
        "kind": "external test",
        "command": f"python -m medvision.evaluate {' '.join(cfg.overrides)}",
        "data": {
            "fingerprint": found.fingerprint,
            "class_names": list(predictor.class_names),
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
        "probes": None,
    }


def _title(cfg: DictConfig) -> str:
    where = next((cfg.data[key] for key in ("csv", "root", "path") if cfg.data.get(key)), cfg.choices.data)
    return Path(str(where)).name


def _say(console: Console, page: Path) -> None:
    console.print(f"report  {page}", soft_wrap=True, highlight=False, markup=False)
    console.print("Research use only: not a medical device.", style="dim")
