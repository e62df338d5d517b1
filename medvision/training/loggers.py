"""Where metrics can go besides metrics.csv: experiment trackers, installed apart, which tell nobody by default."""

import importlib.util
import os
from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers import Logger, MLFlowLogger, WandbLogger

from medvision.errors import ConfigError

# The packages that each needs, any of them.
_PACKAGES: Mapping[str, tuple[str, ...]] = {"wandb": ("wandb",), "mlflow": ("mlflow", "mlflow_skinny")}


def wandb(save_dir: str, *, project: str = "medvision", offline: bool = True, name: str | None = None) -> Logger:
    """Weights & Biases.

    Args:
        save_dir: the run directory; files go to `wandb` below it.
        project: that the run belongs to.
        offline: keep everything in the run directory, for `wandb sync` to send when and if somebody wants to. The
            environment variable WANDB_MODE, where it is set, decides instead.
        name: of the run; null lets wandb choose.

    Raises:
        ConfigError: if the package is not installed.
    """
    _require("wandb")
    if offline:
        os.environ.setdefault("WANDB_MODE", "offline")
    return WandbLogger(name=name, save_dir=save_dir, project=project, offline=os.environ.get("WANDB_MODE") == "offline")


def mlflow(
    save_dir: str,
    *,
    experiment_name: str = "medvision",
    tracking_uri: str = "sqlite:///mlflow.db",
    name: str | None = None,
) -> Logger:
    """MLflow, with its usage statistics switched off.

    Args:
        save_dir: the run directory; artifacts of a local database go to `mlruns` below it.
        experiment_name: that the run belongs to.
        tracking_uri: of the database or server.
        name: of the run; null lets MLflow choose.

    Raises:
        ConfigError: if the package is not installed.
    """
    # Before the package is imported, which is when it looks.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    _require("mlflow")
    artifacts = f"{save_dir}/mlruns" if tracking_uri.startswith("sqlite:") else None
    return MLFlowLogger(
        experiment_name=experiment_name, run_name=name, tracking_uri=tracking_uri, artifact_location=artifacts
    )


def check(node: Mapping[str, Any] | None) -> None:
    """Refuse a logger whose package is missing, before anything is read or trained.

    Args:
        node: the `logger` node of a config.

    Raises:
        ConfigError: if it is.
    """
    home, _, name = str((node or {}).get("_target_", "")).rpartition(".")
    if home == __name__:
        _require(name)


def _require(name: str) -> None:
    if not any(importlib.util.find_spec(package) for package in _PACKAGES[name]):
        raise ConfigError(f"logger={name} needs a package that is not installed: pip install {_PACKAGES[name][0]}.")
