"""How models are fitted: networks by gradient descent under Lightning, classical models by scikit-learn."""

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import Trainer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from medvision.data.datamodule import ImageDataModule
from medvision.data.table import SplitArrays
from medvision.errors import ConfigError, ModelError, TrainingError
from medvision.models.classical import Classical
from medvision.models.features import Embedding
from medvision.models.network import Network
from medvision.randomness import generator, key
from medvision.training.checkpoint_io import AtomicCheckpointIO
from medvision.training.checkpoints import Monitor, Stop
from medvision.training.classifier import Classifier, monitored
from medvision.training.profile import StageProfiler

log = logging.getLogger(__name__)

Learner = Network | Classical
_LAYER_IMAGES = 5000  # of the training images, for layers that are computed from them; more change nothing


@dataclass(frozen=True)
class Fitted:
    """What a training leaves behind beside the model.

    Attributes:
        score: the monitor on validation, of the epoch that was kept.
        facts: for run.json.
    """

    score: float
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """Fits a model to data; a model calls the method for its kind (`Network.fit`, `Classical.fit`).

    Attributes:
        data: the images, set up.
        monitor: the validation metric that chooses the epoch.
        seed: of everything random.
        optimizer: see `Classifier`.
        scheduler: see `Classifier`.
        loss: see `Classifier`.
        trainer: returns Lightning's Trainer; called for networks only.
        directory: of the run, with its checkpoints.
        stop: SIGINT and SIGTERM.
        console: for progress on a terminal.
        compiled: see `Classifier`.
        profiler: of the training, if it is profiled.
        initial: the network of another run whose weights come first; None starts at random.
        embedding: features made by another run's network, for classical models; None where no run was named.
    """

    data: ImageDataModule
    monitor: Monitor
    seed: int
    optimizer: Callable[..., Any]
    scheduler: Callable[..., Any] | None
    loss: torch.nn.Module
    trainer: Callable[[], Trainer]
    directory: Path
    stop: Stop
    console: Console
    compiled: bool = False
    profiler: StageProfiler | None = None
    initial: Callable[[], Network] | None = None
    embedding: Callable[[], Embedding] | None = None

    def network(self, network: Network) -> Fitted:
        """Train by gradient descent, from the last checkpoint if there is one; the weights are those of the best epoch.

        Raises:
            TrainingError: if the device runs out of memory, or the loss is not finite.
        """
        data, last = self.data, self.directory / "checkpoints" / "last.ckpt"
        network.set_statistics(*(values.tolist() for values in data.channel_statistics()))
        rows = generator("layers", 0).permutation(np.flatnonzero(data.table.splits == "train"))[:_LAYER_IMAGES]
        network.fit_layers(data.pixels(rows))
        if self.initial is not None:
            _initialise(network, self.initial())
        classifier = Classifier(
            network,
            self.optimizer,
            self.scheduler,
            self.loss,
            kind=data.task.kind,
            seed=self.seed,
            compiled=self.compiled,
        )
        trainer = self.trainer()
        parameters = sum(p.numel() for p in network.parameters())
        log.info("%s parameters, %s, precision %s", f"{parameters:,}", trainer.strategy.root_device, trainer.precision)
        with self.stop.deferring():
            fit_network(classifier, data, trainer, last if last.exists() else None)
        facts: dict[str, Any] = {"parameters": parameters}
        if self.profiler is not None:
            facts["profile"] = {"seconds": self.profiler.seconds, "steps": self.profiler.steps}
        if not trainer.is_global_zero:
            return Fitted(float("nan"), facts)
        _load_best(network, self.directory)
        scores = pd.read_csv(self.directory / "metrics.csv")[self.monitor]
        return Fitted(float(scores.min() if self.monitor == "val/loss" else scores.max()), facts)

    def classical(self, model: Classical) -> Fitted:
        """Fit the estimator to the training images.

        Raises:
            ConfigError: if the model and `embedding` do not belong together.
            ModelError: if it cannot be fitted to these images.
        """
        if isinstance(model.features, Embedding) and model.features.name is None and self.embedding is not None:
            model.features = self.embedding()
        elif self.embedding is not None:
            raise ConfigError(
                "init_from gives a classical model its features: add model/features=embedding (and no\n"
                "model.features.name), or leave init_from out."
            )
        fit_classical(model, self.data.split("train"), self.seed, self.console)
        arrays = self.data.split("val")
        metrics = monitored(torch.from_numpy(model.logits(arrays.images)), torch.from_numpy(arrays.targets))
        return Fitted(metrics[self.monitor])


def fit_network(
    classifier: Classifier, data: ImageDataModule, trainer: Trainer, checkpoint: Path | None = None
) -> None:
    """Train a network, from the beginning or from a checkpoint.

    Args:
        classifier: Holds the network; its weights change in place.
        data: Supplies training and validation batches.
        trainer: Runs the loop on the accelerator it was built for.
        checkpoint: To continue from; None starts at the beginning.

    Raises:
        TrainingError: if the device runs out of memory.
    """
    path = str(checkpoint) if checkpoint else None
    try:
        with _denormals_flushed():
            trainer.fit(classifier, datamodule=data, ckpt_path=path, weights_only=bool(checkpoint))
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"{trainer.strategy.root_device} ran out of memory at step {trainer.global_step}.\n"
            "Try a smaller data.batch_size or data.image_size, trainer.precision=bf16-mixed, or\n"
            "data.device_resident=false."
        ) from error


