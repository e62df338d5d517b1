import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

import medvision
from medvision import compose
from medvision.cli.entry import run_command
from medvision.export import export
from medvision.inference import export as exported
from medvision.inference.bundle import save_bundle
from medvision.models.small_cnn import small_cnn
from medvision.pipeline.prepare import read_data

pytest.importorskip("onnxscript")

SHARED = Path(os.environ.get("MEDVISION_DATA", "data")).absolute()


@pytest.fixture
def command(monkeypatch, capfd):
    """Run the export command in this process: its exit code, and what it said on both streams."""

    def run(*overrides):
        monkeypatch.setattr(sys, "argv", ["medvision.export", *map(str, overrides)])
        monkeypatch.setenv("COLUMNS", "200")
        capfd.readouterr()
        with pytest.raises(SystemExit) as ending:
            run_command("export", export)
        return ending.value.code, *capfd.readouterr()

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What a run on the digits leaves, without the training."""
    folder = tmp_path_factory.mktemp("run")
    cfg = compose("data=digits")
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(cfg))
    data = read_data(cfg)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = small_cnn(10, 1, data.image_size, channels=[4], hidden=8)
    network.set_statistics(*data.channel_statistics())
    save_bundle(
        folder / "model",
        network,
        architecture={
            "_target_": "medvision.models.small_cnn.small_cnn",
            "channels": [4],
            "hidden": 8,
            "num_classes": 10,
            "in_channels": 1,
            "image_size": list(data.image_size),
        },
        task=data.task,
        decode={
            "size": list(data.image_size),
            "channels": 1,
            "resize": "letterbox",
            "window": None,
            "frames": "reject",
        },
        fingerprint=data.fingerprint(),
    )
    return folder


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_run_becomes_one_file_compared_on_its_test_images(run, command):
    code, out, err = command(f"run={run}")

    assert (code, err) == (0, "")
    assert names(run) == ["config.yaml", "model", "model.onnx"]
    assert "256 images, of the run's test split" in out
    assert f"file   {run / 'model.onnx'}" in out
    row = next(line for line in out.splitlines() if "onnx file, fp32" in line)
    assert row.split()[-2] == "256"
    model = medvision.load(run / "model.onnx")
    images = read_data(compose("data=digits")).split("test").images
    bundle = medvision.load(run)
    np.testing.assert_allclose(model.predict_probs(images), bundle.predict_probs(images), atol=1e-6)
    assert model.facts["tested"]["images"] == "of the run's test split"


def test_quantisation_is_measured_on_validation_images(run, command, tmp_path):
    code, out, err = command(f"run={run}", "quantize=static", f"out={tmp_path / 'deep' / 'small.onnx'}")

    assert (code, err) == (0, "")
    facts = medvision.load(tmp_path / "deep" / "small.onnx").facts["quantisation"]
    validation = read_data(compose("data=digits")).split("val")
    accuracy = medvision.load(run).predict_probs(validation.images).argmax(axis=1) == validation.targets
    assert facts["accuracy_before"]["value"] == pytest.approx(accuracy.mean())
    assert facts["accuracy_before"]["n"] == len(accuracy)
    assert "8 bits keep the label of" in out
    assert f"of {len(accuracy)} other images" in out
    assert "of full precision" in out
    assert names(run) == ["config.yaml", "model"]


def test_the_second_format_and_the_bundle_alone(run, command, tmp_path, write_folder):
    images = write_folder(tmp_path / "images", {"some": 6})
    bundle = shutil.copytree(run / "model", tmp_path / "elsewhere" / "brain")

    code, out, _ = command(f"run={bundle}", "format=torch", f"images={images}")

    assert code == 0
    assert names(bundle.parent) == ["brain", "brain.pt2"]
    assert "6 images, from a folder" in out


def test_data_that_changed_since_training_is_said_to_have(run, command):
    cfg = OmegaConf.load(run / "config.yaml")
    cfg.data.split_seed = 1
    (run / "config.yaml").write_text(OmegaConf.to_yaml(cfg))

    code, out, _ = command(f"run={run}")

    assert (code, "of the run's test split, whose data has changed since training" in out) == (0, True)


@pytest.mark.parametrize("data", ["gone", pytest.param("unknown", marks=pytest.mark.slow)])
def test_without_its_images_it_says_so_and_compares_on_noise(run, command, data):
    if data == "gone":
        cfg = OmegaConf.load(run / "config.yaml")
        cfg.data = compose("data=image_folder", "data.root=/nowhere").data
        (run / "config.yaml").write_text(OmegaConf.to_yaml(cfg))
    else:
        (run / "config.yaml").unlink()

    code, out, err = command(f"run={run}")

    assert code == 0, err
    assert "The run's images are not available" in out
    assert ("/nowhere" if data == "gone" else "config.yaml does not exist") in out
    assert "random noise, no real image was at hand" in out
    assert "noise" in medvision.load(run / "model.onnx").facts["tested"]["images"]
    assert command(f"run={run}", "quantize=static")[0] == 2


def test_a_file_that_predicts_otherwise_ends_with_1_and_nothing(run, command, monkeypatch):
    deployed = exported._deployed

    def wrong(predictor):
        module = deployed(predictor)
        module.temperature = 1.1
        return module

    monkeypatch.setattr(exported, "_deployed", wrong)
    code, out, _ = command(f"run={run}")

    assert code == 1
    assert "Nothing was written" in out
    assert names(run) == ["config.yaml", "model"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([], "run is required"),
        (["run=nowhere"], "no bundle in nowhere"),
        (["run={run}", "format=tflite"], "expected one of onnx, torch"),
        (["run={run}", "quantize=int4"], "expected one of none, static"),
        (["run={run}", "format=torch", "quantize=static"], "leave it out for format=torch"),
        (["run={run}", "images=nowhere"], "images=nowhere: expected two or more images"),
        (["run={run}", "formt=onnx"], "Did you mean format"),
        (["run={run}", "out=/proc/nowhere/model.onnx"], "cannot be written"),
    ],
)
def test_misuse_ends_with_2_its_remedy_and_nothing(run, command, overrides, words):
    code, out, err = command(*(one.format(run=run) for one in overrides))

    assert (code, words in err) == (2, True), err
    assert "Traceback" not in out + err
    assert len(err.splitlines()) <= 3
    assert names(run) == ["config.yaml", "model"]
    assert names(Path()) == []


def test_a_tampered_or_newer_bundle_ends_with_2(run, command):
    manifest = json.loads((run / "model" / "bundle.json").read_text())
    (run / "model" / "bundle.json").write_text(json.dumps(manifest | {"temperature": 2.0}))
    assert command(f"run={run}")[0] == 2
    (run / "model" / "bundle.json").write_text(json.dumps(manifest | {"schema_version": 99}))
    code, _, err = command(f"run={run}")
    assert (code, "Update medvision" in err) == (2, True)
    assert names(run) == ["config.yaml", "model"]


def test_help_shows_how_to_begin(command):
    code, out, _ = command("--help")
    assert (code, "quantize=static" in out, "Experiments" in out) == (0, True, False)


@pytest.mark.slow
def test_help_is_light():
    script = "import sys; sys.argv[1:] = ['--help']\nimport medvision.export as e\ntry: e.main()\n"
    script += "finally: print({'torch', 'onnxruntime', 'lightning'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.skipif(not (SHARED / "brain_mri").is_dir(), reason="needs brain_mri below MEDVISION_DATA")
def test_a_network_trained_on_files_predicts_them_without_torch(command, train, tmp_path):
    folders = [path for path in sorted((SHARED / "brain_mri").glob("*/*")) if path.is_dir()]
    for folder in folders:
        target = tmp_path / "images" / folder.parent.name / folder.name
        target.mkdir(parents=True)
        for file in sorted(folder.iterdir())[:25]:
            shutil.copy(file, target)
    settings = ["data.image_size=32", "model=small_cnn", "trainer.max_epochs=2", "evaluation.n_resamples=20"]
    assert train("data=image_folder", f"data.root={tmp_path / 'images'}", "out=run", *settings).code == 0
    assert command("run=run", "quantize=static")[0] == command("run=run")[0] == 0
    files = sorted((tmp_path / "images").rglob("*.jpg"))[:5]
    assert cv2.imread(str(files[0])) is not None
    script = (
        "import sys, medvision\nfrom medvision.data.decode import decode_all\n"
        "model = medvision.load('run/model.onnx')\n"
        "pixels, _ = decode_all(sys.argv[1:], **model.decode)\n"
        "print(model.predict_probs(pixels).argmax(axis=1).tolist(), 'torch' in sys.modules)"
    )
    arguments = [sys.executable, "-c", script, *map(str, files)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    bundle = medvision.load("run")
    pixels = np.stack([medvision.data.decode.decode(file, **bundle.decode) for file in files])
    assert done.stdout.strip() == f"{bundle.predict_probs(pixels).argmax(axis=1).tolist()} False"
