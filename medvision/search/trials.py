"""Trials of a search, each trained and scored without the test images."""

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from omegaconf import DictConfig, OmegaConf
from optuna.trial import TrialState
from rich.console import Console

from medvision.cli.console import logging_to
from medvision.cli.stop_signal import StopSignal
from medvision.config.compose import compose, quoted
from medvision.data.datamodule import ImageDataModule
from medvision.errors import ConfigError, ModelError, RunError, TrainingError
from medvision.files import lock, write_text
from medvision.pipeline.prepare import read_data
from medvision.pipeline.train import Surroundings, build_model, train
from medvision.randomness import key
from medvision.runs.directory import RunDirectory
from medvision.runs.provenance import environment
from medvision.search.space import Dimension, override, rounded
from medvision.search.study import LOST, lost, open_study

# States that count for n_trials; a failed one ended the command, which then is repeated.
COUNTED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)


def search(cfg: DictConfig, typed: Sequence[str], space: Sequence[Dimension], folder: Path, console: Console) -> Any:
    """Run trials until the study has `cfg.n_trials`; several processes may do so at the same time.

    Args:
        cfg: of the command `tune`.
        typed: overrides that every trial has.
        space: what a trial may choose.
        folder: for a run directory each, below `trials`.
        console: where each trial leaves a line.

    Returns:
        The study.

    Raises:
        UserError: if the storage, the data or a configuration cannot be used, or the storage is lost.
        Interrupted: if SIGINT or SIGTERM arrived; the same command continues.
    """
    stop = StopSignal()
    with stop.installed():
        (folder / "trials").mkdir(parents=True, exist_ok=True)
        with lock(folder / "study.lock"):
            study = open_study(cfg, folder, _fingerprint(cfg, typed, space))
        try:
            while _next(study, cfg, typed, space, folder, stop, console):
                pass
        except LOST as error:
            raise lost(cfg.storage, error) from error
        return study


def without_test(data: ImageDataModule) -> ImageDataModule:
    """The same data, of which only what trains and what chooses the epoch can be reached."""
    splits = np.where(np.isin(data.table.splits, ("test", "calibration")), "unused", data.table.splits)
    return data.altered(table=replace(data.table, frame=data.table.frame.assign(split=splits)))


def _next(
    study: optuna.Study,
    cfg: DictConfig,
    typed: Sequence[str],
    space: Sequence[Dimension],
    folder: Path,
    stop: StopSignal,
    console: Console,
) -> bool:
    """Run one trial; False if there is none left."""
    with ExitStack() as stack:
        claimed = _claim(study, cfg.n_trials, folder, stack)
        if claimed is None:
            return False
        trial, directory = claimed
        try:
            _run(study, trial, directory, cfg, typed, space, stop, console)
        except LOST:
            raise
        except Exception:
            # A trial that was stopped by a signal stays running instead, for the next command to continue.
            study.tell(trial, state=TrialState.FAIL)
            raise
        return True


def _claim(
    study: optuna.Study, n_trials: int, folder: Path, stack: ExitStack
) -> tuple[optuna.Trial, RunDirectory] | None:
    """A trial to continue, or a new one, held under the lock of its directory; None if the study is complete.

    A trial that is said to be running while nobody holds its directory was killed.
    """
    with lock(folder / "study.lock"):
        trials = study.get_trials(deepcopy=False)
        for frozen in trials:
            directory = RunDirectory(folder / "trials" / str(frozen.number))
            if frozen.state == TrialState.RUNNING and directory.path.is_dir():
                try:
                    stack.enter_context(directory.locked())
                except RunError:
                    continue
                # It may have ended between the list and the lock.
                if study.get_trials(deepcopy=False)[frozen.number].state != TrialState.RUNNING:
                    continue
                return optuna.trial.Trial(study, frozen._trial_id), directory
        if sum(frozen.state in COUNTED for frozen in trials) >= n_trials:
            return None
        trial = study.ask()
        directory = RunDirectory(folder / "trials" / str(trial.number))
        directory.path.mkdir(exist_ok=True)
        stack.enter_context(directory.locked())
        return trial, directory


