import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from medvision.cli.entry import run_command
from medvision.inference.bundle import save_bundle
from medvision.inference.decision import Decision
from medvision.inference.ood import fit_statistics
from medvision.models.small_cnn import small_cnn
from medvision.predict import predict
from medvision.tasks import Task

NAMES = ("cat", "dog", "eel")
ARCHITECTURE = {
    "_target_": "medvision.models.small_cnn.small_cnn",
    "channels": [4, 8],
    "hidden": 16,
    "num_classes": 3,
    "in_channels": 1,
    "image_size": [12, 16],
}
DECODE = {"size": [12, 16], "channels": 1, "resize": "letterbox", "window": None, "frames": "reject"}


@pytest.fixture
def bundle(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = small_cnn(3, 1, (12, 16), channels=[4, 8], hidden=16)
    network.set_statistics([100.0], [50.0])
    known = np.random.default_rng(0).integers(0, 256, (200, 1, 12, 16), dtype=np.uint8)
    return save_bundle(
        tmp_path / "model",
        network,
        architecture=ARCHITECTURE,
        task=Task.classes(NAMES),
        decode=DECODE,
        fingerprint="f" * 64,
        decision=Decision(conformal={"coverage": 0.9, "quantile": 0.7}, ood=fit_statistics(known, None)),
    )


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(1)
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for number in range(40):
        cv2.imwrite(str(tmp_path / "in" / f"{number:03}.png"), rng.integers(0, 256, (12, 16), dtype=np.uint8))
    cv2.imwrite(str(tmp_path / "in" / "deep" / "black.png"), np.zeros((12, 16), np.uint8))
    (tmp_path / "in" / "deep" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    return tmp_path / "in"


@pytest.fixture
def command(monkeypatch, capfd):
    def run(*overrides):
        monkeypatch.setattr(sys, "argv", ["medvision.predict", *map(str, overrides)])
        with pytest.raises(SystemExit) as ending:
            run_command("predict", predict)
        out, err = capfd.readouterr()
        return ending.value.code, out, err

    return run


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "annotations.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_is_labelled(command, bundle, images):
    code, out, err = command(f"run={bundle}", f"images={images}", "out=found")
    assert (code, err) == (0, "")
    found = rows(Path("found"))
    assert len(found) == 42
    by_name = {Path(row["image"]).name: row for row in found}
    assert by_name["broken.jpg"]["reason"].startswith("unreadable: ")
    assert by_name["black.png"]["reason"].startswith("out of range: ")
    assert {row["status"] for row in found} <= {"auto", "review", "rejected"}
    for row in found:
        probs = [float(row[f"p_{name}"] or "nan") for name in NAMES]
        assert np.isnan(probs).all() or sum(probs) == pytest.approx(1, abs=1e-5)
        assert np.isnan(probs).all() or row["label"] == NAMES[int(np.argmax(probs))]
    assert "42 images" in out
    assert str(Path("found/review.html").absolute()) in out
    page = Path("found/review.html").read_text(encoding="utf-8")
    assert "no heat maps" in page.lower() or '"g":' in page


def test_the_same_command_finds_its_job_again(command, bundle, images):
    arguments = [f"run={bundle}", f"images={images}", "review=0"]
    assert command(*arguments)[0] == 0
    (folder,) = Path("annotations").iterdir()
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert command(*arguments)[0] == 0
    assert [one.name for one in Path("annotations").iterdir()] == [folder.name]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first
    assert "review.html" not in first
    assert command(*arguments, "min_confidence=0.1")[0] == 0
    assert len(list(Path("annotations").iterdir())) == 2


def test_what_to_label_next(command, bundle, images):
    assert command(f"run={bundle}", f"images={images}", "out=found", "select=uncertainty", "k=7")[0] == 0
    with Path("found/to_label.csv").open(newline="") as file:
        chosen = list(csv.DictReader(file))
    assert len(chosen) == 7
    least = min((row for row in rows(Path("found")) if row["status"] != "rejected"), key=lambda row: row["confidence"])
    assert chosen[0]["image"] == least["image"]
    # Another k is chosen from the same labels.
    assert command(f"run={bundle}", f"images={images}", "out=found", "select=uncertainty", "k=3")[0] == 0
    assert len(Path("found/to_label.csv").read_text().splitlines()) == 4


def test_a_csv_with_labels_is_scored(command, bundle, images):
    lines = [f"in/{number:03}.png,{NAMES[number % 3]}" for number in range(30)]
    table = images.parent / "cases.csv"
    table.write_text("image,label\n" + "\n".join(lines))
    code, out, _ = command(f"run={bundle}", f"images={table}", "out=found", "evaluation.n_resamples=20")
    assert code == 0
    accuracy = np.mean([row["label"] == row["truth"] for row in rows(Path("found"))])
    facts = json.loads(Path("found/metrics.json").read_text())
    assert facts["external"]["overall"]["accuracy"]["value"] == pytest.approx(accuracy)
    assert "accuracy" in out


def test_mirrored_averages_differ(command, bundle, images):
    assert command(f"run={bundle}", f"images={images}", "out=plain", "review=0")[0] == 0
    assert command(f"run={bundle}", f"images={images}", "out=mirrored", "review=0", "tta=mirror")[0] == 0
    assert rows(Path("plain"))[0]["p_cat"] != rows(Path("mirrored"))[0]["p_cat"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["images={images}"], "Name one model"),
        (["run={bundle}", "model=a.onnx", "images={images}"], "Name one model"),
        (["run={bundle}"], "images is required"),
        (["run={images}", "images={images}"], "no model in"),
        (["run={bundle}", "images=nowhere"], "there is no such file or folder"),
        (["run={bundle}", "images={images}", "select=best"], "expected one of none, uncertainty"),
        (["run={bundle}", "images={images}", "k=0"], "expected a number >= 1"),
        (["run={bundle}", "images={images}", "min_confidence=1.5"], "expected a number >= 0 and <= 1"),
        (["run={bundle}", "images={images}", "device=toaster"], "is not available here"),
        (["run={bundle}", "images={images}", "out=/proc/nothing"], "cannot be written"),
    ],
)
def test_mistakes_end_with_code_2_and_a_remedy(command, bundle, images, overrides, message):
    code, _, err = command(*(one.format(bundle=bundle, images=images) for one in overrides))
    assert code == 2
    assert message in err
    assert "Traceback" not in err


