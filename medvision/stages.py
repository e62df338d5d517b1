"""The stages of a run, each built from its part of the configuration."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial, reduce
from inspect import signature
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from medvision.data.datamodule import ImageDataModule
from medvision.data.table import SPLITS
from medvision.errors import ConfigError, ModelError, RunError
from medvision.files import write_text
from medvision.inference.bundle import load_bundle, load_embedding, save_bundle
from medvision.models.network import Network
from medvision.randomness import generator, key
from medvision.resume import ABOUT_THIS_COMMAND, FREE
from medvision.rundir import RunDirectory
from medvision.targets import build
from medvision.training import loggers
from medvision.training.checkpoint_io import AtomicCheckpointIO
from medvision.training.checkpoints import Checkpoints, OnEpoch
from medvision.training.classifier import Classifier
from medvision.training.compilation import CompileCost, check_compiler
from medvision.training.fit import Learner, fit_network
from medvision.training.fit import fit as fit_learner
from medvision.training.losses import ClassificationLoss
from medvision.training.profile import StageProfiler
from medvision.training.progress import ProgressLine
from medvision.training.signals import StopSignal
from medvision.training.trainer import accelerator_in_use, weight_averaging

log = logging.getLogger(__name__)

_LAYER_IMAGES = 5000  # of the training images, for layers that are computed from them; more change nothing


def check_extras(cfg: DictConfig) -> None:
    """Refuse what needs a package or a compiler that is not installed, before the long part begins."""
    loggers.check(cfg.logger)
    if cfg.compile:
        check_compiler(accelerator_in_use(cfg.trainer.accelerator))


def read_data(cfg: DictConfig) -> ImageDataModule:
    """Read, decode and split the images."""
    accepted = signature(ImageDataModule).parameters
    settings = {name: value for name, value in cfg.data.items() if name in accepted and name != "source"}
    data = ImageDataModule(
        cast(Any, partial(build, cfg.data.source)),
        **cast(dict[str, Any], settings),
        augmentation=cast(Any, build(cfg.augmentation)) if "augmentation" in cfg else None,
        seed=cfg.get("seed", 0),
    )
    data.setup()
    return data


def describe_data(data: ImageDataModule, policy: str, directory: RunDirectory) -> None:
    """Write down which images there are, where each went, and what leaks.

    Args:
        data: set up.
        policy: on leaks, that it was set up with.
        directory: of the run.

    Raises:
        RunError: if a resumed run finds other data than it began with.
    """
    splits = [split for split in SPLITS if split in data.table.splits]
    counts = {split: int(data.class_counts(split).sum()) for split in splits}
    fingerprint = data.fingerprint()
    known = directory.facts.get("data", {}).get("fingerprint", fingerprint)
    if known != fingerprint:
        raise RunError(
            "The images, labels or splits are not those the run began with (their fingerprint changed).\n"
            "Restore the data, or start a new run."
        )
    write_text(directory.path / "splits.csv", data.splits_frame().to_csv(index=False, lineterminator="\n"))
    write_text(directory.path / "quarantine.csv", data.quarantine.to_csv(index=False, lineterminator="\n"))
    directory.record(
        data={
            "fingerprint": fingerprint,
            "class_names": list(data.class_names),
            "images": counts,
            "per_class": {split: data.class_counts(split).tolist() for split in splits},
            "quarantined": len(data.quarantine),
            "dropped": int((data.table.splits == "dropped").sum()),
            "unused": int((data.table.splits == "unused").sum()),
            "one_coloured": len(data.one_coloured),
            "leakage": {"policy": policy, **data.findings.facts},
            "test_never_seen": int(data.never_seen().sum()),
        }
    )
    log.info(
        "%d classes, %s images of %d x %d",
        data.num_classes,
        " + ".join(f"{count:,} {split}" for split, count in counts.items()),
        *data.image_size,
    )
    if copies := data.findings.facts["duplicate_images"]:
        log.info("%d image(s) have the same pixels as another one of this data set", copies)
    if len(data.one_coloured):
        log.warning(
            "%d image(s) show one colour only: %s", len(data.one_coloured), data.table.ids[data.one_coloured[0]]
        )


@contextmanager
def tracked(cfg: DictConfig, directory: RunDirectory) -> Iterator[Any]:
    """The logger of a run, which is told its settings, and in the end how it ended; None where there is none."""
    if not cfg.logger:
        yield None
        return
    logger = build(cfg.logger, save_dir=str(directory.path))
    with loggers.tracked(logger, _settings(cfg)):
        yield logger


def train(
    cfg: DictConfig,
    directory: RunDirectory,
    data: ImageDataModule,
    stop: StopSignal,
    console: Console,
    on_epoch: OnEpoch | None = None,
    logger: Any = None,
) -> Learner:
    """Build the model and train it; a network from the run's last checkpoint if there is one.

    A network tells `on_epoch` after each epoch how far it has come, and `logger` what metrics.csv says.
    """
    # Every step keys the global generators anew; a caller's own random numbers stay as they were.
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(key(cfg.seed, "weights"))
        shape = {"num_classes": data.num_classes, "in_channels": data.in_channels, "image_size": data.image_size}
        learner = cast(Learner, build(cfg.model, **shape))
        _check_tta(cfg, learner)
        fit_learner(
            learner,
            by_gradient=partial(_train_network, cfg, directory, data, stop, console, on_epoch, logger),
            images=partial(data.split, "train"),
            embedding=None if cfg.init_from is None else partial(load_embedding, cfg.init_from),
            seed=cfg.seed,
            console=console,
        )
    return learner


def keep_best(cfg: DictConfig, directory: RunDirectory, data: ImageDataModule, learner: Learner) -> None:
    """Write the trained model as the run's bundle."""
    architecture = cast(dict[str, Any], OmegaConf.to_container(cfg.model)) | {
        "num_classes": data.num_classes,
        "in_channels": data.in_channels,
        "image_size": list(data.image_size),
    }
    save_bundle(
        directory.model,
        learner,
        architecture=architecture,
        class_names=data.class_names,
        decode={
            "size": list(data.image_size),
            "channels": data.in_channels,
            "resize": cfg.data.resize,
            "window": cfg.data.window and list(cfg.data.window),
            "frames": cfg.data.frames,
        },
        fingerprint=data.fingerprint(),
        tta=cfg.evaluation.tta,
    )


