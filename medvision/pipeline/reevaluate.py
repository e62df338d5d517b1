"""Re-evaluate a finished run on its own images: predictions, metrics, report and model card again."""

from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from medvision.cli.console import show_headline, show_report
from medvision.cli.stop_signal import StopSignal
from medvision.config.compose import stored
from medvision.config.targets import load_metrics
from medvision.errors import RunError
from medvision.metrics.estimates import Estimates
from medvision.metrics.options import EvaluationOptions
from medvision.pipeline.evaluate import evaluate_run
from medvision.pipeline.negative_controls import run_controls
from medvision.pipeline.prepare import read_data
from medvision.pipeline.report import write_metrics, write_report
from medvision.pipeline.train import Surroundings
from medvision.runs.directory import RunDirectory
from medvision.runs.saved_run import SavedRun


def reevaluate(cfg: DictConfig, stop: StopSignal, console: Console) -> None:
    """Evaluate a run again.

    Args:
        cfg: of the command `evaluate`, without data.
        stop: SIGINT and SIGTERM.
        console: for the output.

    Raises:
        RunError: if the run is not finished, or its images are no longer those it was trained with.
    """
    run = SavedRun.open(cfg.run).require_finished()
    trained, directory = with_evaluation(run, cfg), RunDirectory(run.path)
    options = EvaluationOptions.of(trained.evaluation)
    with directory.locked():
        load_metrics(options.metrics)
        data = read_data(trained)
        if data.fingerprint() != run.facts["data"]["fingerprint"]:
            raise RunError(
                f"The images of {run.path} are no longer those it was trained with (their fingerprint changed).\n"
                "Restore them, or test on them as external data: data=..."
            )
        predictor = run.predictor(cfg.accelerator)
        if cfg.negative_controls:
            controls = run_controls(trained, data, predictor, options, Surroundings(directory, stop, console))
        else:
            controls = _earlier_controls(run)
        estimates, predictions = evaluate_run(predictor, data, options, directory)
        estimates |= controls
        write_metrics(directory.path, estimates)
        write_report(trained, directory, predictor, predictions, data.split("test").images, estimates)
    show_headline(console, run.name, estimates, options.confidence_level)
    show_report(console, run.report)


def with_evaluation(run: SavedRun, cfg: DictConfig) -> Any:
    """The config of a run, with what the command says of `evaluation`."""
    trained = stored(run.config)
    for name, value in cfg.evaluation.items():
        if value is not None:
            trained.evaluation[name] = value
    return trained


def _earlier_controls(run: SavedRun) -> Estimates:
    if not (run.path / "metrics.json").exists():
        return {}
    return {key: one for key, one in run.metrics.items() if key.section == "negative_controls"}