def _run(
    study: optuna.Study,
    trial: optuna.Trial,
    directory: RunDirectory,
    cfg: DictConfig,
    typed: Sequence[str],
    space: Sequence[Dimension],
    stop: StopSignal,
    console: Console,
) -> None:
    """Train one trial, record its score, and print a line."""
    chosen, values = [], []
    for one in space:
        # Seeded by trial and key, so that a killed study continues as if it had not been.
        study.sampler = optuna.samplers.TPESampler(seed=key("search", cfg.seed, trial.number, one.key) % 2**32)
        value = one.suggest(trial)
        chosen.append(override(one.key, value))
        values.append(override(one.key, rounded(value)))
    place = f"out={quoted(directory.path)}"
    own = compose(*typed, *chosen, place, config_dir=cfg.get("config_dir"))
    epochs = [frozen for frozen in study.get_trials(deepcopy=False) if frozen.number == trial.number]
    known = set(epochs[0].intermediate_values)
    label, started = f"trial {trial.number}", time.monotonic()

    with ExitStack() as stack:
        status = stack.enter_context(console.status(f"{label}  {' '.join(values)}"))
        # The lines of each epoch belong into the trial's own train.log.
        nowhere = Console(file=stack.enter_context(Path(os.devnull).open("w")))
        stack.enter_context(logging_to(directory.path / "train.log", nowhere))

        def on_epoch(epoch: int, value: float) -> None:
            status.update(f"{label}  epoch {epoch}/{own.trainer.max_epochs}  {cfg.monitor} {value:.4f}")
            if epoch not in known:
                trial.report(value, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned

        try:
            score = _train(own, directory, stop, nowhere, on_epoch)
        except (TrainingError, ModelError) as error:
            # As a pruned one it teaches the sampler to stay away from there.
            score = None
            trial.set_user_attr("failed", str(error).partition("\n")[0])
    study.tell(trial, score, state=TrialState.COMPLETE if score is not None else TrialState.PRUNED)
    shutil.rmtree(directory.path / "checkpoints", ignore_errors=True)
    _print_trial(console, study, trial.number, cfg.monitor, values, time.monotonic() - started)


def _train(cfg: DictConfig, directory: RunDirectory, stop: StopSignal, console: Console, on_epoch: Any) -> float | None:
    """The best value of `cfg.monitor` over the epochs; None if the trial was pruned."""
    with directory.recorded():
        write_text(directory.config_file, OmegaConf.to_yaml(cfg))
        directory.record(seed=cfg.seed, pruned=False, **environment())
        data = without_test(read_data(cfg))
        around = Surroundings(directory, stop, console, on_epoch=on_epoch)
        try:
            return train(cfg, data, build_model(cfg, data), around).score
        except optuna.TrialPruned:
            directory.record(pruned=True)
            return None


def _print_trial(
    console: Console, study: optuna.Study, number: int, monitor: str, values: Sequence[str], seconds: float
) -> None:
    frozen = study.get_trials(deepcopy=False)[number]
    if frozen.state == TrialState.COMPLETE:
        best = " (the best so far)" if study.best_trial.number == number else ""
        ending = f"{monitor} {frozen.value:.4f}{best}"
    elif "failed" in frozen.user_attrs:
        ending = f"failed: {frozen.user_attrs['failed']}"
    else:
        ending = f"pruned after epoch {frozen.last_step}, {monitor} {frozen.value or math.nan:.4f}"
    line = f"trial {number}  {ending}  {seconds:.1f} s  {' '.join(values)}"
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _fingerprint(cfg: DictConfig, typed: Sequence[str], space: Sequence[Dimension]) -> str:
    """Equal for commands whose trials can be compared."""
    own = OmegaConf.to_container(compose(*typed, config_dir=cfg.get("config_dir")))
    if not isinstance(own, dict):
        raise ConfigError("The configuration is no mapping.")
    for name in ("out", "output_root", "overrides", "config_dir", "logger"):
        own.pop(name, None)
    own["search"] = [vars(one) for one in space]
    own["pruner"] = OmegaConf.to_container(cfg.pruner)
    return hashlib.sha256(json.dumps(own, sort_keys=True, default=str).encode()).hexdigest()[:16]
