"""The whole of a run: data, fit, bundle, predictions, metrics; what commands and notebooks call."""

import json
import logging
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from medvision.config import check
from medvision.console import logging_to, show_estimates
from medvision.errors import Interrupted
from medvision.evaluation import Estimate, Predictions
from medvision.files import write_text
from medvision.inference.bundle import load_bundle
from medvision.inference.predictor import Predictor
from medvision.provenance import environment
from medvision.resume import continued
from medvision.rundir import DIRECTORY_VARIABLE, RunDirectory, create, find, shared
from medvision.stages import describe_data, keep_best, read_data, score, train
from medvision.training.precision import choose_precision
from medvision.training.signals import StopSignal
from medvision.training.trainer import accelerator_in_use

log = logging.getLogger(__name__)

HEADLINE = ("accuracy", "balanced_accuracy", "macro/precision", "macro/f1", "macro/auroc")


@dataclass(frozen=True)
class Run:
    """What a finished run left behind.

    Attributes:
        directory: The run directory.
        metrics: `<split>/<metric>` to estimate, for the splits val and test; `test_never_seen/<metric>` beside them
            where test images had been trained or validated on.
    """

    directory: Path
    metrics: Mapping[str, Estimate]

    def predictor(self, device: str = "cpu") -> Predictor:
        """The trained model, loaded from its bundle."""
        return load_bundle(self.directory / "model", device)

    def predictions(self, split: str) -> Predictions:
        """What the model said of every case of a split, val or test."""
        return Predictions.load(self.directory / "predictions" / f"{split}.npz")


def fit(cfg: DictConfig) -> Run:
    """Train, test and keep a classifier.

    Args:
        cfg: As `medvision.compose` returns it.

    Returns:
        The finished run. Processes that a distributed strategy started leave by SystemExit once training is over.

    Raises:
        UserError: if the configuration, the data or the run directory cannot be used.
        Interrupted: if SIGINT or SIGTERM arrived; the run can be resumed.
    """
    check(cfg)
    stop = StopSignal()
    console = Console()
    with stop.installed():
        peer = shared()
        name = _name(cfg)
        if cfg.resume is not None:
            directory = peer or find(cfg.resume, cfg.output_root, name)
            cfg = continued(cfg, cast(DictConfig, OmegaConf.load(directory.config)))
            check(cfg)
        else:
            cfg = _with_precision(cfg)
            directory = peer or create(cfg.out, cfg.output_root, name)
        if peer is not None:
            train(cfg, directory, read_data(cfg), stop, console)
            raise SystemExit(0)
        os.environ[DIRECTORY_VARIABLE] = str(directory.path)
        try:
            with directory.locked(), logging_to(directory.path / "train.log", console):
                return _finish(cfg, directory, stop, console)
        finally:
            del os.environ[DIRECTORY_VARIABLE]


def _finish(cfg: DictConfig, directory: RunDirectory, stop: StopSignal, console: Console) -> Run:
    if directory.facts.get("status") == "finished":
        log.info("This run is finished already: %s", directory.path)
        run = _load(directory)
    else:
        try:
            with directory.recorded():
                run = _run(cfg, directory, stop, console)
        except Interrupted as interruption:
            log.warning(
                "Stopped by %s. Go on with: python -m medvision.train resume=%s",
                signal.Signals(interruption.signum).name,
                directory.path,
            )
            raise
    for part, title in (("test", "test split"), ("test_never_seen", "test, never seen")):
        headline = {name: run.metrics[f"{part}/{name}"] for name in HEADLINE if f"{part}/{name}" in run.metrics}
        if headline:
            show_estimates(console, f"{_name(cfg)}, {title}", headline, cfg.evaluation.confidence_level)
    console.print(f"run    {directory.path}", f"model  {directory.model}", sep="\n", soft_wrap=True, highlight=False)
    console.print("Research use only: not a medical device.", style="dim")
    return run


def _run(cfg: DictConfig, directory: RunDirectory, stop: StopSignal, console: Console) -> Run:
    started = time.perf_counter()
    write_text(directory.config, OmegaConf.to_yaml(cfg))
    directory.record(seed=cfg.seed, **environment())
    log.info("run directory %s", directory.path)

    data = read_data(cfg)
    describe_data(data, cfg.data.leakage, directory)

    classifier = train(cfg, directory, data, stop, console)
    trained = time.perf_counter()
    keep_best(cfg, directory, data, classifier)
    run = Run(directory.path, score(cfg, directory, data))
    ended = time.perf_counter()
    directory.record(seconds={"fit": trained - started, "evaluate": ended - trained})
    return run


def _load(directory: RunDirectory) -> Run:
    content = json.loads((directory.path / "metrics.json").read_text(encoding="utf-8"))
    return Run(directory.path, {name: Estimate(**{"reason": None} | values) for name, values in content.items()})


def _name(cfg: DictConfig) -> str:
    return str(cfg.choices.experiment or f"{cfg.choices.data}_{cfg.choices.model}")


def _with_precision(cfg: DictConfig) -> DictConfig:
    cfg = cfg.copy()
    if cfg.trainer.precision == "auto":
        cfg.trainer.precision = choose_precision(accelerator_in_use(cfg.trainer.accelerator), cfg.data.batch_size)
    return cfg
