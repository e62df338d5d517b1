"""Train, calibrate, evaluate and report: a run from top to bottom."""

import logging
import os
import signal
import time
from dataclasses import replace

import pandas as pd
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from medvision.cli.console import headline, logging_to, show_headline, show_profile
from medvision.cli.stop_signal import StopSignal
from medvision.config.compose import check
from medvision.config.targets import load_metrics
from medvision.errors import Interrupted
from medvision.files import write_text
from medvision.inference.predictor import Predictor
from medvision.metrics.estimates import Estimate, Key
from medvision.metrics.options import EvaluationOptions
from medvision.pipeline.calibrate import calibrate, check_positive
from medvision.pipeline.evaluate import evaluate_run
from medvision.pipeline.prepare import describe_data, read_data
from medvision.pipeline.report import write_metrics, write_report
from medvision.pipeline.train import Surroundings, build_model, check_extras, save_model, tracked, train
from medvision.runs.directory import DIRECTORY_VARIABLE, RunDirectory, create, shared
from medvision.runs.provenance import environment, peak_memory
from medvision.runs.resume import continued
from medvision.runs.saved_run import SavedRun, find_resumable, run_name
from medvision.training.profile import table
from medvision.training.trainer import accelerator_in_use, choose_precision

log = logging.getLogger(__name__)


def fit(cfg: DictConfig) -> SavedRun:
    """Train, evaluate and keep a classifier.

    Args:
        cfg: As `medvision.compose` returns it.

    Returns:
        The finished run. Processes that a distributed strategy started leave by SystemExit once training is over.

    Raises:
        UserError: if the configuration, the data or the run directory cannot be used.
        Interrupted: if SIGINT or SIGTERM arrived; the run can be resumed.
    """
    stop, console = StopSignal(), Console()
    with stop.installed():
        cfg, directory = _opened(cfg)
        around = Surroundings(directory, stop, console)
        if shared() is not None:
            data = read_data(cfg)
            train(cfg, data, build_model(cfg, data), around)
            raise SystemExit(0)
        os.environ[DIRECTORY_VARIABLE] = str(directory.path)
        try:
            with directory.locked(), logging_to(directory.path / "train.log", console):
                if directory.is_finished:
                    log.info("This run is already finished: %s", directory.path)
                else:
                    _recorded(cfg, around)
                _show(cfg, directory, console)
        finally:
            del os.environ[DIRECTORY_VARIABLE]
    return SavedRun(directory.path)


def _run(cfg: DictConfig, around: Surroundings) -> None:
    """The run itself."""
    directory, options = around.directory, EvaluationOptions.of(cfg.evaluation)
    device = accelerator_in_use(cfg.trainer.accelerator)
    started = time.perf_counter()

    load_metrics(options.metrics)
    data = read_data(cfg)
    check_positive(options, data.class_names)
    describe_data(data, directory)
    prepared = time.perf_counter()

    model = build_model(cfg, data)
    with tracked(cfg, directory) as logger:
        fitted = train(cfg, data, model, replace(around, logger=logger))
        directory.record(**fitted.facts)
        trained = time.perf_counter()

        uncalibrated = Predictor.uncalibrated(model, data.task, data.decode, tta=options.tta, device=device)
        decision, facts = calibrate(uncalibrated, data, options)
        directory.record(**facts)
        save_model(cfg, directory, data, model, decision)

        predictor = directory.predictor(device)
        estimates, predictions = evaluate_run(predictor, data, options, directory)
        write_metrics(directory.path, estimates)
        if options.report:
            write_report(cfg, directory, predictor, predictions, data.split("test").images, estimates)
        if logger is not None:
            logger.log_metrics(_for_tracker(estimates))

    ended = time.perf_counter()
    seconds = {"prepare": prepared - started, "fit": trained - prepared, "evaluate": ended - trained}
    directory.record(seconds=directory.facts["seconds"] | seconds, peak_memory_bytes=peak_memory())
    if cfg.profile:
        _write_profile(directory, around.console)


def _opened(cfg: DictConfig) -> tuple[DictConfig, RunDirectory]:
    """The configuration as it will be used, and the directory of the run: a new one, or one to continue."""
    check(cfg)
    peer = shared()
    if cfg.resume is not None:
        found = peer or find_resumable(cfg.resume, cfg.output_root, run_name(cfg))
        cfg = continued(cfg, OmegaConf.create(found.config))
        check(cfg)
        return cfg, RunDirectory(found.path)
    check_extras(cfg)
    cfg = cfg.copy()
    if cfg.trainer.precision == "auto":
        device = accelerator_in_use(cfg.trainer.accelerator)
        cfg.trainer.precision = choose_precision(device, cfg.data.batch_size)
    return cfg, peer or create(cfg.out, cfg.output_root, run_name(cfg))


def _recorded(cfg: DictConfig, around: Surroundings) -> None:
    """The run, with its status and its environment in run.json."""
    directory = around.directory
    try:
        with directory.recorded():
            write_text(directory.config_file, OmegaConf.to_yaml(cfg))
            directory.record(seed=cfg.seed, **environment())
            log.info("run directory %s", directory.path)
            _run(cfg, around)
    except Interrupted as interruption:
        name = signal.Signals(interruption.signum).name
        log.warning("Stopped by %s. Continue with: medvision train resume=%s", name, directory.path)
        raise


def _show(cfg: DictConfig, run: SavedRun, console: Console) -> None:
    show_headline(console, run_name(cfg), run.metrics, cfg.evaluation.confidence_level)
    for name, path in {"report": run.report, "model": run.model, "run": run.path}.items():
        if path.exists():
            console.print(f"{name:8}{path}", soft_wrap=True, highlight=False, markup=False)
    console.print("Research use only: not a medical device.", style="dim")


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


def _for_tracker(estimates: dict[Key, Estimate]) -> dict[str, float]:
    """The headline numbers, each with the bounds of its interval."""
    return {
        "/".join(filter(None, (key.split, key.section, key.metric, bound))): value
        for found in headline(estimates).values()
        for key, estimate in found.items()
        for bound, value in (("", estimate.value), ("low", estimate.low), ("high", estimate.high))
        if value is not None
    }
