import importlib.util
import json
import math
import os
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from medvision.config.compose import compose
from medvision.errors import ConfigError
from medvision.training import trackers as loggers

SMALL = (
    *("experiment=digits_cnn", "trainer.max_epochs=3", "trainer.limit_train_batches=3", "trainer.accelerator=cpu"),
    *("evaluation.report=false", "evaluation.robustness=false", "evaluation.n_resamples=20"),
)
FAKE = """
import os
seen = {name: value for name, value in os.environ.items() if name.startswith("WANDB")}
class Error(Exception): ...
class Settings(dict): ...
class Run:
    id, offline, url = "abc", True, None
    def define_metric(self, *names, **options): ...
def init(**settings):
    seen.update(settings)
    return Run()
"""


@pytest.fixture(autouse=True)
def untold(monkeypatch):
    """What a logger puts into the environment goes with the test."""
    for name in ("WANDB_MODE", "WANDB_ERROR_REPORTING", "WANDB_CACHE_DIR", "WANDB_API_KEY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name in ("MLFLOW_DISABLE_TELEMETRY", "MLFLOW_LOGGING_LEVEL", "MLFLOW_TRACKING_URI"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """Whoever calls another machine fails the test; a home folder that nobody should write to."""
    connect = socket.socket.connect

    def guarded(self, address):
        local = self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "::1")
        assert local, f"asked for {address}"
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def absent(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name.startswith(("wandb", "mlflow")) else found(name)
    )


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_told_before_anything_else(absent, train, name, elsewhere):
    ending = train("experiment=digits_cnn", f"logger={name}")
    assert ending.code == 2
    assert "pip install 'medvision[track]'" in ending.err
    assert list(elsewhere.iterdir()) == []
    with pytest.raises(ConfigError, match="pip install"):
        getattr(loggers, name)("here")


def test_nothing_else_is_required(absent):
    loggers.check(None)
    loggers.check(compose("experiment=digits_cnn").logger)


@pytest.fixture
def fake_wandb(monkeypatch, tmp_path):
    """A package that notes what was in the environment when it was imported, and what it was asked for."""
    (tmp_path / "wandb.py").write_text(FAKE)
    for name in [name for name in sys.modules if name.partition(".")[0] == "wandb"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    yield lambda: sys.modules["wandb"].seen
    sys.modules.pop("wandb", None)


@pytest.mark.parametrize(
    ("given", "asked", "mode"),
    [(None, True, "offline"), (None, False, "online"), ("online", True, "online"), ("disabled", True, "disabled")],
)
def test_wandb_is_offline_unless_asked(fake_wandb, monkeypatch, given, asked, mode):
    if given:
        monkeypatch.setenv("WANDB_MODE", given)
    loggers.wandb("some/run", offline=asked)
    seen = fake_wandb()
    assert seen["WANDB_ERROR_REPORTING"] == "false"
    assert seen["WANDB_CACHE_DIR"] == "some/run"
    assert (seen["mode"], seen["name"], seen["project"], seen["id"]) == (mode, "some/run", "medvision", None)


def records(run):
    """What wandb wrote: records of protobuf in LevelDB's log format, in blocks of 32 KiB, behind seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    found = []
    for file in sorted(Path(run).glob("wandb/*run-*/*.wandb")):
        data, position, whole = file.read_bytes(), 7, b""
        while position + 7 <= len(data):
            if (left := 32768 - position % 32768) < 7:
                position += left
                continue
            _, length, kind = struct.unpack_from("<IHB", data, position)
            whole += data[position + 7 : position + 7 + length]
            position += 7 + length
            if kind in (1, 4):  # whole, or the last of its parts
                found.append(Record.FromString(whole))
                whole = b""
    return found


def values(items):
    return {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


def told_wandb(run):
    """The rows of the history that have a validation loss, the last values, the configuration, and the exit codes."""
    found = records(run)
    history = [values(one.history.item) for one in found if one.HasField("history")]
    last = {name: value for row in history for name, value in row.items()}
    config = values(item for one in found if one.HasField("config") for item in one.config.update)
    exits = [one.exit.exit_code for one in found if one.HasField("exit")]
    return [row for row in history if "val/loss" in row], last, config, exits


def headline(run):
    """metrics.json in the words of a tracker."""
    found = json.loads((Path(run) / "metrics.json").read_text())
    names = ("accuracy", "balanced_accuracy", "macro_ppv", "macro_f1", "macro_auroc", "ece")
    told = {f"test/{name}": found["test"]["overall"][name] for name in names}
    return {
        f"{name}{suffix}": one[bound]
        for name, one in told.items()
        for suffix, bound in (("", "value"), ("/low", "low"), ("/high", "high"))
    }


@pytest.mark.slow
def test_wandb_is_told_what_metrics_csv_says(train, offline, elsewhere):
    pytest.importorskip("wandb", reason="needs the extra track")
    ending = train(*SMALL, "logger=wandb", "out=digits/one")
    assert ending.code == 0, ending.err
    assert "wandb sync" in ending.out
    rows, last, config, exits = told_wandb("digits/one")
    table = pd.read_csv("digits/one/metrics.csv")
    for name in ("val/loss", "val/accuracy", "val/recall", "val/auroc"):
        assert [row[name] for row in rows] == table[name].tolist()
    assert [row["trainer/global_step"] for row in rows] == [2, 5, 8]
    assert {name: last[name] for name in headline("digits/one")} == headline("digits/one")
    assert config["optimizer"]["lr"] == compose("experiment=digits_cnn").optimizer.lr
    assert config["choices"]["model"] == "small_cnn"
    assert exits == [0]
    (begun,) = (one.run for one in records("digits/one") if one.HasField("run"))
    assert (begun.display_name, begun.project) == ("digits/one", "medvision")
    # A second run in the same process is one of its own; nothing is left outside the run directories.
    assert train(*SMALL, "logger=wandb", "out=digits/two", "seed=1").code == 0
    assert len(told_wandb("digits/one")[0]) == len(told_wandb("digits/two")[0]) == 3
    assert [one.name for one in elsewhere.iterdir()] == ["digits"]
    assert list(offline.rglob("*wandb*")) == []


@pytest.mark.slow
def test_wandb_goes_on_in_the_run_that_the_directory_has(train, offline, stopped):
    pytest.importorskip("wandb", reason="needs the extra track")
    assert stopped("logger=wandb", "out=run") == 143
    assert told_wandb("run")[3] == [1]
    assert train("resume=run").code == 0
    rows, _, _, exits = told_wandb("run")
    assert [row["val/loss"] for row in rows] == pd.read_csv("run/metrics.csv")["val/loss"].tolist()
    assert exits == [1, 0]
    assert len({one.run.run_id for one in records("run") if one.HasField("run")}) == 1


@pytest.fixture
def stopped(train, monkeypatch):
    """Train, and have SIGTERM arrive after the first epoch: `stopped("out=run")` is the exit code."""
    from medvision.training.progress import ProgressLine

    def run(*overrides):
        with monkeypatch.context() as patch:
            line = ProgressLine.on_validation_end

            def hit(self, trainer, pl_module):
                line(self, trainer, pl_module)
                os.kill(os.getpid(), signal.SIGTERM)

            patch.setattr(ProgressLine, "on_validation_end", hit)
            return train(*SMALL, *overrides).code

    return run


def mlflow_client(database="outputs/mlflow.db"):
    pytest.importorskip("mlflow", reason="needs the extra track")
    from mlflow.tracking import MlflowClient

    return MlflowClient(f"sqlite:///{Path(database).absolute()}")


def mlflow_runs(client):
    return client.search_runs([client.get_experiment_by_name("medvision").experiment_id])


def curve(client, run, name):
    return [one.value for one in sorted(client.get_metric_history(run.info.run_id, name), key=lambda one: one.step)]


@pytest.mark.slow
def test_mlflow_is_told_what_metrics_csv_says(train, offline, elsewhere):
    pytest.importorskip("mlflow", reason="needs the extra track")
    ending = train(*SMALL, "logger=mlflow", "out=digits/one")
    assert ending.code == 0, ending.err
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    client = mlflow_client()
    (run,) = mlflow_runs(client)
    table = pd.read_csv("digits/one/metrics.csv")
    for name in ("val/loss", "val/accuracy", "val/recall", "val/auroc"):
        assert curve(client, run, name) == table[name].tolist()
    assert {name: run.data.metrics[name] for name in headline("digits/one")} == headline("digits/one")
    assert float(run.data.params["optimizer/lr"]) == compose("experiment=digits_cnn").optimizer.lr
    assert run.data.params["choices/model"] == "small_cnn"
    assert run.data.tags["medvision.directory"] == str(Path("digits/one").absolute())
    assert (run.info.run_name, run.info.status) == ("digits/one", "FINISHED")
    assert run.info.artifact_uri.startswith(str(Path("outputs/mlartifacts").absolute()))
    assert sorted(one.name for one in elsewhere.iterdir()) == ["digits", "outputs"]
    assert [one.name for one in Path("outputs").glob("[!.]*")] == ["mlflow.db"]
    assert list(offline.rglob("*mlflow*")) == []


@pytest.mark.slow
def test_mlflow_goes_on_in_the_run_that_the_directory_has(train, offline, stopped):
    pytest.importorskip("mlflow", reason="needs the extra track")
    assert stopped("logger=mlflow", "out=run") == 143
    client = mlflow_client()
    assert [run.info.status for run in mlflow_runs(client)] == ["KILLED"]
    # Where it computes may change.
    assert train("resume=run", "trainer.accelerator=auto").code == 0
    (run,) = mlflow_runs(client)
    assert run.info.status == "FINISHED"
    assert curve(client, run, "val/loss") == pd.read_csv("run/metrics.csv")["val/loss"].tolist()
    # In another database it is a run of its own.
    assert loggers.mlflow("run", tracking_uri="sqlite:///other.db").run_id != run.info.run_id


@pytest.mark.slow
def test_what_fails_is_told_as_failed(train, offline):
    pytest.importorskip("mlflow", reason="needs the extra track")
    assert train(*SMALL, "logger=mlflow", "optimizer.lr=1e30", "out=run").code == 2
    assert [run.info.status for run in mlflow_runs(mlflow_client())] == ["FAILED"]


@pytest.mark.slow
def test_a_classical_model_has_its_numbers_too(train, offline):
    pytest.importorskip("mlflow", reason="needs the extra track")
    few = ("data.max_train_samples=200", "evaluation.report=false", "evaluation.robustness=false")
    assert train("data=digits", "model=knn", *few, "logger=mlflow", "out=run").code == 0
    (run,) = mlflow_runs(mlflow_client())
    assert {name: run.data.metrics[name] for name in headline("run")} == headline("run")


@pytest.mark.slow
def test_each_job_of_a_multirun_is_a_run(elsewhere):
    """Two at a time, which both find neither database nor experiment."""
    pytest.importorskip("mlflow", reason="needs the extra track")
    command = [sys.executable, "-m", "medvision.train", "-m", *SMALL, "logger=mlflow", "seed=0,1"]
    ended = subprocess.run([*command, "hydra.launcher.n_jobs=2"], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    client = mlflow_client()
    runs = mlflow_runs(client)
    folders = [file.parent for file in Path("multirun").rglob("metrics.csv")]
    assert {run.info.run_name for run in runs} == {"/".join(folder.parts[-2:]) for folder in folders}
    assert {run.data.params["seed"] for run in runs} == {"0", "1"}
    assert all(math.isfinite(run.data.metrics["test/accuracy"]) for run in runs)


@pytest.mark.parametrize("uri", ["http://me:secret@127.0.0.1:9", "sqlite:////proc/nowhere/at.db", "nonsense://x"])
def test_a_tracker_that_cannot_be_used_is_told(offline, uri):
    pytest.importorskip("mlflow", reason="needs the extra track")
    with pytest.raises(ConfigError, match="Expected sqlite:///FILE") as told:
        loggers.mlflow("run", tracking_uri=uri)
    assert "secret" not in str(told.value)
    assert len(str(told.value).splitlines()) == 2


def test_wandb_without_an_account_is_told(offline, monkeypatch):
    pytest.importorskip("wandb", reason="needs the extra track")
    with pytest.raises(ConfigError, match=r"logger\.offline=true"):
        loggers.wandb("run", offline=False)
