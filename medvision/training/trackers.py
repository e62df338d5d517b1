"""Experiment trackers beside metrics.csv: TensorBoard, Weights & Biases, MLflow. None sends anything by default."""

import importlib.util
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from medvision.config.redact import without_passwords
from medvision.errors import ConfigError, Interrupted
from medvision.files import lock, write_text

log = logging.getLogger(__name__)

# What each needs; a database of MLflow needs the last two, which mlflow-skinny comes without.
_PACKAGES: Mapping[str, tuple[str, ...]] = {"wandb": ("wandb",), "mlflow": ("mlflow", "sqlalchemy", "alembic")}
_STEP = "trainer/global_step"  # what Lightning logs beside each metric, for the curves to be drawn over
_RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"


def tensorboard(save_dir: str) -> Logger:
    """TensorBoard's event files in the folder `tensorboard` of the run directory `save_dir`."""
    # No folder for each version, so that a resumed run adds to the same curves; no made-up metric beside the real ones.
    return TensorBoardLogger(save_dir, name="tensorboard", version="", default_hp_metric=False)


def wandb(save_dir: str, *, project: str = "medvision", offline: bool = True, name: str | None = None) -> Logger:
    """A run of Weights & Biases; the one that the run directory has, if it has one.

    Args:
        save_dir: the run directory; files go to `wandb` below it.
        project: that the run belongs to.
        offline: keep everything in the run directory, for `wandb sync` to send when and if somebody wants to. The
            environment variable WANDB_MODE, where it is set, decides instead.
        name: of the run; null: the last two parts of the run directory.

    Raises:
        ConfigError: if the package is not installed, or refuses to begin.
    """
    # Before the package is imported, which is when it looks.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("WANDB_CACHE_DIR", save_dir)  # its service would write a log to the home folder
    _require("wandb")
    from wandb import Error, Settings, init

    try:
        run = init(
            project=project,
            name=name or _name(save_dir),
            id=_wandb_id(save_dir),
            resume="allow",
            dir=save_dir,
            mode=os.environ.get("WANDB_MODE") or ("offline" if offline else "online"),
            reinit="create_new",  # a notebook may have a run of its own open
            settings=Settings(console="off", silent=True),  # train.log has what was said
        )
    except Error as error:
        raise ConfigError(
            f"logger=wandb cannot begin: {_first_line(error)}\n"
            "Log in by wandb login, or keep the run here with logger.offline=true."
        ) from error
    run.define_metric(_STEP)
    run.define_metric("*", step_metric=_STEP, step_sync=True)
    where = f"to send it: wandb sync {Path(save_dir) / 'wandb'}" if run.offline else run.url
    log.info("W&B run %s; %s", run.id, where)
    return WandbLogger(experiment=run, save_dir=save_dir, project=project)


def mlflow(
    save_dir: str,
    *,
    experiment_name: str = "medvision",
    tracking_uri: str = "sqlite:///mlflow.db",
    name: str | None = None,
) -> Logger:
    """A run of MLflow, whose usage statistics are switched off; the one that the run directory has, if it has one.

    Args:
        save_dir: the run directory; `mlflow_run.txt` in it holds the id of the run.
        experiment_name: that the run belongs to.
        tracking_uri: of the database or server. The folder of an sqlite file is made, and has the artifacts as well.
        name: of the run; null: the last two parts of the run directory.

    Raises:
        ConfigError: if the package is not installed, or the database or server cannot be used.
    """
    # Before the package is imported, which is when it looks.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    _require("mlflow")
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient
    from mlflow.tracking.context.registry import resolve_tags  # the user and the commit
    from sqlalchemy.exc import SQLAlchemyError

    known = Path(save_dir) / "mlflow_run.txt"
    try:
        uri, folder = _located(tracking_uri)
        with _impatient(), _alone(folder):
            client = MlflowClient(uri)
            run_id = _known_run(client, known)
            if run_id is None:
                experiment = _experiment(client, experiment_name, folder)
                tags = resolve_tags({"medvision.directory": str(Path(save_dir).absolute())})
                run_id = client.create_run(experiment, run_name=name or _name(save_dir), tags=tags).info.run_id
            client.update_run(run_id, status="RUNNING")
    except (MlflowException, SQLAlchemyError, OSError) as error:
        message = without_passwords(f"logger.tracking_uri={tracking_uri} cannot be used: {_first_line(error)}")
        raise ConfigError(f"{message}\nExpected sqlite:///FILE, or the address of a server that runs.") from error
    write_text(known, f"{run_id}\n")
    return MLFlowLogger(experiment_name=experiment_name, tracking_uri=uri, run_id=run_id)


