import json
import random
import signal
import time

import pytest
import torch
from omegaconf import OmegaConf

from medvision.errors import ConfigError
from medvision.runs.resume import continued

# Everything that has a memory: dropout, augmentation, weight averaging, momentum, a schedule, early stopping.
CONFIG = (
    "experiment=digits_cnn",
    "trainer.max_epochs=12",
    "model.dropout=0.2",
    "ema.decay=0.9",
    "early_stopping.patience=4",
    "checkpoint.every_n_steps=7",
    "augmentation.mixup=0.2",
    "evaluation.n_resamples=20",
)
SAME = ("metrics.csv", "metrics.json", "splits.csv", "predictions/val.npz", "predictions/test.npz")


def rows(directory):
    table = directory / "metrics.csv"
    return max(0, len(table.read_text().splitlines()) - 1) if table.exists() else 0


def wait_for(condition, process, seconds=90):
    deadline = time.monotonic() + seconds
    while not condition() and process.poll() is None:
        assert time.monotonic() < deadline, "the run did not get where the test wanted it"
        time.sleep(0.005)


def differences(a, b, place=""):
    """Where two nested checkpoints differ."""
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return [f"{place}: {a.keys() ^ b.keys()}"]
        return [found for name in a for found in differences(a[name], b[name], f"{place}/{name}")]
    if isinstance(a, list | tuple):
        if len(a) != len(b):
            return [place]
        return [found for i, pair in enumerate(zip(a, b, strict=True)) for found in differences(*pair, f"{place}/{i}")]
    same = torch.equal(a, b) if torch.is_tensor(a) else a == b
    return [] if same else [place]


def assert_same_run(one, other):
    for name in SAME:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    assert (one / "model" / "weights.safetensors").read_bytes() == (
        other / "model" / "weights.safetensors"
    ).read_bytes()
    for name in ("last.ckpt", "best.ckpt"):
        a, b = (torch.load(run / "checkpoints" / name, weights_only=True) for run in (one, other))
        assert differences(a, b) == []


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The run that nobody interrupts."""
    from medvision import compose, fit

    directory = tmp_path_factory.mktemp("undisturbed") / "run"
    return fit(compose(*CONFIG, f"out={directory}")).path


@pytest.mark.slow
def test_a_run_killed_several_times_ends_as_if_never_killed(undisturbed, start, tmp_path):
    directory = tmp_path / "killed"
    chance = random.Random(0)
    kills = 0
    process = start(*CONFIG, f"out={directory}")
    # Between epochs, inside them, before the first checkpoint and after the last: wherever the delay falls.
    for epoch in (0, 1, 2, 5, 9, 12):
        wait_for(lambda epoch=epoch: rows(directory) >= epoch and (directory / "run.json").exists(), process)
        time.sleep(chance.uniform(0.0, 0.3))
        process.send_signal(signal.SIGKILL)
        if process.wait() != -signal.SIGKILL:  # it had ended by itself
            break
        kills += 1
        process = start(f"resume={directory}")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert kills >= 4
    assert_same_run(undisturbed, directory)


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_says_how_to_go_on_and_loses_nothing(undisturbed, start, tmp_path, signum, code):
    directory = tmp_path / "stopped"
    process = start(*CONFIG, f"out={directory}")
    wait_for(lambda: rows(directory) >= 2, process)
    process.send_signal(signum)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code
    assert f"resume={directory}" in output
    assert "Traceback" not in output
    assert json.loads((directory / "run.json").read_text())["status"] == "interrupted"
    process = start(f"resume={directory}")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert_same_run(undisturbed, directory)


@pytest.mark.parametrize("step", [1, 5, 34, 35, 36, 70, 71, 104])
def test_stopped_at_any_step_a_run_goes_on_exactly(tmp_path, monkeypatch, step):
    """At the first and last batches of epochs, and in between; 40 batches an epoch."""
    from medvision import compose, fit
    from medvision.cli.stop_signal import StopSignal
    from medvision.errors import Interrupted
    from medvision.training.classifier import Classifier

    config = [*CONFIG, "trainer.max_epochs=3"]
    undisturbed = fit(compose(*config, f"out={tmp_path / 'undisturbed'}")).path
    stops = []
    install = StopSignal.install
    monkeypatch.setattr(StopSignal, "install", lambda self: (stops.append(self), install(self))[1])
    training_step = Classifier.training_step

    def stopping(self, batch, batch_idx):
        if self.global_step + 1 == step and not self.trainer.ckpt_path:
            stops[-1]._handle(signal.SIGTERM, None)
        return training_step(self, batch, batch_idx)

    monkeypatch.setattr(Classifier, "training_step", stopping)
    with pytest.raises(Interrupted):
        fit(compose(*config, f"out={tmp_path / 'stopped'}"))
    fit(compose(f"resume={tmp_path / 'stopped'}"))
    assert_same_run(undisturbed, tmp_path / "stopped")


def configuration(**changes):
    values = {"optimizer": {"lr": 0.1}, "data": {"root": "here"}, "trainer": {"accelerator": "cpu"}}
    config = OmegaConf.create(values | {"choices": {"model": "small_cnn"}, "resume": None, "overrides": []})
    for name, value in changes.items():
        OmegaConf.update(config, name.replace("__", "."), value)
    return config


def test_what_may_change_on_resume_is_taken_over():
    typed = configuration(data__root="there", trainer__accelerator="gpu", resume="x")
    typed.overrides = ["resume=x", "data.root=there", "trainer.accelerator=gpu"]
    cfg = continued(typed, configuration())
    assert (cfg.data.root, cfg.trainer.accelerator, cfg.optimizer.lr) == ("there", "gpu", 0.1)


def test_the_source_learns_of_a_folder_that_moved():
    stored = configuration(data__source={"_target_": "some.source", "root": "here"})
    typed = configuration(data__root="there")
    typed.overrides = ["data.root=there"]
    assert continued(typed, stored).data.source.root == "there"


def test_only_what_was_typed_is_compared():
    typed = configuration(optimizer__lr=0.5)
    assert continued(typed, configuration()).optimizer.lr == 0.1
    typed.overrides = ["optimizer.lr=0.5"]
    with pytest.raises(ConfigError, match=r"optimizer\.lr: 0\.1 when the run began, 0\.5 now"):
        continued(typed, configuration())
