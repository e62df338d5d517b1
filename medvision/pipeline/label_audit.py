"""Suspected label errors, found by models that did not train on the image.

Images that the run did not train on are checked by the run's own model. For its training images there are two ways:

- By default logistic regression in five folds on the embeddings of the run's network, which takes seconds. No
  regression sees the image it checks, but the network did, and draws an image towards the label it was given.
- `labels_folds=5` trains the run's configuration once for each fold: that much longer, and honest throughout.

Of 40 wrong labels among 1,200 digits the first found 25 with 3 false alarms, the second 31 with 8 (measured on
2026-11-22 with a network of 93 % accuracy). A poor model suspects mostly what it does not know itself:
on brain MRI, one of 29 % test accuracy suspected 545 of 3,020 images. So the share of labels that the models agree with
is reported beside it.
"""

import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from omegaconf import DictConfig
from rich.console import Console

from medvision.audits.checks import LABELS, Example, Finding
from medvision.audits.data_audit import Audit
from medvision.audits.label_errors import LabelErrors, divide, find_label_errors, import_cleanlab, out_of_fold
from medvision.cli.stop_signal import StopSignal
from medvision.config.compose import stored
from medvision.data.datamodule import ImageDataModule
from medvision.data.splits import inseparable
from medvision.data.table import SPLITS
from medvision.errors import ConfigError, DataError
from medvision.files import write_text
from medvision.inference.predictor import Predictor
from medvision.metrics.calibration import fit_temperature
from medvision.metrics.predictions import activation
from medvision.pipeline.train import Surroundings, build_model, train
from medvision.runs.directory import RunDirectory
from medvision.runs.saved_run import SavedRun
from medvision.training.trainer import accelerator_in_use

log = logging.getLogger(__name__)

_CHUNK = 512
_BY_MODEL, _BY_REGRESSION, _BY_FOLDS = "run", "regression", "folds"


@dataclass(frozen=True)
class Reference:
    """A finished run whose model checks labels.

    Attributes:
        run: with the model.
        trained: its config.
        own: whether the audited images are those of the run.
    """

    run: SavedRun
    trained: DictConfig
    own: bool


@dataclass(frozen=True)
class Suspects:
    """What the audit reports.

    Attributes:
        finding: for the page.
        frame: for label_errors.csv: image, label, suggested, quality, split, judged_by.
    """

    finding: Finding
    frame: pd.DataFrame

    def added_to(self, found: Audit) -> Audit:
        """The audit with this finding as its last one."""
        return replace(found, results=(*found.results, self.finding))

    def write(self, file: Path) -> None:
        """Write the CSV, which `medvision predict images=...` takes for a review."""
        write_text(file, self.frame.to_csv(index=False, lineterminator="\n", float_format="%.6f"))


def open_reference(cfg: DictConfig) -> Reference | None:
    """The run that checks labels, or None where labels are not asked for.

    Args:
        cfg: of the command `audit`.

    Raises:
        ConfigError: if labels, run and labels_folds do not go together, or cleanlab is not installed.
        RunError: if the run is not finished.
    """
    if not cfg.labels:
        for key in ("run", "labels_folds"):
            if cfg[key] is not None:
                raise ConfigError(f"{key} is for suspected label errors: add labels=true, or leave {key} out.")
        return None
    if cfg.run is None:
        raise ConfigError("labels=true needs a model that knows the classes: add run=DIR, a finished run.")
    import_cleanlab()  # now, and not after a training
    own = not any(line.lstrip("+").startswith(("data=", "data.")) for line in cfg.overrides)
    if not own and cfg.labels_folds is not None:
        raise ConfigError("labels_folds trains on the run's own images again: leave labels_folds or data=... out.")
    run = SavedRun.open(cfg.run).require_finished()
    return Reference(run, stored(run.config), own)