def test_another_class_list_is_refused(command, bundle, images):
    table = images.parent / "cases.csv"
    table.write_text("image,label\nin/000.png,cow\n")
    code, _, err = command(f"run={bundle}", f"images={table}")
    assert (code, "Only in the file: cow" in err) == (2, True)
    assert not Path("annotations").exists()


def test_the_folder_of_another_job_is_refused(command, bundle, images):
    assert command(f"run={bundle}", f"images={images}", "out=found", "review=0")[0] == 0
    cv2.imwrite(str(images / "new.png"), np.zeros((4, 4), np.uint8))
    code, _, err = command(f"run={bundle}", f"images={images}", "out=found", "review=0")
    assert (code, "of another job: images differ(s)" in err) == (2, True)


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_killed_job_goes_on_to_the_same_bytes(command, bundle, images, signum, code):
    table = images.parent / "many.csv"
    table.write_text("image\n" + "".join(f"in/{number % 40:03}.png\n" for number in range(15_000)))
    arguments = [f"run={bundle}", f"images={table}", "review=0"]
    process = subprocess.Popen([sys.executable, "-m", "medvision.predict", *arguments, "out=stopped"], env=os.environ)
    partial = Path("stopped/annotations.partial.jsonl")
    while not partial.exists() or partial.stat().st_size == 0:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signum)
    assert process.wait(timeout=60) == code
    assert partial.stat().st_size > 0
    assert command(*arguments, "out=stopped")[0] == 0
    assert command(*arguments, "out=whole")[0] == 0
    for name in ("annotations.jsonl", "annotations.csv"):
        assert Path("stopped", name).read_bytes() == Path("whole", name).read_bytes()
