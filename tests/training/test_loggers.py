import importlib.util
import os

import pytest

from medvision.config import compose
from medvision.errors import ConfigError
from medvision.training import loggers


@pytest.fixture
def absent(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name.startswith(("wandb", "mlflow")) else found(name)
    )


@pytest.fixture
def present(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    for name in ("WANDB_MODE", "MLFLOW_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_told_before_anything_else(absent, train, name, elsewhere):
    ending = train("experiment=digits_cnn", f"logger={name}")
    assert ending.code == 2
    assert "pip install " in ending.err
    assert list(elsewhere.iterdir()) == []
    with pytest.raises(ConfigError, match="pip install"):
        getattr(loggers, name)("here")


def test_nothing_else_is_required(absent):
    loggers.check(None)
    loggers.check(compose("experiment=digits_cnn").logger)


@pytest.mark.parametrize(("mode", "offline"), [(None, True), ("online", False), ("offline", True)])
def test_wandb_is_offline_unless_asked(present, monkeypatch, mode, offline):
    """Lightning's own class stands aside: the package is not among the dependencies."""
    given = {}
    monkeypatch.setattr(loggers, "WandbLogger", lambda **settings: given.update(settings))
    if mode:
        monkeypatch.setenv("WANDB_MODE", mode)
    loggers.wandb("run")
    assert given == {"name": None, "save_dir": "run", "project": "medvision", "offline": offline}


def test_mlflow_tells_nobody(present, monkeypatch):
    given = {}
    monkeypatch.setattr(loggers, "MLFlowLogger", lambda **settings: given.update(settings))
    loggers.mlflow("run")
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert given["tracking_uri"] == "sqlite:///mlflow.db"
    assert given["artifact_location"] == "run/mlruns"
