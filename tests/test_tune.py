import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf

from medvision.cli.entry import run_command
from medvision.config.compose import compose
from medvision.data.datamodule import ImageDataModule
from medvision.tune import tune

optuna = pytest.importorskip("optuna")
from medvision.search import trials as search  # noqa: E402

Ending = namedtuple("Ending", "code out err")
SMALL = (
    *("experiment=digits_cnn", "~search.model", "~search.augmentation", "trainer.limit_train_batches=3"),
    *("trainer.max_epochs=2", "pruner.min_epochs=1"),
)
FOLDER = Path("outputs/tune/digits_cnn")


@pytest.fixture
def start(monkeypatch, capfd):
    """Run the command in this process: `start("n_trials=2").code`."""

    def run(*overrides):
        monkeypatch.setattr(sys, "argv", ["medvision.tune", *overrides])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ending:
            run_command("tune", tune)
        return Ending(ending.value.code, *capfd.readouterr())

    return run


def study(storage="outputs/tune/digits_cnn/study.db", name="digits_cnn"):
    return optuna.load_study(study_name=name, storage=f"sqlite:///{storage}")


def told(some):
    return [(trial.params, trial.value, trial.state.name) for trial in some.trials]


def test_a_search_and_what_it_leaves_behind(start):
    ending = start(*SMALL, "n_trials=3", "storage=sqlite:///study.db")
    assert ending.code == 0, ending.err
    done = study("study.db")
    first = told(done)
    assert len(first) == 3
    assert f"Best: trial {done.best_trial.number}" in ending.out
    table = pd.read_csv(FOLDER / "trials.csv")
    assert set(table["status"]) <= {"finished", "pruned"}
    page = (FOLDER / "tune.html").read_text()
    assert "default-src 'none'; style-src 'unsafe-inline'" in page
    assert "<script" not in page

    # A trial has no test predictions, no model, and its value is the best of its epochs.
    number = str(done.best_trial.number)
    assert {file.name for file in (FOLDER / "trials" / number).iterdir()} == {
        *("config.yaml", "metrics.csv", "run.json", "run.lock", "train.log")
    }
    assert pd.read_csv(FOLDER / "trials" / number / "metrics.csv")["val/loss"].min() == done.best_value

    # The best one can be trained as an experiment.
    text = (FOLDER / "experiment" / "best.yaml").read_text()
    assert "medvision tune experiment=digits_cnn" in text
    assert f"val/loss {done.best_value:.4f}" in text
    best = OmegaConf.to_container(compose("experiment=best", "logger=none", config_dir=FOLDER))
    tried = OmegaConf.to_container(OmegaConf.load(FOLDER / "trials" / number / "config.yaml"))
    for name in ("choices", "overrides", "out", "config_dir"):
        best.pop(name, None)
        tried.pop(name, None)
    assert best == tried

    # The same command has nothing left to do; with more trials it goes on.
    again = start(*SMALL, "n_trials=3", "storage=sqlite:///study.db")
    assert again.code == 0
    assert "s  data.batch_size" not in again.out
    assert len(study("study.db").trials) == 3
    assert start(*SMALL, "n_trials=4", "storage=sqlite:///study.db").code == 0
    assert told(study("study.db"))[:3] == first
    assert len(study("study.db").trials) == 4
    other = start(*SMALL, "n_trials=4", "storage=sqlite:///study.db", "seed=1")
    assert other.code == 2
    assert "another configuration" in other.err