def data_config(reference: Reference, cfg: DictConfig) -> DictConfig:
    """The config that says which images: that of the run, or that of the command, read as the run's model reads."""
    if reference.own:
        return reference.trained
    decode = reference.run.predictor().decode
    cfg = cfg.copy()
    cfg.data.image_size = decode["size"][0] if decode["size"][0] == decode["size"][1] else None
    for name in ("channels", "resize", "window", "frames"):
        cfg.data[name] = decode[name]
    return cfg


def find_suspects(
    reference: Reference, data: ImageDataModule, n_folds: int | None, folder: Path, stop: StopSignal, console: Console
) -> Suspects:
    """Look for label errors among all usable images.

    Args:
        reference: see `open_reference`.
        data: set up.
        n_folds: trainings on folds of the run's training images, or None for regression on embeddings.
        folder: where they may put what they need meanwhile.
        stop: to stop the trainings by.
        console: for their output.

    Raises:
        ConfigError: if the run's model has no embeddings and `n_folds` is None.
        DataError: if there is a class that the model does not know, one with a single training image, or no image to
            reference.
    """
    predictor = reference.run.predictor(accelerator_in_use(reference.trained.trainer.accelerator))
    names = predictor.class_names
    labels = _labels_for(predictor, data)
    seen = _seen(reference, data)
    rows = np.flatnonzero(np.isin(data.table.splits, (*SPLITS, "unused")))
    by = np.where(seen, _BY_REGRESSION if n_folds is None else _BY_FOLDS, _BY_MODEL)
    if not reference.own and seen[rows].any():
        log.warning("%d image(s) trained the model and are not checked.", int(seen[rows].sum()))
        rows = rows[~seen[rows]]
    if not len(rows):
        raise DataError("Every image of this data trained the model: leave data=... out to check them by folds.")
    here, trained = rows[~seen[rows]], rows[seen[rows]]
    probs = np.zeros((len(labels), len(names)))
    probs[here] = _in_chunks(lambda images: predictor.predict_probs(images), data, here, len(names))
    if len(trained):
        units = inseparable(data.table, trained, data.splits_frame()["pixels"].to_numpy(np.str_))
        if n_folds is None:
            embeddings = _embeddings(predictor, data, trained)
            probs[trained] = out_of_fold(embeddings, labels[trained], units, names)
        else:
            held_out = divide(labels[trained], units, n_folds, names)
            with tempfile.TemporaryDirectory(prefix=".labels", dir=folder) as place:
                for fold in range(held_out.max() + 1):
                    log.info("label errors: training %d of %d", fold + 1, held_out.max() + 1)
                    part = trained[held_out == fold], trained[held_out != fold]
                    probs[part[0]] = _retrained(reference, data, *part, Path(place) / str(fold), stop, console)
    agrees = probs.argmax(axis=1) == labels
    return _suspects(data, names, labels, rows, by, agrees, find_label_errors(labels[rows], probs[rows]))


def _labels_for(predictor: Predictor, data: ImageDataModule) -> NDArray[np.int64]:
    """(N,) labels in the order of the model's classes."""
    unknown = [name for name in data.class_names if name not in predictor.class_names]
    if unknown:
        raise DataError(
            f"The model does not know the class(es) {', '.join(unknown)}; it knows "
            f"{', '.join(predictor.class_names)}.\nName the classes as the model does."
        )
    codes = np.array([predictor.class_names.index(name) for name in data.class_names], np.int64)
    return np.asarray(codes[data.table.labels])


def _seen(reference: Reference, data: ImageDataModule) -> NDArray[np.bool_]:
    """(N,) which images have the pixels of an image that the run trained on."""
    known = {row["pixels"] for row in reference.run.splits if row["split"] == "train"}
    return data.splits_frame()["pixels"].isin(known).to_numpy()


