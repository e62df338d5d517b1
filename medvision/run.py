"""The whole of a run: data, fit, bundle, predictions, metrics; what commands and notebooks call."""

import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pandas as pd
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from medvision.assessment import calibrate, check_positive, measure, predict
from medvision.config import check
from medvision.console import headline, logging_to, show_headline, show_profile
from medvision.data.datamodule import ImageDataModule
from medvision.errors import Interrupted
from medvision.evaluation import Estimate, Predictions, evaluate
from medvision.files import write_text
from medvision.inference.bundle import load_bundle
from medvision.inference.predictor import Predictor
from medvision.provenance import environment
from medvision.reporting import read_metrics, write_metrics, write_report
from medvision.resume import continued
from medvision.rundir import DIRECTORY_VARIABLE, RunDirectory, create, find, shared
from medvision.stages import check_extras, describe_data, keep_best, read_data, tracked, train
from medvision.training.precision import choose_precision
from medvision.training.profile import table
from medvision.training.signals import StopSignal
from medvision.training.trainer import accelerator_in_use

log = logging.getLogger(__name__)


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
        name = name_of(cfg)
        if cfg.resume is not None:
            directory = peer or find(cfg.resume, cfg.output_root, name)
            cfg = continued(cfg, cast(DictConfig, OmegaConf.load(directory.config)))
            check(cfg)
        else:
            check_extras(cfg)
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
    show_headline(console, name_of(cfg), run.metrics, cfg.evaluation.confidence_level)
    paths = {"report": directory.path / "report.html", "model": directory.model, "run": directory.path}
    for name, path in paths.items():
        if path.exists():
            console.print(f"{name:8}{path}", soft_wrap=True, highlight=False, markup=False)
    console.print("Research use only: not a medical device.", style="dim")
    return run


def _run(cfg: DictConfig, directory: RunDirectory, stop: StopSignal, console: Console) -> Run:
    started = time.perf_counter()
    write_text(directory.config, OmegaConf.to_yaml(cfg))
    directory.record(seed=cfg.seed, **environment())
    log.info("run directory %s", directory.path)

    data = read_data(cfg)
    check_positive(cfg.evaluation, data.class_names)
    describe_data(data, cfg.data.leakage, directory)
    if cfg.data.max_train_samples is not None:
        images = int(data.class_counts("train").sum())
        note = f"data.max_train_samples={cfg.data.max_train_samples}: trained on {images:,} images."
        directory.record(notes=[note])
        log.info(note)

    ready = time.perf_counter()
    with tracked(cfg, directory) as logger:
        learner = train(cfg, directory, data, stop, console, logger=logger)
        trained = time.perf_counter()
        keep_best(cfg, directory, data, learner)
        device = accelerator_in_use(cfg.trainer.accelerator)
        directory.record(**calibrate(cfg.evaluation, directory.model, data, device))
        metrics = judge(cfg, directory, data, device)
        if logger is not None:
            logger.log_metrics(_for_tracker(metrics))
    directory.record(
        seconds=directory.facts["seconds"]
        | {"prepare": ready - started, "fit": trained - ready, "evaluate": time.perf_counter() - trained},
        peak_memory_bytes=_peak_memory(),
    )
    if cfg.profile:
        _write_profile(directory, console)
    return Run(directory.path, metrics)


def _write_profile(directory: RunDirectory, console: Console) -> None:
    """Write profile.csv and show it: every second of the run at the stage it was spent on."""
    seconds, fitting = directory.facts["seconds"], directory.facts.get("profile", {"seconds": {}, "steps": 0})
    rows = table(
        {
            "preparing data": seconds["prepare"],
            **fitting["seconds"],
            "fitting, the rest": seconds["fit"] - sum(fitting["seconds"].values()),
            "evaluation and report": seconds["evaluate"],
        },
        fitting["steps"],
    )
    write_text(directory.path / "profile.csv", pd.DataFrame(rows).to_csv(index=False, lineterminator="\n"))
    show_profile(console, rows)


def judge(
    cfg: DictConfig,
    directory: RunDirectory,
    data: ImageDataModule,
    device: str,
    probes: Mapping[str, Estimate] | None = None,
) -> dict[str, Estimate]:
    """Predict by the bundle, so that what is judged is what a user carries away, and write everything about it.

    Args:
        cfg: of the run.
        directory: of the run, with its bundle.
        data: of the run.
        device: to predict on.
        probes: their estimates, if they were made; those of an earlier time are kept otherwise.

    Returns:
        What metrics.json holds.
    """
    predictor = load_bundle(directory.model, device)
    (directory.path / "predictions").mkdir(exist_ok=True)
    metrics: dict[str, Estimate] = {}
    for split in ("val", "calibration", "test"):
        if split not in data.table.splits:
            continue
        arrays = data.split(split)
        started = time.perf_counter()
        predictions = predict(predictor, arrays)
        seconds = (time.perf_counter() - started) / len(arrays.ids)
        predictions.save(directory.path / "predictions" / f"{split}.npz")
        if split != "test":
            estimates = evaluate(predictions, cfg.evaluation.confidence_level, cfg.evaluation.n_resamples)
            metrics |= {f"{split}/{name}": estimate for name, estimate in estimates.items()}
    directory.record(seconds=directory.facts.get("seconds", {}) | {"predict_per_image": seconds})
    metrics |= measure(cfg.evaluation, predictor, predictions, arrays.images, data.never_seen())
    metrics |= _earlier_probes(directory) if probes is None else probes
    write_metrics(directory.path / "metrics.json", metrics)
    if cfg.evaluation.report:
        write_report(cfg, directory, predictor, predictions, arrays.images, metrics, name_of(cfg))
    return metrics


def _earlier_probes(directory: RunDirectory) -> dict[str, Estimate]:
    file = directory.path / "metrics.json"
    earlier = read_metrics(file) if file.exists() else {}
    return {name: estimate for name, estimate in earlier.items() if name.startswith("test/probe/")}


def _for_tracker(metrics: Mapping[str, Estimate]) -> dict[str, float]:
    """The headline numbers, each with the bounds of its interval."""
    return {
        f"{part}/{metric}{suffix}": value
        for part, found in headline(metrics).items()
        for metric, estimate in found.items()
        for suffix, value in (("", estimate.value), ("/low", estimate.low), ("/high", estimate.high))
        if value is not None
    }


def _peak_memory() -> int:
    """Bytes of memory that this process has held at most."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # kilobytes everywhere else


def _load(directory: RunDirectory) -> Run:
    return Run(directory.path, read_metrics(directory.path / "metrics.json"))


def name_of(cfg: DictConfig) -> str:
    """What a run is called: by its experiment, or by data and model."""
    return str(cfg.choices.experiment or f"{cfg.choices.data}_{cfg.choices.model}")


def _with_precision(cfg: DictConfig) -> DictConfig:
    cfg = cfg.copy()
    if cfg.trainer.precision == "auto":
        cfg.trainer.precision = choose_precision(accelerator_in_use(cfg.trainer.accelerator), cfg.data.batch_size)
    return cfg
