import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from medvision.config.compose import CONF_DIR, compose, options

EXPERIMENTS = sorted(options("experiment"))
ONE_BATCH = (
    "trainer.max_epochs=1",
    "trainer.limit_train_batches=1",
    "trainer.limit_val_batches=1",
    "data.batch_size=8",
    "data.eval_batch_size=64",
    "evaluation.n_resamples=20",
    "evaluation.robustness=false",
)
REAL = {
    "mnist_cnn": "MNIST",
    "mnist_fast": "MNIST",
    "mnist_svm": "MNIST",
    "mnist_tree": "MNIST",
    "brain_mri": "brain_mri",
    "pneumonia": "pneumoniamnist.npz",
}


def write_medmnist(path):
    """A file in the layout of MedMNIST: noise of two classes."""
    rng, arrays = np.random.default_rng(0), {}
    for split, n in (("train", 40), ("val", 16), ("test", 16)):
        arrays |= {f"{split}_images": rng.integers(0, 256, (n, 28, 28), np.uint8)}
        arrays |= {f"{split}_labels": np.arange(n)[:, None] % 2}
    np.savez(path, **arrays)
    return path


def finished(ending, directory):
    assert ending.code == 0, ending.err
    assert json.loads((Path(directory) / "run.json").read_text())["status"] == "finished"


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_composes_and_overrides_little(name):
    cfg = compose(f"experiment={name}")
    assert cfg.choices.experiment == name
    lines = (CONF_DIR / "experiment" / f"{name}.yaml").read_text().splitlines()
    values = [line for line in lines if re.match(r"\s*\w+: \S", line) and not line.lstrip().startswith("-")]
    assert len(values) <= 15


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_head_names_the_command_and_what_was_measured(name):
    lines = (CONF_DIR / "experiment" / f"{name}.yaml").read_text().splitlines()
    text = " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))
    assert f"medvision train experiment={name}" in text
    assert re.search(r"\d\d\.\d\d? %|Not measured", text)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_runs_for_one_batch(name, train, tmp_path, write_folder):
    """On generated files in place of a download: network, augmentation, optimizer and schedule are the experiment's."""
    source = ()
    if name == "pneumonia":
        source = (f"data.path={write_medmnist(tmp_path / 'set.npz')}",)
    elif name != "digits_cnn":
        root = write_folder(tmp_path / "images", {f"{split}/{c}": 8 for split in ("train", "test") for c in "abc"})
        size, channels = (28, 1) if name.startswith(("mnist", "fashion")) else (32, 3)
        source = ("data=image_folder", f"data.root={root}", f"data.image_size={size}", f"data.channels={channels}")
    finished(train(f"experiment={name}", *source, *ONE_BATCH, f"out={tmp_path / 'run'}"), tmp_path / "run")


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize("name", sorted(REAL))
def test_runs_for_one_batch_on_its_own_data(name, train, tmp_path):
    if not (Path(os.environ.get("MEDVISION_DATA", "data")) / REAL[name]).exists():
        pytest.skip(f"MEDVISION_DATA holds no {REAL[name]}")
    finished(train(f"experiment={name}", *ONE_BATCH, f"out={tmp_path / 'run'}"), tmp_path / "run")