def _train_network(
    cfg: DictConfig,
    directory: RunDirectory,
    data: ImageDataModule,
    stop: StopSignal,
    console: Console,
    on_epoch: OnEpoch | None,
    logger: Any,
    network: Network,
) -> None:
    """Train by gradient descent, and leave the weights of the best epoch in the network."""
    network.set_statistics(*(values.tolist() for values in data.channel_statistics()))
    rows = generator("layers", 0).permutation(np.flatnonzero(data.table.splits == "train"))[:_LAYER_IMAGES]
    network.fit_layers(data.pixels(rows))
    if cfg.init_from is not None:
        _initialise(network, cast(Network, load_bundle(Path(cfg.init_from)).network))
    loss = cast(ClassificationLoss, build(cfg.loss))
    loss.set_class_counts(torch.from_numpy(data.class_counts("train")))
    optimizer, scheduler = cast(Any, build(cfg.optimizer)), cast(Any, build(cfg.scheduler))
    classifier = Classifier(network, optimizer, scheduler, loss, seed=cfg.seed, compiled=cfg.compile)
    profiler = StageProfiler() if cfg.profile else None
    trainer = _build_trainer(cfg, directory, stop, console, on_epoch, logger, profiler)
    parameters = sum(p.numel() for p in network.parameters())
    log.info(
        "%s parameters, %s, precision %s",
        f"{parameters:,}",
        trainer.strategy.root_device,
        cfg.trainer.precision,
    )
    with stop.deferring():
        fit_network(classifier, data, trainer, directory.last if directory.last.exists() else None)
    if trainer.is_global_zero:
        directory.record(parameters=parameters)
        if profiler is not None:
            directory.record(profile={"seconds": profiler.seconds, "steps": profiler.steps})
        best = AtomicCheckpointIO().load_checkpoint(directory.best)
        prefix = "network."
        network.load_state_dict(
            {name.removeprefix(prefix): value for name, value in best["state_dict"].items() if name.startswith(prefix)}
        )


def _check_tta(cfg: DictConfig, learner: Learner) -> None:
    """Refuse views that a model cannot average before it is trained, and warn of views that it never saw."""
    if cfg.evaluation.tta == "none":
        return
    if not isinstance(learner, Network):
        raise ConfigError(
            f"evaluation.tta={cfg.evaluation.tta} averages the embeddings of a network; {learner} has none."
        )
    if not cfg.augmentation.get("horizontal_flip"):
        log.warning(
            "evaluation.tta=%s shows the model mirror images, on which it is not trained "
            "(augmentation.horizontal_flip=false).",
            cfg.evaluation.tta,
        )


def _build_trainer(
    cfg: DictConfig,
    directory: RunDirectory,
    stop: StopSignal,
    console: Console,
    on_epoch: OnEpoch | None,
    logger: Any,
    profiler: StageProfiler | None,
) -> Any:
    averaging = [weight_averaging(cfg.ema.decay)] if cfg.ema.decay else []
    checkpoints = Checkpoints(
        directory.path,
        stop,
        cfg.monitor,
        every_n_steps=cfg.checkpoint.every_n_steps,
        patience=cfg.early_stopping.patience,
        min_delta=cfg.early_stopping.min_delta,
        on_epoch=on_epoch,
    )
    return build(
        cfg.trainer,
        batch_size=cfg.data.batch_size,
        callbacks=[*averaging, ProgressLine(console), *([CompileCost()] if cfg.compile else []), checkpoints],
        profiler=profiler,
        logger=logger,
        directory=directory.path,
    )


def _settings(cfg: DictConfig) -> dict[str, Any]:
    """What a run computes, without where: the same when it goes on elsewhere."""
    values = cast(dict[str, Any], OmegaConf.to_container(cfg))
    for name in (*ABOUT_THIS_COMMAND, *FREE, "data.source", "overrides", "config_dir", "experiment"):
        *nodes, key = name.split(".")
        reduce(dict.__getitem__, nodes, values).pop(key, None)
    return values


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