def _in_chunks(
    predict: Callable[[NDArray[np.uint8]], NDArray[np.floating]],
    data: ImageDataModule,
    rows: NDArray[np.intp],
    width: int,
) -> NDArray[np.floating]:
    """(n, width) of some rows, whose pixels may be more than memory holds."""
    result = np.empty((len(rows), width))
    for start in range(0, len(rows), _CHUNK):
        result[start : start + _CHUNK] = predict(data.pixels(rows[start : start + _CHUNK]))
    return result


def _embeddings(predictor: Predictor, data: ImageDataModule, rows: NDArray[np.intp]) -> NDArray[np.floating]:
    if not predictor.has_embeddings:
        raise ConfigError(
            f"The run's model ({predictor.model}) has no embeddings to check its training images with.\n"
            "Add labels_folds=5, which trains it once for each fold."
        )
    log.warning(
        "%d images are checked by embeddings of a network that was trained on their labels, so that some errors stay\n"
        "hidden; labels_folds=5 trains once per fold and is not blind to them.",
        len(rows),
    )
    return _in_chunks(lambda images: predictor.probs_and_embeddings(images)[1], data, rows, predictor.embed_dim)


def _retrained(
    reference: Reference,
    data: ImageDataModule,
    held_out: NDArray[np.intp],
    others: NDArray[np.intp],
    folder: Path,
    stop: StopSignal,
    console: Console,
) -> NDArray[np.float64]:
    """(n, K) probabilities of held-out training images, by the run's configuration trained on the others alone."""
    split = data.table.splits
    split[np.isin(split, ("train", "test"))] = "unused"
    split[held_out], split[others] = "test", "train"
    fold = data.altered(table=replace(data.table, frame=data.table.frame.assign(split=split)))
    folder.mkdir()
    cfg = reference.trained
    learner = build_model(cfg, fold)
    train(cfg, fold, learner, Surroundings(RunDirectory(folder), stop, console))
    device = accelerator_in_use(cfg.trainer.accelerator)
    model = Predictor.uncalibrated(learner, fold.task, fold.decode, tta=cfg.evaluation.tta, device=device)
    apart = np.flatnonzero(np.isin(split, ("val", "calibration")))
    width = len(model.class_names)
    # As the run's own model has one, so that all probabilities mean the same.
    temperature = fit_temperature(_in_chunks(model.predict_logits, fold, apart, width), fold.table.labels[apart])
    return activation(fold.task, _in_chunks(model.predict_logits, fold, held_out, width), temperature)


def _suspects(
    data: ImageDataModule,
    names: tuple[str, ...],
    labels: NDArray[np.int64],
    rows: NDArray[np.intp],
    by: NDArray[np.str_],
    agrees: NDArray[np.bool_],
    errors: LabelErrors,
) -> Suspects:
    table, found = data.table, rows[errors.rows]
    given = [names[label] for label in labels[found]]
    suggested = [names[label] for label in errors.suggested]
    frame = pd.DataFrame(
        {
            # Absolute, so that the CSV can lie anywhere.
            "image": [one if table.root is None else str((table.root / one).absolute()) for one in table.ids[found]],
            "label": given,
            "suggested": suggested,
            "quality": errors.quality,
            "split": table.splits[found],
            "judged_by": by[found],
        }
    )
    by_whom = {
        _BY_MODEL: "by the run's model, which was not trained on them",
        _BY_REGRESSION: "by embeddings that were trained on these labels, which hides errors",
        _BY_FOLDS: "by trainings on other folds",
    }
    parts = {name: agrees[rows[by[rows] == name]] for name in by_whom}
    text = "; ".join(
        f"{len(part):,} checked {by_whom[name]} (agreeing with {part.mean():.0%} of the labels)"
        for name, part in parts.items()
        if len(part)
    )
    examples = tuple(
        Example((int(row),), f"labelled {label}, {other} suggested, quality {quality:.3f}")
        for row, label, other, quality in zip(found, given, suggested, errors.quality, strict=True)
    )
    return Suspects(Finding(LABELS, len(found), f"{len(found)} of {len(rows):,} images; {text}", examples), frame)
