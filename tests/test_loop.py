"""The loop: a model labels a folder, a human corrects, and the next model learns from the corrections."""

import csv
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from medvision import compose, fit
from medvision.cli.entry import run_command
from medvision.inference.bundle import save_bundle
from medvision.models.small_cnn import small_cnn
from medvision.predict import predict
from medvision.tasks import Task

NAMES = ("cat", "dog, wild", 'the "eel"')
ARCHITECTURE = {
    "_target_": "medvision.models.small_cnn.small_cnn",
    "channels": [4, 8],
    "hidden": 16,
    "num_classes": 3,
    "in_channels": 1,
    "image_size": [16, 16],
}


@pytest.fixture
def bundle(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = small_cnn(3, 1, (16, 16), channels=[4, 8], hidden=16)
    network.set_statistics([100.0], [50.0])
    decode = {"size": [16, 16], "channels": 1, "resize": "letterbox", "window": None, "frames": "reject"}
    model = tmp_path / "model"
    task = Task.classes(NAMES)
    return save_bundle(model, network, architecture=ARCHITECTURE, task=task, decode=decode, fingerprint="f" * 64)


def test_corrected_annotations_train_the_next_model(bundle, tmp_path, monkeypatch, capfd):
    folder = tmp_path / "not labelled yet"
    folder.mkdir()
    rng = np.random.default_rng(0)
    # The truth is the brightest third of an image.
    truths = {}
    for number in range(60):
        image = rng.integers(0, 60, (16, 18), dtype=np.uint8)
        image[:, 6 * (number % 3) : 6 * (number % 3) + 6] += 180
        path = folder / f"scan {number:02}, left.png"
        cv2.imwrite(str(path), image)
        truths[str(path)] = NAMES[number % 3]
    arguments = [f"run={bundle}", f"images={folder}", "out=labelled", "review=0", "select=uncertainty", "k=12"]
    monkeypatch.setattr(sys, "argv", ["medvision.predict", *arguments])
    with pytest.raises(SystemExit) as ending:
        run_command("predict", predict)
    assert ending.value.code == 0, capfd.readouterr().err

    # What the page downloads: the columns and the quoting of review.js. The last four images were excluded.
    annotated = [json.loads(line) for line in Path("labelled/annotations.jsonl").read_text().splitlines()]
    assert {line["image"] for line in annotated} == set(truths)
    kept = annotated[:56]
    with (tmp_path / "annotations_corrected.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["image", "label", "predicted", "review"])
        for line in kept:
            truth = truths[line["image"]]
            verdict = "confirmed" if line["label"] == truth else "corrected"
            writer.writerow([line["image"], truth, line["label"], verdict])
    corrected = sum(line["label"] != truths[line["image"]] for line in kept)
    assert corrected  # an untrained network is wrong somewhere

    settings = [
        "data.image_size=16",
        "data.channels=1",
        "data.batch_size=8",
        "data.val_fraction=0.2",
        "optimizer.lr=0.01",
    ]
    quiet = ["trainer.max_epochs=8", "trainer.accelerator=cpu", "logger=none", "evaluation.n_resamples=20"]
    table = f"data.root={tmp_path / 'annotations_corrected.csv'}"
    run = fit(compose("data=manifest", table, "augmentation=none", *settings, *quiet, "out=trained"))

    assert run.predictor().class_names == NAMES
    splits = pd.read_csv("trained/splits.csv", dtype=str)
    assert dict(zip(splits["id"], splits["label"], strict=True)) == {
        line["image"]: truths[line["image"]] for line in kept
    }
    excluded = [line["image"] for line in annotated[56:]]
    found = run.predictor().predict(excluded)
    assert [one.label for one in found] == [truths[image] for image in excluded]
    # Whether a label was corrected is a subgroup of the report.
    assert set(run.predictions("test").meta["review"]) <= {"confirmed", "corrected"}


def test_what_to_label_next_is_what_the_model_is_least_sure_of(bundle, tmp_path, monkeypatch, capfd):
    """Chosen are rows of annotations.csv, all different, of which the most uncertain one comes first."""
    rng = np.random.default_rng(1)
    for number in range(50):
        cv2.imwrite(str(tmp_path / f"{number:02}.png"), rng.integers(0, 256, (16, 16), dtype=np.uint8))
        cv2.imwrite(str(tmp_path / f"copy_{number:02}.png"), cv2.imread(str(tmp_path / f"{number:02}.png")))
    arguments = [f"run={bundle}", f"images={tmp_path}/*.png", "out=labelled", "review=0", "select=uncertainty", "k=10"]
    monkeypatch.setattr(sys, "argv", ["medvision.predict", *arguments])
    with pytest.raises(SystemExit) as ending:
        run_command("predict", predict)
    assert ending.value.code == 0, capfd.readouterr().err
    chosen = pd.read_csv("labelled/to_label.csv")
    everything = pd.read_csv("labelled/annotations.csv")
    assert chosen["image"].is_unique
    assert set(chosen["image"]) <= set(everything["image"])
    assert everything.set_index("image")["confidence"][chosen["image"][0]] == everything["confidence"].min()
    pictures = [Path(image).stem.removeprefix("copy_") for image in chosen["image"]]
    assert len(set(pictures)) == 10  # never an image and its copy