@pytest.mark.slow
def test_the_best_trial_is_trained_by_what_is_printed(start, tmp_path):
    """As typed by a user, in a process of its own; the trial and the run learn the same, epoch by epoch."""
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "optimizer" / "mine.yaml").write_text(
        "_target_: torch.optim.SGD\n_partial_: true\nmomentum: 0.8\nlr: 0.1\n"
    )
    own = ("--config-dir", str(tmp_path), "optimizer=mine", "~search.optimizer.weight_decay")
    ending = start(*SMALL, *own, "n_trials=2", "out=two words")
    assert ending.code == 0, ending.err
    (printed,) = (line for line in ending.out.splitlines() if line.startswith("Train and test it: "))
    program, *command = shlex.split(printed.partition(": ")[2])
    assert (program, command[0]) == ("medvision", "train")
    ended = subprocess.run([sys.executable, "-m", program, *command], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr

    (run,) = Path("outputs/best").iterdir()
    best = study("two words/study.db").best_trial
    trial = Path("two words") / "trials" / str(best.number)
    config, tried = (OmegaConf.load(folder / "config.yaml") for folder in (run, trial))
    assert config.optimizer.lr == best.params["optimizer.lr"]
    assert config.data.batch_size == json.loads(best.params["data.batch_size"])
    for name in ("data", "model", "augmentation", "optimizer", "scheduler", "loss", "seed"):
        assert config[name] == tried[name]
    table = pd.read_csv(run / "metrics.csv")
    pd.testing.assert_frame_equal(table, pd.read_csv(trial / "metrics.csv"), check_exact=True)
    assert table["val/loss"].min() == best.value
    assert 0 < json.loads((run / "metrics.json").read_text())["test"]["overall"]["accuracy"]["value"] <= 1


def test_the_test_images_are_never_seen(start, monkeypatch):
    command = (*SMALL, "n_trials=2", "trainer.max_epochs=1")
    assert start(*command, "study=clean").code == 0
    reads, found, setup, split = [], [], ImageDataModule.setup, ImageDataModule.split

    def poisoned(self, stage=None):
        setup(self, stage)
        test = self.table.splits == "test"
        found.append(test.sum())
        self._pixels = self._pixels.copy()
        self._pixels[self._positions[test]] = np.random.default_rng().integers(0, 256, self._pixels.shape[1:])
        self.table.frame.loc[test, "label"] = 0

    def watched(self, name):
        reads.append(name)
        return split(self, name)

    monkeypatch.setattr(ImageDataModule, "setup", poisoned)
    monkeypatch.setattr(ImageDataModule, "split", watched)
    monkeypatch.setattr(ImageDataModule, "test_dataloader", lambda self: pytest.fail("test images were asked for"))
    assert start(*command, "study=poisoned").code == 0
    clean, poisoned = (study(f"outputs/tune/{name}/study.db", name) for name in ("clean", "poisoned"))
    assert told(clean) == told(poisoned)
    assert found[0] > 0
    assert found[-1] == 0  # what the trainer sets up once more has none
    assert "test" not in reads
    assert not [file for file in Path("outputs").rglob("*") if file.suffix == ".npz" or file.name == "model"]


def test_nothing_but_train_and_val_can_be_reached():
    from medvision.pipeline.prepare import read_data

    data = search.without_test(read_data(compose("data=digits")))
    assert [len(data.split(name).ids) for name in ("test", "calibration")] == [0, 0]
    assert len(data.split("train").ids) > len(data.split("val").ids) > 0


def test_a_classical_model(start):
    ending = start("data=digits", "model=svm", "search=svm", "n_trials=2", "data.max_train_samples=200")
    assert ending.code == 0, ending.err
    folder = Path("outputs/tune/digits_svm")
    assert (
        pytest.approx(study(folder / "study.db", "digits_svm").best_params["model.estimator.C"])
        == compose("experiment=best", config_dir=folder).model.estimator.C
    )


@pytest.fixture
def epochs(monkeypatch):
    """Trials without training: `epochs[number]` are the values of the monitor, or what is raised instead of one."""
    values = {}

    def train(cfg, directory, stop, console, on_epoch):
        seen = []
        for epoch, value in enumerate(values.get(int(directory.path.name), [0.5]), start=1):
            if not isinstance(value, float):
                raise value
            seen.append(value)
            try:
                on_epoch(epoch, value)
            except optuna.TrialPruned:
                return None
        return min(seen)

    monkeypatch.setattr(search, "_train", train)
    return values


def test_successive_halving_prunes_on_the_monitor(start, epochs):
    epochs |= {0: [0.1, 0.1], 1: [0.9, 0.01], 2: [0.05, 0.04]}
    assert start(*SMALL, "n_trials=3").code == 0
    assert [(trial.state.name, trial.value) for trial in study().trials] == [
        ("COMPLETE", 0.1),
        ("PRUNED", 0.9),
        ("COMPLETE", 0.04),
    ]


def test_what_cannot_be_trained_is_told_and_the_search_goes_on(start, epochs):
    from medvision.errors import TrainingError

    epochs[0] = [TrainingError("The loss was not finite.\nTry less.")]
    ending = start(*SMALL, "n_trials=2")
    assert ending.code == 0
    assert "trial 0  failed: The loss was not finite." in ending.out
    table = pd.read_csv(FOLDER / "trials.csv").set_index("trial")
    assert table.loc[0, ["status", "reason"]].tolist() == ["failed", "The loss was not finite."]
    epochs |= dict.fromkeys(range(9), epochs[0])
    assert start(*SMALL, "n_trials=2", "study=hopeless").code == 2
    assert not Path("outputs/tune/hopeless/experiment").exists()


def test_an_error_ends_the_command_and_costs_no_trial(start, epochs):
    from medvision.errors import DataError

    epochs[1] = [DataError("no images")]
    assert start(*SMALL, "n_trials=2").code == 2
    assert start(*SMALL, "n_trials=2").code == 0
    assert [trial.state.name for trial in study().trials] == ["COMPLETE", "FAIL", "COMPLETE"]


def test_a_stopped_trial_goes_on_where_it_was(start, epochs):
    from medvision.errors import Interrupted

    epochs |= {0: [0.5], 1: [0.4, Interrupted(signal.SIGTERM)]}
    ending = start(*SMALL, "n_trials=3")
    assert ending.code == 143
    assert "The same command continues" in ending.out
    before = study().trials
    assert [trial.state.name for trial in before] == ["COMPLETE", "RUNNING"]
    epochs |= {1: [0.4, 0.3], 2: [0.2]}
    assert start(*SMALL, "n_trials=3").code == 0
    after = study().trials
    assert [trial.state.name for trial in after] == ["COMPLETE"] * 3
    assert after[1].params == before[1].params
    assert after[1].value == 0.3
    start(*SMALL, "n_trials=3", "study=whole")
    assert told(study("outputs/tune/whole/study.db", "whole")) == told(study())


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["++search.optimizer.lrate={type: float, low: 0.1, high: 1.0}"], "optimizer.lrate is not a key"),
        (["search.optimizer.lr.low=-1"], "expected a number > 0"),
        (["search=nothing"], "there is no such search"),
        (["model=small_resnet"], "search space small_cnn cannot be used here"),
        (["++search.optimizer.lr._target_=os.system"], "no _target_ belongs here"),
        (
            ["++search.augmentation._target_={type: categorical, choices: [os.system, os.remove]}"],
            "no _target_ belongs here",
        ),
        (["optimizer.lr=0.1"], "fixed, and searched as well"),
        (["n_trials=0"], "expected a number >= 1"),
        (["pruner.reduction_factor=1"], "expected a number >= 2"),
        (["resume=auto"], "continues its study"),
        (["logger=tensorboard"], "belongs to one run"),
        (["study=../else"], "names a folder"),
        (["trainer.devices=2"], "runs on one device"),
        (["storage=sqlite:////nowhere/at/all.db"], "cannot be used"),
        (["storage=nonsense"], "cannot be used"),
        (["storage=postgresql+psycopg://me:secret@localhost:1/study"], "postgresql"),
    ],
)
def test_bad_input_ends_before_anything_is_trained(start, monkeypatch, overrides, said):
    monkeypatch.setattr(search, "_train", lambda *_: pytest.fail("a trial was started"))
    ending = start("experiment=digits_cnn", *overrides)
    assert ending.code == 2
    assert said in " ".join(ending.err.split())
    assert len(ending.err.splitlines()) <= 4
    assert "secret" not in ending.err