@contextmanager
def tracked(logger: Logger, settings: Mapping[str, Any]) -> Iterator[None]:
    """Log the settings of a run at the beginning of the block, and its outcome at the end.

    Args:
        logger: any of Lightning's.
        settings: nested, in plain Python types; a resumed run has those it began with.
    """
    logger.log_hyperparams(dict(settings))
    try:
        yield
    except BaseException as error:
        # Only MLflow knows the third status; the others know success and failure.
        _close(logger, "KILLED" if isinstance(error, Interrupted | KeyboardInterrupt) else "failed")
        raise
    _close(logger, "success")


def check(node: Mapping[str, Any] | None) -> None:
    """Refuse a logger whose package is missing, before anything is read or trained.

    Args:
        node: the `logger` node of a config.

    Raises:
        ConfigError: if it is.
    """
    home, _, name = str((node or {}).get("_target_", "")).rpartition(".")
    if home == __name__ and name in _PACKAGES:
        _require(name)


def _require(name: str) -> None:
    if not all(importlib.util.find_spec(package) for package in _PACKAGES[name]):
        raise ConfigError(f"logger={name} needs packages that are not installed: pip install 'medvision[track]'.")


def _close(logger: Logger, status: str) -> None:
    logger.finalize(status)
    if isinstance(logger, WandbLogger):
        # Lightning leaves this to the end of the process, where the next run would be taken for a part of this one.
        logger.experiment.finish(0 if status == "success" else 1)


def _name(save_dir: str) -> str:
    """What a run is called: `digits_cnn/2026-01-31_12-00-00`, or `1a2b3c4d/0_seed-0` as a job of a multirun."""
    return "/".join(Path(save_dir).absolute().parts[-2:])


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _wandb_id(save_dir: str) -> str | None:
    """The id of the run that the directory has, which stands in the names of its folders."""
    found = [re.fullmatch(r"(?:offline-)?run-\d+_\d+-(.+)", one.name) for one in Path(save_dir).glob("wandb/*run-*")]
    return next((one[1] for one in found if one), None)


def _located(tracking_uri: str) -> tuple[str, Path | None]:
    """The same address, and the folder of an sqlite file, which MLflow would look for from where it was first asked."""
    from sqlalchemy import make_url

    if not tracking_uri.startswith("sqlite:") or (file := make_url(tracking_uri).database) is None:
        return tracking_uri, None
    url = make_url(tracking_uri).set(database=str(Path(file).absolute()))
    return url.render_as_string(hide_password=False), Path(file).absolute().parent


@contextmanager
def _alone(folder: Path | None) -> Iterator[None]:
    """Make a folder, and within the block keep other jobs out: MLflow makes its tables as if there were none."""
    if folder is None:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder / ".mlflow.lock"):
        yield


def _known_run(client: Any, file: Path) -> str | None:
    """The run that the directory has, if this database or server has it too."""
    from mlflow.exceptions import MlflowException

    if not file.is_file():
        return None
    run_id = file.read_text(encoding="utf-8").strip()
    try:
        client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return run_id


def _experiment(client: Any, name: str, folder: Path | None) -> str:
    """The id of an experiment, made if need be; on a server another job may make it at the same time."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        artifacts = None if folder is None else str(folder / "mlartifacts")
        try:
            return str(client.create_experiment(name, artifact_location=artifacts))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)
    return str(found.experiment_id)


@contextmanager
def _impatient() -> Iterator[None]:
    """Within the block MLflow gives up after seconds; later, in training, it may wait minutes for its server."""
    before = os.environ.get(_RETRIES)
    os.environ[_RETRIES] = before or "2"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_RETRIES]
