"""Tests that a sound model fails: if it does not, its score comes from somewhere else than what it should look at."""

import dataclasses
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig
from rich.console import Console

from medvision.assessment import predict
from medvision.data.audit import audit
from medvision.data.datamodule import ImageDataModule
from medvision.data.mask import keep_border, mask_centre
from medvision.data.table import ImageTable
from medvision.evaluation import Estimate, Predictions, evaluate
from medvision.inference.bundle import load_bundle
from medvision.inference.predictor import Predictor
from medvision.randomness import generator
from medvision.rundir import RunDirectory
from medvision.stages import keep_best, train
from medvision.training.signals import StopSignal
from medvision.training.trainer import accelerator_in_use

log = logging.getLogger(__name__)

BORDER = 0.2  # share of height and width that is left to see, half of it on either side
CENTRE = 0.5  # share of height and width that is hidden

_MEANING = {
    "random_labels": "Nothing can be learnt from shuffled labels: a score above chance means that test images, or near "
    "copies of them, were trained on.",
    "border_only": "The border shows no anatomy: a score above chance means that scanner, markers or cropping give the "
    "class away.",
    "masked_centre": "If the model hardly needs the centre, it decides by what lies around it.",
    "metadata_only": "If size, file type or brightness tell the class, a network can learn them instead of disease.",
}


def probe(
    cfg: DictConfig, directory: RunDirectory, data: ImageDataModule, stop: StopSignal, console: Console
) -> dict[str, Estimate]:
    """Run all probes, and note in run.json what each found.

    Two of them train the run's own configuration once more: on shuffled labels, and on borders alone.

    Args:
        cfg: of the run.
        directory: of the run, finished.
        data: of the run.
        stop: to stop the trainings by.
        console: to speak on.

    Returns:
        `test/probe/<name>/accuracy` and `/auroc` (the mean of the classes); of metadata the latter alone.
    """
    test = data.split("test")
    chance = np.bincount(test.targets).max() / len(test.targets)
    trained = load_bundle(directory.model, accelerator_in_use(cfg.trainer.accelerator))
    with tempfile.TemporaryDirectory(prefix=".probes", dir=directory.path) as folder:
        log.info("probe: training on shuffled labels")
        shuffled = data.altered(table=_shuffled(data))
        random_labels = predict(_train(cfg, Path(folder) / "labels", shuffled, stop, console), test)
        log.info("probe: training on borders alone")
        borders = data.altered(pixels=_repainted(data, Path(folder) / "pixels", lambda some: keep_border(some, BORDER)))
        model = _train(cfg, Path(folder) / "borders", borders, stop, console)
        border_only = predict(model, borders.split("test"))
    hidden = dataclasses.replace(test, images=mask_centre(test.images, CENTRE))
    found = {
        f"{name}/{metric}": estimate
        for name, predictions in (
            ("random_labels", random_labels),
            ("border_only", border_only),
            ("masked_centre", predict(trained, hidden)),
        )
        for metric, estimate in _scores(cfg, predictions).items()
    }
    log.info("probe: classes from metadata")
    guesses = audit(data, data.resize).guesses
    told = guesses.get("metadata") or guesses["brightness"]
    reason = "too few images to say" if told.auroc is None else None
    found["metadata_only/auroc"] = Estimate(told.auroc, None, None, told.n, reason)
    told_of = [name for name in found if name.endswith("/accuracy") or name.startswith("metadata_only")]
    directory.record(probes=[_note(name, found[name], chance) for name in told_of])
    return {f"test/probe/{name}": estimate for name, estimate in found.items()}


def _train(cfg: DictConfig, folder: Path, data: ImageDataModule, stop: StopSignal, console: Console) -> Predictor:
    folder.mkdir()
    directory = RunDirectory(folder)
    keep_best(cfg, directory, data, train(cfg, directory, data, stop, console))
    return load_bundle(directory.model, accelerator_in_use(cfg.trainer.accelerator))


def _shuffled(data: ImageDataModule) -> ImageTable:
    """The table with the labels of what trains and chooses in another order, each split for itself."""
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


def _scores(cfg: DictConfig, predictions: Predictions) -> dict[str, Estimate]:
    found = evaluate(predictions, cfg.evaluation.confidence_level, cfg.evaluation.n_resamples)
    return {"accuracy": found["accuracy"], "auroc": found["macro/auroc"]}


def _note(name: str, estimate: Estimate, chance: float) -> dict[str, str]:
    probe, _, metric = name.partition("/")
    if estimate.value is None:
        finding = f"{estimate.reason}."
    elif metric == "auroc":
        finding = f"AUROC {estimate.value:.2f} (0.5 is guessing)."
    else:
        finding = (
            f"Accuracy {estimate.value:.1%} ({estimate.low:.1%} to {estimate.high:.1%}); "
            f"always naming the most frequent class gives {chance:.1%}."
        )
    return {"name": probe, "finding": finding, "meaning": _MEANING[probe]}
