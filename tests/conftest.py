import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import cv2
import numpy as np
import pytest

from medvision.command import run_command

Ending = namedtuple("Ending", "code out err")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path_factory, monkeypatch):
    """Every test works in an empty folder, so that nothing depends on the checkout and nothing is left in it."""
    folder = tmp_path_factory.mktemp("cwd")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MEDVISION_CACHE", str(tmp_path_factory.mktemp("cache")))
    return folder


@pytest.fixture
def train(monkeypatch, capfd):
    """Run the train command in this process: `train("experiment=digits_cnn").code`."""

    def run(*overrides):
        from medvision.run import fit

        monkeypatch.setattr(sys, "argv", ["medvision.train", *map(str, overrides)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ending:
            run_command("train", fit)
        return Ending(ending.value.code, *capfd.readouterr())

    return run


@pytest.fixture
def start():
    """Start the train command in a process of its own: `start("experiment=digits_cnn")` is a Popen."""
    running = []

    def run(*overrides):
        command = [sys.executable, "-m", "medvision.train", *map(str, overrides)]
        environment = os.environ | {"COLUMNS": "200"}
        running.append(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
        )
        return running[-1]

    yield run
    for process in running:
        process.kill()
        process.communicate()


@pytest.fixture
def write_folder():
    """Write an image folder: `write_folder(root, {"train/cat": 3})` makes three PNG files of class cat."""

    def write(root, counts):
        generator = np.random.default_rng(0)
        for number, (folder, count) in enumerate(counts.items()):
            (Path(root) / folder).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                image = generator.integers(0, 100, (16, 16, 3), dtype=np.uint8)
                image[:, :, number % 3] += 100
                cv2.imwrite(str(Path(root) / folder / f"{index:03}.png"), image)
        return Path(root)

    return write
