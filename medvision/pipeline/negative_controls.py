"""Negative controls: models that should score at chance, because what they are given does not determine the class."""

import dataclasses
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig

from medvision.audits.data_audit import audit
from medvision.data.datamodule import ImageDataModule
from medvision.data.mask import keep_border, mask_centre
from medvision.data.table import ImageTable
from medvision.inference.predictor import Predictor
from medvision.metrics.estimates import Estimate, Estimates, Key, placed
from medvision.metrics.evaluate import evaluate
from medvision.metrics.options import EvaluationOptions
from medvision.metrics.predictions import Predictions
from medvision.pipeline.evaluate import predict
from medvision.pipeline.train import Surroundings, build_model, train
from medvision.randomness import generator
from medvision.runs.directory import RunDirectory
from medvision.training.trainer import accelerator_in_use

log = logging.getLogger(__name__)

BORDER = 0.2  # share of height and width that stays visible, half of it on either side
CENTRE = 0.5  # share of height and width that is hidden

_MEANING = {
    "shuffled_labels": "Nothing can be learnt from shuffled labels: a score above chance means that test images, or "
    "near copies of them, were trained on.",
    "border_only": "The border shows no anatomy: a score above chance means that scanner, markers or cropping give "
    "the class away.",
    "masked_centre": "A model that hardly needs the centre decides by what lies around it.",
    "metadata_only": "If size, file type or brightness predict the class, a network can learn them instead of disease.",
}


def run_controls(
    cfg: DictConfig, data: ImageDataModule, predictor: Predictor, options: EvaluationOptions, around: Surroundings
) -> Estimates:
    """Run all negative controls, and note in run.json what each found.

    Two of them train the run's own configuration again: on shuffled labels, and on borders alone.

    Args:
        cfg: of the run.
        data: of the run.
        predictor: of the run's model.
        options: of the evaluation.
        around: the run's directory, finished; where the trainings take place.

    Returns:
        Accuracy and mean AUROC of each control, of metadata the latter alone, in the section "negative_controls".
    """
    test, directory = data.split("test"), around.directory
    chance = np.bincount(test.targets).max() / len(test.targets)
    with tempfile.TemporaryDirectory(prefix=".controls", dir=directory.path) as folder:
        log.info("negative control: training on shuffled labels")
        shuffled = _trained(cfg, Path(folder) / "labels", data.altered(table=_shuffled(data)), around)
        predictions = {"shuffled_labels": predict(shuffled, test)}
        log.info("negative control: training on borders alone")
        borders = data.altered(pixels=_repainted(data, Path(folder) / "pixels", lambda some: keep_border(some, BORDER)))
        model = _trained(cfg, Path(folder) / "borders", borders, around)
        predictions["border_only"] = predict(model, borders.split("test"))
    hidden = dataclasses.replace(test, images=mask_centre(test.images, CENTRE))
    predictions["masked_centre"] = predict(predictor, hidden)
    found: Estimates = {}
    for control, one in predictions.items():
        found |= placed(_scores(one, options), section="negative_controls", names=(control,))
    log.info("negative control: class from metadata")
    guesses = audit(data).guesses
    guess = guesses.get("metadata") or guesses["brightness"]
    reason = "too few images" if guess.auroc is None else None
    key = Key("macro_auroc", section="negative_controls", names=("metadata_only",))
    found[key] = Estimate(guess.auroc, None, None, guess.n, reason)
    noted = [one for one in found if one.metric == "accuracy" or one == key]
    directory.record(negative_controls=[_note(one, found[one], chance) for one in noted])
    return placed(found, split="test")


def _trained(cfg: DictConfig, folder: Path, data: ImageDataModule, around: Surroundings) -> Predictor:
    folder.mkdir()
    model = build_model(cfg, data)
    train(cfg, data, model, dataclasses.replace(around, directory=RunDirectory(folder), logger=None))
    device = accelerator_in_use(cfg.trainer.accelerator)
    return Predictor.uncalibrated(model, data.task, data.decode, tta=cfg.evaluation.tta, device=device)


def _shuffled(data: ImageDataModule) -> ImageTable:
    """The table with the labels of train and of val in another order, each split for itself."""
    labels = data.table.labels.copy()
    for split in ("train", "val"):
        rows = np.flatnonzero(data.table.splits == split)
        labels[rows] = labels[generator("shuffled labels", split).permutation(rows)]
    return dataclasses.replace(data.table, frame=data.table.frame.assign(label=labels))


def _repainted(
    data: ImageDataModule, file: Path, paint: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
) -> NDArray[np.uint8]:
    """All images changed, (N, C, H, W), on disk: they may be more than memory holds."""
    rows = np.arange(len(data.table))
    painted = np.memmap(file, np.uint8, "w+", shape=(len(rows), data.in_channels, *data.image_size))
    done = 0
    for some in (data.pixels(rows[start : start + 512]) for start in range(0, len(rows), 512)):
        painted[done : done + len(some)] = paint(some)
        done += len(some)
    return painted


def _scores(predictions: Predictions, options: EvaluationOptions) -> Estimates:
    found = evaluate(predictions, options.confidence_level, options.n_resamples)
    return {key: found[key] for key in (Key("accuracy"), Key("macro_auroc"))}


def _note(key: Key, estimate: Estimate, chance: float) -> dict[str, str]:
    (control,) = key.names
    if estimate.value is None:
        finding = f"{estimate.reason}."
    elif key.metric == "macro_auroc":
        finding = f"AUROC {estimate.value:.2f} (0.5 is chance)."
    else:
        finding = (
            f"Accuracy {estimate.value:.1%} ({estimate.low:.1%} to {estimate.high:.1%}); "
            f"always predicting the most frequent class gives {chance:.1%}."
        )
    return {"name": control, "finding": finding, "meaning": _MEANING[control]}
