import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.numpy import load_file
from sklearn.metrics import accuracy_score

from medvision.metrics.estimates import Key
from medvision.metrics.predictions import Predictions
from medvision.runs.directory import RunDirectory

QUICK = (
    "experiment=digits_cnn",
    "trainer.max_epochs=1",
    "trainer.limit_train_batches=2",
    "evaluation.n_resamples=20",
    "evaluation.robustness=false",
    "evaluation.pictures=2",
)
FILES = {
    "config.yaml",
    "run.json",
    "metrics.csv",
    "metrics.json",
    "report.html",
    "splits.csv",
    "quarantine.csv",
    "checkpoints",
    "model",
    "predictions",
    "tensorboard",
    "train.log",
    "run.lock",
}


def facts(directory):
    return json.loads((directory / "run.json").read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One short finished run, for the tests that only look at it."""
    from medvision import compose, fit

    directory = tmp_path_factory.mktemp("run") / "out"
    return fit(compose(*QUICK, f"out={directory}"))


def test_the_run_directory_holds_what_it_should(finished):
    assert {path.name for path in finished.path.iterdir()} == FILES
    assert {path.name for path in (finished.path / "checkpoints").iterdir()} == {
        f"{name}.ckpt{suffix}" for name in ("best", "last") for suffix in ("", ".sha256")
    }
    record = facts(finished.path)
    assert record["status"] == "finished"
    assert record["data"]["images"] == {"train": 1151, "val": 147, "calibration": 140, "test": 359}
    assert record["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert OmegaConf.load(finished.path / "config.yaml").trainer.precision != "auto"


def test_predictions_are_those_of_the_bundle_and_metrics_those_of_the_predictions(finished):
    predictions = finished.predictions("test")
    splits = pd.read_csv(finished.path / "splits.csv", dtype=str)
    test = splits[splits["split"] == "test"]
    assert list(predictions.ids) == list(test["id"])
    assert [predictions.class_names[k] for k in predictions.targets] == list(test["label"])
    expected = accuracy_score(predictions.targets, predictions.logits.argmax(1))
    written = json.loads((finished.path / "metrics.json").read_text())
    accuracy = written["test"]["overall"]["accuracy"]
    assert accuracy["value"] == pytest.approx(expected)
    assert accuracy["low"] <= expected <= accuracy["high"]
    assert accuracy["n"] == 359
    assert finished.metrics[Key("accuracy", split="test")].value == pytest.approx(expected)


def test_the_bundle_holds_the_weights_of_the_best_epoch(finished):
    best = torch.load(finished.path / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    for name, value in load_file(finished.path / "model" / "weights.safetensors").items():
        np.testing.assert_array_equal(value, best[f"network.{name}"].numpy())


def test_a_second_run_is_bit_identical_and_the_callers_randomness_untouched(finished, tmp_path):
    from medvision import compose, fit

    torch.manual_seed(5)
    before = torch.get_rng_state()
    again = fit(compose(*QUICK, f"out={tmp_path / 'again'}"))
    for name in ("metrics.csv", "metrics.json", "predictions/test.npz", "splits.csv", "model/weights.safetensors"):
        assert (again.path / name).read_bytes() == (finished.path / name).read_bytes(), name
    assert torch.equal(torch.get_rng_state(), before)


def test_another_seed_changes_the_weights_but_not_the_splits(finished, tmp_path):
    from medvision import compose, fit

    other = fit(compose(*QUICK, "seed=1", f"out={tmp_path / 'other'}"))
    assert (other.path / "splits.csv").read_bytes() == (finished.path / "splits.csv").read_bytes()
    assert (other.path / "metrics.csv").read_bytes() != (finished.path / "metrics.csv").read_bytes()


def test_the_summary_names_the_numbers_and_the_paths(train, tmp_path):
    ending = train(*QUICK, f"out={tmp_path / 'run'}")
    assert ending.code == 0
    assert "accuracy" in ending.out
    assert "95% interval" in ending.out
    assert str(tmp_path / "run" / "model") in ending.out
    assert "Research use only" in ending.out
    assert "epoch 1/1" in (tmp_path / "run" / "train.log").read_text()


def test_init_from_takes_the_weights_of_another_run(finished, train, tmp_path):
    ending = train(*QUICK, f"out={tmp_path / 'tuned'}", f"init_from={finished.path / 'model'}", "optimizer.lr=1e-12")
    assert ending.code == 0
    before = load_file(finished.path / "model" / "weights.safetensors")
    after = load_file(tmp_path / "tuned" / "model" / "weights.safetensors")
    np.testing.assert_allclose(after["head.weight"], before["head.weight"], atol=1e-6)


def test_a_frozen_backbone_stays_as_it_was(finished, train, tmp_path):
    options = ("model.freeze_backbone=true", f"init_from={finished.path}", "optimizer.lr=0.1")
    assert train(*QUICK, f"out={tmp_path / 'frozen'}", *options).code == 0
    before = load_file(finished.path / "model" / "weights.safetensors")
    after = load_file(tmp_path / "frozen" / "model" / "weights.safetensors")
    assert not np.array_equal(after["head.weight"], before["head.weight"])
    for name in before:
        if name.startswith("backbone."):
            np.testing.assert_array_equal(after[name], before[name])


def test_init_from_another_architecture_is_refused(finished, train, tmp_path):
    ending = train(*QUICK, "model=small_resnet", f"out={tmp_path / 'run'}", f"init_from={finished.path}")
    assert ending.code == 2
    assert "another architecture" in ending.err
    assert facts(tmp_path / "run")["status"] == "failed"


def test_out_that_holds_a_run_is_refused_and_left_alone(finished, train):
    before = (finished.path / "run.json").read_bytes()
    ending = train(*QUICK, f"out={finished.path}")
    assert ending.code == 2
    assert "already holds a run (status: finished)" in ending.err
    assert (finished.path / "run.json").read_bytes() == before


def test_a_run_that_failed_before_its_first_checkpoint_can_be_repeated_in_place(train, tmp_path, write_folder):
    quick = ("data=image_folder", f"data.root={tmp_path / 'images'}", "data.image_size=16", f"out={tmp_path / 'run'}")
    assert train(*quick).code == 2
    write_folder(tmp_path / "images", {"a": 60, "b": 60})
    assert train(*quick, "trainer.max_epochs=1").code == 0


def test_two_runs_in_one_directory_are_refused(train, tmp_path):
    (tmp_path / "run").mkdir()
    with RunDirectory(tmp_path / "run").locked():
        ending = train(*QUICK, f"out={tmp_path / 'run'}")
    assert ending.code == 2
    assert f"is using {tmp_path / 'run'}" in ending.err


def test_an_unwritable_place_is_noticed_before_anything_is_read(train, tmp_path):
    (tmp_path / "file").write_text("")
    ending = train(*QUICK, f"out={tmp_path / 'file' / 'run'}")
    assert ending.code == 2
    assert "cannot be written" in ending.err
    assert "out=DIR" in ending.err


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_without_permission_is_noticed(train, tmp_path):
    tmp_path.chmod(0o500)
    assert train(*QUICK, f"out={tmp_path / 'run'}").code == 2


def test_a_clash_of_names_gets_a_suffix(train, tmp_path, monkeypatch):
    class Frozen:
        @staticmethod
        def now():
            return __import__("datetime").datetime(2026, 1, 31)

    monkeypatch.setattr("medvision.runs.directory.datetime", Frozen)
    for _ in range(2):
        assert train(*QUICK, f"output_root={tmp_path}").code == 0
    assert sorted(p.name for p in (tmp_path / "digits_cnn").iterdir()) == [
        "2026-01-31_00-00-00",
        "2026-01-31_00-00-00_2",
    ]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_a_gpu_that_is_not_there(train, tmp_path):
    ending = train(*QUICK, "trainer.accelerator=gpu", f"out={tmp_path / 'run'}")
    assert ending.code == 2
    assert "no GPU is available" in ending.err


def test_batch_larger_than_the_data(train, tmp_path):
    ending = train(*QUICK, "data.batch_size=5000", f"out={tmp_path / 'run'}")
    assert ending.code == 2
    assert "1151" in ending.err
    assert facts(tmp_path / "run")["status"] == "failed"
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_finite_checkpoint(train, tmp_path):
    options = ("optimizer=sgd", "optimizer.lr=1e20", "trainer.max_epochs=3", "checkpoint.every_n_steps=1")
    ending = train("experiment=digits_cnn", *options, "scheduler=cosine", f"out={tmp_path / 'run'}")
    assert ending.code == 2
    assert "not finite" in ending.err
    assert "step" in ending.err
    assert facts(tmp_path / "run")["status"] == "failed"
    checkpoints = list((tmp_path / "run" / "checkpoints").glob("*.ckpt"))
    assert checkpoints
    for path in checkpoints:
        state = torch.load(path, weights_only=True)["state_dict"]
        assert all(torch.isfinite(value).all() for value in state.values())


def test_a_disk_without_room_is_noticed_before_the_first_epoch(train, tmp_path, monkeypatch):
    free = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("medvision.training.checkpoints.shutil.disk_usage", lambda _: free)
    ending = train(*QUICK, f"out={tmp_path / 'run'}")
    assert ending.code == 2
    assert "Make room" in ending.err
    assert not (tmp_path / "run" / "metrics.csv").exists()


def test_a_device_without_memory_gets_advice(train, tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr("medvision.training.classifier.Classifier.training_step", full)
    ending = train(*QUICK, f"out={tmp_path / 'run'}")
    assert ending.code == 2
    assert "data.batch_size" in ending.err


def test_truncated_images_are_quarantined_and_the_run_goes_on(train, tmp_path, write_folder):
    root = write_folder(tmp_path / "images", {"train/a": 40, "train/b": 40, "test/a": 10, "test/b": 10})
    broken = root / "train" / "a" / "000.png"
    broken.write_bytes(broken.read_bytes()[:100])
    ending = train("data=image_folder", f"data.root={root}", "data.image_size=16", "trainer.max_epochs=1", "out=run")
    assert ending.code == 0, ending.err
    listed = pd.read_csv("run/quarantine.csv")
    assert list(listed["path"]) == ["train/a/000.png"]
    splits = pd.read_csv("run/splits.csv").set_index("id")["split"]
    assert len(splits) == 100
    assert splits["train/a/000.png"] == "quarantined"
    assert "1 of 100 files cannot be used" in ending.out


def leaking_folder(write_folder, root):
    """40 training and 10 test images of each of two classes; two test images are training images too."""
    write_folder(root, {"train/a": 40, "train/b": 40, "test/a": 10, "test/b": 10})
    for name in ("a/001.png", "b/002.png"):
        shutil.copy(root / "train" / name, root / "test" / name)
    return f"data.root={root}"


LEAKING = ("data=image_folder", "data.image_size=16", "trainer.max_epochs=1", "evaluation.n_resamples=20", "out=run")


def test_leaks_are_dropped_from_train_and_said(train, tmp_path, write_folder):
    ending = train(*LEAKING, leaking_folder(write_folder, tmp_path / "images"))
    assert ending.code == 0, ending.err
    assert "LEAK: 2 of 20 test images have the same pixels" in ending.out
    data = facts(Path("run"))["data"]
    assert (data["dropped"], data["images"]["test"], data["test_never_seen"]) == (2, 20, 20)
    assert data["leakage"]["policy"] == "drop"
    assert data["leakage"]["test_images_copied_in_train_or_val"] == 2
    splits = pd.read_csv("run/splits.csv").set_index("id")["split"]
    assert set(splits[splits == "dropped"].index) == {"train/a/001.png", "train/b/002.png"}
    assert "never_seen" not in json.loads(Path("run/metrics.json").read_text())["test"]


def test_with_leaks_kept_the_unseen_images_are_scored_apart(train, tmp_path, write_folder):
    ending = train(*LEAKING, "data.leakage=keep", leaking_folder(write_folder, tmp_path / "images"))
    assert ending.code == 0, ending.err
    assert "test, never seen" in ending.out
    metrics = json.loads(Path("run/metrics.json").read_text())["test"]
    never_seen = metrics["never_seen"]["overall"]["accuracy"]
    assert (metrics["overall"]["accuracy"]["n"], never_seen["n"]) == (20, 18)
    predictions = Predictions.load("run/predictions/test.npz")
    rest = ~np.isin(predictions.ids, ["test/a/001.png", "test/b/002.png"])
    expected = accuracy_score(predictions.targets[rest], predictions.preds[rest])
    assert never_seen["value"] == pytest.approx(expected)


def test_leaks_stop_the_run_when_asked(train, tmp_path, write_folder):
    ending = train(*LEAKING, "data.leakage=error", leaking_folder(write_folder, tmp_path / "images"))
    assert ending.code == 2
    assert "The data leaks" in ending.err


def test_a_manifest_with_subgroups_reaches_the_predictions(train, tmp_path, write_folder):
    root = write_folder(tmp_path, {"a": 60, "b": 60})
    names = [f"{label}/{index:03}.png" for label in "ab" for index in range(60)]
    frame = pd.DataFrame({"image": names, "label": [name[0] for name in names], "sex": ["f", "m"] * 60})
    frame.assign(group=[f"p{index // 3}" for index in range(120)]).to_csv(root / "cases.csv", index=False)
    ending = train("data=manifest", f"data.csv={root / 'cases.csv'}", *LEAKING[1:])
    assert ending.code == 0, ending.err
    predictions = Predictions.load("run/predictions/test.npz")
    known = frame.set_index("image")
    assert predictions.meta["sex"].tolist() == known.loc[predictions.ids, "sex"].tolist()
    splits = pd.read_csv("run/splits.csv")
    assert (splits.groupby("group")["split"].nunique() == 1).all()


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (None, "images does not exist"),
        ({}, "no class folders"),
        ({"a": 30}, "has one class only: a"),
        ({"a": 30, "b": 0}, r"without images: b\."),
        ({"train/a": 30, "train/b": 30, "test/a": 5}, "test has one class only: a"),
    ],
    ids=["missing root", "empty folder", "one class", "a class without images", "test lacks a class"],
)
def test_folders_that_cannot_be_used(train, tmp_path, write_folder, counts, message):
    root = tmp_path / "images"
    if counts is not None:
        root.mkdir()
        write_folder(root, counts)
    ending = train("data=image_folder", f"data.root={root}", "data.image_size=16", "out=run")
    assert ending.code == 2
    assert re.search(message, ending.err)
    assert len(ending.err.strip().splitlines()) <= 3
    assert "Traceback" not in ending.err
    assert facts(Path("run"))["status"] == "failed"


def test_resume_of_a_finished_run_only_reports_it(finished, train):
    before = (finished.path / "run.json").read_bytes()
    ending = train(f"resume={finished.path}")
    assert ending.code == 0
    assert "already finished" in ending.out
    assert (finished.path / "run.json").read_bytes() == before


def test_resume_shows_what_differs(finished, train):
    ending = train(f"resume={finished.path}", "optimizer.lr=0.5", "model=small_resnet", "trainer.accelerator=cpu")
    assert ending.code == 2
    assert "optimizer.lr: 0.005 when the run began, 0.5 now" in ending.err
    assert "model: small_cnn when the run began, small_resnet now" in ending.err
    assert "accelerator" not in ending.err


def test_resume_from_what_is_no_run(train, tmp_path):
    ending = train(f"resume={tmp_path}")
    assert ending.code == 2
    assert "holds no run" in ending.err
    assert train("resume=auto", "experiment=digits_cnn").code == 2


def test_resume_with_a_damaged_checkpoint(finished, train, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(finished.path, copy)
    RunDirectory(copy).record(status="interrupted")
    checkpoint = copy / "checkpoints" / "last.ckpt"
    content = bytearray(checkpoint.read_bytes())
    content[1000] ^= 1
    checkpoint.unlink()
    checkpoint.write_bytes(content)
    ending = train(f"resume={copy}")
    assert ending.code == 2
    assert "last.ckpt is damaged" in ending.err


def test_resume_with_other_data(finished, train, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(finished.path, copy)
    record = facts(copy)
    RunDirectory(copy).record(status="interrupted", data=record["data"] | {"fingerprint": "0" * 64})
    ending = train(f"resume={copy}")
    assert ending.code == 2
    assert "fingerprint" in ending.err


def test_predictions_load_without_pickle(finished):
    assert isinstance(finished.predictions("val"), Predictions)
    with np.load(finished.path / "predictions" / "val.npz", allow_pickle=False) as arrays:
        assert all(arrays[name].dtype != object for name in arrays.files)