@contextmanager
def _denormals_flushed() -> Iterator[None]:
    """Take for zero what weights and moments decay into, which slows some CPUs' arithmetic by orders of magnitude."""
    before = sys.float_info.min / 2 == 0  # torch has no getter
    # For this thread and those that begin within; torch's other threads keep what they began with.
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def _load_best(network: Network, directory: Path) -> None:
    """Put the weights of the best epoch into the network."""
    best = AtomicCheckpointIO().load_checkpoint(directory / "checkpoints" / "best.ckpt")
    prefix = "network."
    state: Mapping[str, torch.Tensor] = best["state_dict"]
    network.load_state_dict(
        {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    )


def _initialise(network: Network, trained: Network) -> None:
    """Begin with the backbone of another run, and with its head too where the number of classes is the same."""
    own, other = (
        {name: value.shape for name, value in one.backbone.state_dict().items()} for one in (network, trained)
    )
    if own != other:
        raise ModelError(
            "init_from names a model of another architecture: the weights of its backbone do not fit.\n"
            "Choose the model it was trained with (see bundle.json), or leave init_from out."
        )
    network.backbone.load_state_dict(trained.backbone.state_dict())
    same_classes = network.head.weight.shape == trained.head.weight.shape
    if same_classes:
        network.head.load_state_dict(trained.head.state_dict())
    log.info("weights of the %s taken from init_from", "whole network" if same_classes else "backbone")


def fit_classical(model: Classical, train: SplitArrays, seed: int, console: Console) -> None:
    """Fit a classical model to the training images.

    Args:
        model: Its estimator is fitted in place. Folds for its calibration, where it has any, never divide a group;
            principal components are as many as asked for, or as there are.
        train: The training images.
        seed: Of everything random.
        console: For progress on a terminal.

    Raises:
        ModelError: if a class has too few images (or groups) for the folds, or scikit-learn refuses a setting.
    """
    model.features.prepare(train.images)
    estimator = model.estimator
    states = [name for name in estimator.get_params() if name.endswith("random_state")]
    estimator.set_params(**dict.fromkeys(states, key(seed, "weights") % 2**32))
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("computing features", total=None)
        started = time.perf_counter()
        rows = model.features(train.images)
        folds = _folds(estimator.cv, train) if "cv" in estimator.get_params(deep=False) else None
        _limit_components(estimator, min(*rows.shape, *(len(fitted) for fitted, _ in folds or [])))
        what = f"{model} to {len(rows):,} images, {rows.shape[1]:,} features each"
        log.info("fitting %s; augmentation, loss, optimizer and trainer are not used", what)
        progress.update(task, description=f"fitting {what}")
        try:
            if folds is None:
                estimator.fit(rows, train.targets)
            else:
                n_folds = estimator.cv
                estimator.set_params(cv=folds).fit(rows, train.targets)
                # The folds would be kept with the model, and say who was where.
                estimator.set_params(cv=n_folds)
            estimator.predict_proba(rows[:1])  # refuses what fitting let pass, such as more neighbours than images
        except ValueError as error:
            raise ModelError(f"{model} cannot be fitted: {str(error).partition(chr(10))[0]}") from error
    log.info("fitted in %.1f s", time.perf_counter() - started)


def _folds(n_folds: int, train: SplitArrays) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Positions to fit on and to hold out, for each fold; groups whole, classes in even shares."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    units = np.unique(train.groups, return_inverse=True)[1]
    grouped = units.max() + 1 < len(units)
    found = [len(np.unique(units[train.targets == label])) for label in np.unique(train.targets)]
    if min(found) < n_folds:
        raise ModelError(
            f"model.calibration_folds={n_folds} needs as many {'groups' if grouped else 'images'} of each class in "
            f"train, the rarest has {min(found)}.\nChoose fewer folds, or a model without them such as random_forest."
        )
    # Not shuffled: neighbours in a folder, which are often of one patient that nobody named, mostly stay together.
    splitter = (StratifiedGroupKFold if grouped else StratifiedKFold)(n_folds)
    folds = list(splitter.split(np.zeros(len(units)), train.targets, units if grouped else None))
    if any(len(np.unique(train.targets[fitted])) < len(found) for fitted, _ in folds):
        raise ModelError(
            f"The groups overlap so that {n_folds} folds of the training images cannot all have every class.\n"
            "Set model.calibration_folds=2, or take a model without folds such as random_forest."
        )
    return folds


def _limit_components(estimator: Any, most: int) -> None:
    for name, value in estimator.get_params().items():
        if name.endswith("pca__n_components") and value > most:
            log.warning("model.pca=%d: there are only %d principal components, which are kept", value, most)
            estimator.set_params(**{name: most})
