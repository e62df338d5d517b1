"""A run directory or bundle from a stranger: what its files name does not run, and no file of the user changes."""

import json
import shutil
import sys
from importlib import import_module
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from medvision import compose, fit
from medvision.cli.entry import run_command

TINY = (
    *("experiment=digits_cnn", "trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.accelerator=cpu"),
    *("logger=none", "evaluation.report=false", "evaluation.robustness=false", "evaluation.n_resamples=20"),
)
VICTIM = "VICTIM"
# Each deletes, overwrites or runs something if it is called with the arguments beside it.
PAYLOADS = {
    "method of a class of the package": {
        "_target_": "medvision.training.checkpoint_io.AtomicCheckpointIO.remove_checkpoint",
        "self": None,
        "path": VICTIM,
    },
    "method by way of a nested node": {
        "_target_": "medvision.training.checkpoint_io.AtomicCheckpointIO.remove_checkpoint",
        "self": {"_target_": "medvision.training.checkpoint_io.AtomicCheckpointIO"},
        "path": VICTIM,
    },
    "function of the package": {
        "_target_": "medvision.files.write_text",
        "path": {"_target_": "pathlib.Path", "_args_": [VICTIM]},
        "text": "",
    },
    "class of Lightning": {
        "_target_": "lightning.fabric.plugins.io.torch_io.TorchCheckpointIO.remove_checkpoint",
        "self": None,
        "path": VICTIM,
    },
    "logger of the package elsewhere": {"_target_": "medvision.training.trackers.tensorboard", "save_dir": VICTIM},
    "save of torch": {"_target_": "torch.save", "obj": 0, "f": VICTIM},
    "shell": {"_target_": "os.system", "command": f"rm {VICTIM}"},
    "rmtree": {"_target_": "shutil.rmtree", "path": VICTIM},
    "positional": {"_target_": "os.remove", "_args_": [VICTIM]},
    "partial": {"_target_": "os.remove", "_partial_": True, "path": VICTIM},
}
PLACES = (
    *("model", "optimizer", "scheduler", "loss", "augmentation", "trainer", "logger", "data.source"),
    *("model.channels", "augmentation.rotation", "optimizer.betas", "data.root", "early_stopping", "run"),
)
COMMANDS = {
    "train": ("resume=RUN",),
    "evaluate": ("run=RUN",),
    "export": ("run=RUN", "format=torch"),
    "predict": ("run=RUN", "images=IMAGES"),
    "audit": ("labels=true", "run=RUN"),
    "compare": ("runs=[RUN,OTHER]",),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stranger")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MEDVISION_CACHE", str(folder / "cache"))
        fit(compose(*TINY, f"out={folder / 'run'}"))
    (folder / "images").mkdir()
    cv2.imwrite(str(folder / "images" / "one.png"), np.zeros((16, 16), np.uint8))
    return folder


def planted(node: object, victim: Path) -> object:
    """The payload with the path of the file that it goes for."""
    return json.loads(json.dumps(node).replace(VICTIM, str(victim)))


def put(config: dict, place: str, node: object) -> None:
    *parents, key = place.split(".")
    for parent in parents:
        config = config.setdefault(parent, {})
    config[key] = node


def run(command: str, arguments: list[str], monkeypatch) -> int:
    module = import_module(f"medvision.{command}")
    monkeypatch.setattr(sys, "argv", [f"medvision.{command}", *arguments])
    with pytest.raises(SystemExit) as ending:
        run_command(command, getattr(module, command))
    return ending.value.code


@pytest.fixture
def attack(trained, tmp_path, monkeypatch, capfd, rewrite):
    """Plant a payload at a place of a copy of the run and start a command; its exit code and its errors."""
    victim, stranger = tmp_path / "thesis.docx", tmp_path / "stranger"
    victim.write_bytes(b"three years of work")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.system", pytest.fail)

    def start(command: str, place: str, payload: str) -> int:
        shutil.rmtree(stranger, ignore_errors=True)
        shutil.copytree(trained / "run", stranger)
        node = planted(PAYLOADS[payload], victim)
        if place == "bundle":
            architecture = json.loads((stranger / "model" / "bundle.json").read_text())["architecture"]
            rewrite(stranger / "model", architecture=architecture | node)
        else:
            file = stranger / "config.yaml"
            config = yaml.safe_load(file.read_text())
            put(config, place, node)
            file.write_text(yaml.safe_dump(config))
        if command == "train":
            facts = json.loads((stranger / "run.json").read_text())
            (stranger / "run.json").write_text(json.dumps(facts | {"status": "interrupted"}))
        names = {"RUN": str(stranger), "OTHER": str(trained / "run"), "IMAGES": str(trained / "images")}
        arguments = list(COMMANDS[command])
        for name, path in names.items():
            arguments = [one.replace(name, path) for one in arguments]
        code = run(command, arguments, monkeypatch)
        errors = capfd.readouterr().err
        assert victim.read_bytes() == b"three years of work"
        # What a command does not need of a run is not built, so it may end well; a traceback is never right.
        assert code in (0, 2, 3), errors
        assert code != 2 or len(errors.strip().splitlines()) <= 4, errors
        return code

    return start


@pytest.mark.slow
@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_run_to_resume_is_refused(attack, payload):
    for place in PLACES:
        # Of a tracker that 0.1 stored, a name and nothing else is read, so that this one is TensorBoard's in the run.
        known = (place, payload) == ("logger", "logger of the package elsewhere")
        assert attack("train", place, payload) == (0 if known else 2), place


@pytest.mark.slow
@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_bundle_is_refused(attack, payload):
    for command in ("predict", "export", "evaluate"):
        assert attack(command, "bundle", payload) == 2, command


@pytest.mark.slow
@pytest.mark.parametrize("command", ["evaluate", "audit", "export", "compare"])
@pytest.mark.parametrize(("number", "place"), [*enumerate(PLACES)])
def test_nothing_that_a_stored_configuration_names_runs(attack, command, number, place):
    attack(command, place, list(PAYLOADS)[number % len(PAYLOADS)])
