"""Build a model from its config, train it, and keep it as the run's bundle."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from medvision.cli.stop_signal import StopSignal
from medvision.config.targets import build
from medvision.data.datamodule import ImageDataModule
from medvision.errors import ConfigError
from medvision.inference.bundle import load_embedding, load_network, save_bundle
from medvision.inference.decision import Decision
from medvision.randomness import key
from medvision.runs.directory import RunDirectory
from medvision.runs.resume import ABOUT_THIS_COMMAND, FREE
from medvision.training import trackers
from medvision.training.checkpoints import Checkpoints, OnEpoch
from medvision.training.fit import Fitted, Fitting, Learner
from medvision.training.profile import StageProfiler
from medvision.training.progress import ProgressLine
from medvision.training.trainer import accelerator_in_use, check_compiler, weight_averaging

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Surroundings:
    """Where a training takes place.

    Attributes:
        directory: of the run, for checkpoints and metrics.csv.
        stop: SIGINT and SIGTERM.
        console: for progress.
        logger: gets what metrics.csv gets; None for none.
        on_epoch: called after each epoch; what it raises ends the training there.
    """

    directory: RunDirectory
    stop: StopSignal
    console: Console
    logger: Any = None
    on_epoch: OnEpoch | None = None


def check_extras(cfg: DictConfig) -> None:
    """Refuse what needs a package or a compiler that is not installed, before the long part begins."""
    trackers.check(cfg.logger)
    if cfg.compile:
        check_compiler(accelerator_in_use(cfg.trainer.accelerator))


def build_model(cfg: DictConfig, data: ImageDataModule) -> Learner:
    """The model of a config for the classes and images of the data, with its initial weights.

    Raises:
        ModelError: if it cannot be built for these images.
        ConfigError: if its views cannot be averaged.
    """
    shape = {"num_classes": data.num_classes, "in_channels": data.in_channels, "image_size": data.image_size}
    # The caller's own random numbers stay as they were.
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(key(cfg.seed, "weights"))
        model = cast(Learner, build(cfg.model, "model", **shape))
    if cfg.evaluation.tta != "none":
        if not model.has_embeddings:
            raise ConfigError(f"evaluation.tta={cfg.evaluation.tta} averages embeddings; {model} has none: tta=none.")
        if not cfg.augmentation.get("horizontal_flip"):
            log.warning(
                "evaluation.tta=%s shows the model mirror images, on which it is not trained "
                "(augmentation.horizontal_flip=false).",
                cfg.evaluation.tta,
            )
    return model


def train(cfg: DictConfig, data: ImageDataModule, model: Learner, around: Surroundings) -> Fitted:
    """Train a model; a network continues from the run's last checkpoint if there is one.

    What was learnt is in the model afterwards, that of the best epoch.
    """
    profiler = StageProfiler() if cfg.profile else None
    fitting = Fitting(
        data=data,
        monitor=cfg.monitor,
        seed=cfg.seed,
        optimizer=build(cfg.optimizer, "optimizer"),
        scheduler=build(cfg.scheduler, "scheduler"),
        loss=build(cfg.loss, "loss", task=data.task, class_counts=data.class_counts("train")),
        trainer=partial(_build_trainer, cfg, around, profiler),
        directory=around.directory.path,
        stop=around.stop,
        console=around.console,
        compiled=cfg.compile,
        profiler=profiler,
        initial=None if cfg.init_from is None else partial(load_network, cfg.init_from),
        embedding=None if cfg.init_from is None else partial(load_embedding, cfg.init_from),
    )
    # Every step seeds the global generators; the caller's own random numbers stay as they were.
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(key(cfg.seed, "weights"))
        return cast(Fitted, model.fit(fitting))


def save_model(
    cfg: DictConfig, directory: RunDirectory, data: ImageDataModule, model: Learner, decision: Decision
) -> None:
    """Write the trained model as the run's bundle."""
    architecture = cast(dict[str, Any], OmegaConf.to_container(cfg.model)) | {
        "num_classes": data.num_classes,
        "in_channels": data.in_channels,
        "image_size": list(data.image_size),
    }
    save_bundle(
        directory.model,
        model,
        architecture=architecture,
        task=data.task,
        decode=data.decode,
        fingerprint=data.fingerprint(),
        decision=decision,
    )


@contextmanager
def tracked(cfg: DictConfig, directory: RunDirectory) -> Iterator[Any]:
    """The experiment tracker of a run, with its settings and in the end its outcome; None where there is none."""
    if not cfg.logger:
        yield None
        return
    logger = build(cfg.logger, "logger", save_dir=str(directory.path))
    with trackers.tracked(logger, _settings(cfg)):
        yield logger


def _build_trainer(cfg: DictConfig, around: Surroundings, profiler: StageProfiler | None) -> Any:
    averaging = [weight_averaging(cfg.ema.decay)] if cfg.ema.decay else []
    checkpoints = Checkpoints(
        around.directory.path,
        around.stop,
        cfg.monitor,
        every_n_steps=cfg.checkpoint.every_n_steps,
        patience=cfg.early_stopping.patience,
        min_delta=cfg.early_stopping.min_delta,
        on_epoch=around.on_epoch,
    )
    return build(
        cfg.trainer,
        "trainer",
        batch_size=cfg.data.batch_size,
        callbacks=[*averaging, ProgressLine(around.console), checkpoints],
        profiler=profiler,
        logger=around.logger,
        directory=around.directory.path,
    )


def _settings(cfg: DictConfig) -> dict[str, Any]:
    """What a run computes, without where: the same when it continues on another machine."""
    values = cast(dict[str, Any], OmegaConf.to_container(cfg))
    for name in (*ABOUT_THIS_COMMAND, *FREE, "data.source", "overrides", "config_dir", "experiment"):
        *nodes, key = name.split(".")
        reduce(dict.__getitem__, nodes, values).pop(key, None)
    return values
