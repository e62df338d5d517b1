"""The one place that asks what kind of learner there is, and knows how each is fitted."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, Trainer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from medvision.data.table import SplitArrays
from medvision.errors import ConfigError, ModelError, TrainingError
from medvision.models.classical import Classical
from medvision.models.features import Embedding
from medvision.models.network import Network
from medvision.randomness import key
from medvision.training.classifier import Classifier

log = logging.getLogger(__name__)

Learner = Network | Classical


def fit(
    learner: Learner,
    *,
    by_gradient: Callable[[Network], None],
    images: Callable[[], SplitArrays],
    embedding: Callable[[], Embedding] | None,
    seed: int,
    console: Console,
) -> None:
    """Train a model; what was learnt is in it afterwards.

    Args:
        learner: A network, or a classical model.
        by_gradient: Trains a network.
        images: Returns the training images, for a classical model.
        embedding: Returns the features that another model's network makes; None where no model was named.
        seed: Of whatever a classical model draws.
        console: Where to show that a classical model is being fitted.

    Raises:
        ConfigError: if a classical model and `embedding` do not belong together.
        ModelError: if a classical model cannot be fitted to these images.
    """
    if not isinstance(learner, Classical):
        by_gradient(learner)
        return
    if isinstance(learner.features, Embedding) and learner.features.name is None and embedding is not None:
        learner.features = embedding()
    elif embedding is not None:
        raise ConfigError(
            "init_from gives a classical model its features: add model/features=embedding (and no\n"
            "model.features.name), or leave init_from out."
        )
    fit_classical(learner, images(), seed, console)


def fit_network(
    classifier: Classifier, datamodule: LightningDataModule, trainer: Trainer, checkpoint: Path | None = None
) -> None:
    """Train a network, from the beginning or from a checkpoint.

    Args:
        classifier: Holds the network; its weights change in place.
        datamodule: Supplies training and validation batches.
        trainer: Runs the loop on the accelerator it was built for.
        checkpoint: Where to go on from; None starts anew.

    Raises:
        TrainingError: if the device runs out of memory.
    """
    path = str(checkpoint) if checkpoint else None
    try:
        with _denormals_flushed():
            trainer.fit(classifier, datamodule=datamodule, ckpt_path=path, weights_only=bool(checkpoint))
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"{trainer.strategy.root_device} ran out of memory at step {trainer.global_step}.\n"
            "Try a smaller data.batch_size or data.image_size, trainer.precision=bf16-mixed, or\n"
            "data.device_resident=false."
        ) from error


@contextmanager
def _denormals_flushed() -> Iterator[None]:
    """Take for zero what weights and moments decay into, which slows some CPUs' arithmetic by orders of magnitude."""
    before = sys.float_info.min / 2 == 0  # torch does not tell
    # For this thread and those that begin within; torch's other threads keep what they began with.
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def fit_classical(model: Classical, train: SplitArrays, seed: int, console: Console) -> None:
    """Fit a classical model to the training images.

    Args:
        model: Its estimator is fitted in place. Folds for its calibration, where it has any, never divide a group;
            principal components are as many as asked for, or as there are.
        train: The training images.
        seed: Of whatever it draws.
        console: Where to show, on a terminal, that it goes on.

    Raises:
        ModelError: if a class has too few images (or groups) for the folds, or scikit-learn refuses a setting.
    """
    model.features.prepare(train.images)
    estimator = model.estimator
    states = [name for name in estimator.get_params() if name.endswith("random_state")]
    estimator.set_params(**dict.fromkeys(states, key(seed, "weights") % 2**32))
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("making features", total=None)
        started = time.perf_counter()
        rows = model.features(train.images)
        folds = _folds(estimator.cv, train) if "cv" in estimator.get_params(deep=False) else None
        _limit_components(estimator, min(*rows.shape, *(len(fitted) for fitted, _ in folds or [])))
        what = f"{model} to {len(rows):,} images, {rows.shape[1]:,} features each"
        log.info("fitting %s; augmentation, loss, optimizer and trainer play no part in that", what)
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