def test_without_optuna_the_extra_is_named(start, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("medvision.search")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "optuna", None)
    ending = start(*SMALL)
    assert ending.code == 2
    assert "pip install 'medvision[tune]'" in ending.err


def process(*overrides):
    return subprocess.Popen([sys.executable, "-m", "medvision.tune", *overrides], stdout=subprocess.DEVNULL)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a process")
def test_a_killed_search_ends_as_if_it_had_not_been(start):
    command = (*SMALL, "n_trials=4", "trainer.max_epochs=12", "pruner.min_epochs=12")
    running = process(*command, "study=killed")
    table, deadline = Path("outputs/tune/killed/trials/1/metrics.csv"), time.monotonic() + 120
    while not table.exists() or len(table.read_text().splitlines()) < 3:
        assert time.monotonic() < deadline
        assert running.poll() is None
        time.sleep(0.01)
    running.kill()
    running.wait()
    killed = study("outputs/tune/killed/study.db", "killed")
    assert [trial.state.name for trial in killed.trials] == ["COMPLETE", "RUNNING"]
    assert start(*command, "study=killed").code == 0
    assert "Restored" in Path("outputs/tune/killed/trials/1/train.log").read_text()  # and did not start again
    assert start(*command, "study=whole").code == 0
    assert told(study("outputs/tune/killed/study.db", "killed")) == told(study("outputs/tune/whole/study.db", "whole"))


@pytest.mark.slow
def test_two_workers_share_a_study():
    workers = [process(*SMALL, "n_trials=5") for _ in range(2)]
    assert [worker.wait(180) for worker in workers] == [0, 0]
    trials = study().trials
    assert [trial.number for trial in trials] == list(range(5))
    assert {trial.state.name for trial in trials} <= {"COMPLETE", "PRUNED"}
