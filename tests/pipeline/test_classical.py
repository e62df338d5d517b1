"""Classical models by the train command: the same run directory as a network's, but for epochs."""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medvision import load
from medvision.config.compose import compose
from medvision.errors import ConfigError
from medvision.metrics.predictions import Predictions
from medvision.runs.directory import RunDirectory

QUICK = ("evaluation.n_resamples=20", "data.max_train_samples=200", "data.image_size=8")
LEAST = {
    "svm": 0.9,
    "linear_svm": 0.85,
    "decision_tree": 0.5,
    "random_forest": 0.8,
    "gradient_boosting": 0.5,
    "knn": 0.9,
    "majority": 0.08,
}
FEWER = {"gradient_boosting": ("model.estimator.max_iter=3",), "random_forest": ("model.estimator.n_estimators=20",)}


def facts(directory):
    return json.loads((Path(directory) / "run.json").read_text())


@pytest.mark.parametrize("name", LEAST)
def test_each_model_is_trained_scored_and_bundled_by_the_command(name, train, tmp_path):
    ending = train(f"model={name}", *FEWER.get(name, ()), *QUICK, f"out={tmp_path / 'run'}")

    assert ending.code == 0, ending.err
    assert "to 200 images" in ending.out
    run = tmp_path / "run"
    assert facts(run)["status"] == "finished"
    assert facts(run)["data"]["images"]["train"] == 200
    assert facts(run)["notes"] == ["data.max_train_samples=200: trained on 200 images."]
    assert not (run / "checkpoints").exists()
    assert not (run / "metrics.csv").exists()
    predictions = Predictions.load(run / "predictions" / "test.npz")
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test"]["overall"]["accuracy"]["value"] == pytest.approx(
        (predictions.preds == predictions.targets).mean()
    )
    assert metrics["test"]["overall"]["accuracy"]["value"] > LEAST[name]
    splits = pd.read_csv(run / "splits.csv", dtype=str)
    assert list(predictions.ids) == list(splits.loc[splits["split"] == "test", "id"])
    assert (splits["split"] == "unused").sum() == facts(run)["data"]["unused"]


def test_the_same_test_cases_as_a_network_whatever_the_limit(train, tmp_path):
    test = []
    for number, options in enumerate((["experiment=digits_cnn", "trainer.max_epochs=1"], ["model=majority", *QUICK])):
        assert train(*options, f"out={tmp_path / str(number)}").code == 0
        test.append(Predictions.load(tmp_path / str(number) / "predictions" / "test.npz"))
    np.testing.assert_array_equal(test[0].ids, test[1].ids)
    np.testing.assert_array_equal(test[0].targets, test[1].targets)


def test_a_networks_embedding_becomes_a_machines_features(train, tmp_path):
    network = tmp_path / "network"
    assert train("experiment=digits_cnn", "trainer.max_epochs=2", f"out={network}").code == 0
    options = ("experiment=digits_cnn", "model=linear_svm", "model/features=embedding")
    ending = train(*options, f"init_from={network}", f"out={tmp_path / 'machine'}")
    assert ending.code == 0, ending.err
    assert "64 features each" in ending.out
    assert (
        json.loads((tmp_path / "machine" / "metrics.json").read_text())["test"]["overall"]["accuracy"]["value"] > 0.85
    )
    assert load(tmp_path / "machine").class_names == load(network).class_names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("model/features=embedding",), "init_from=RUN/model"),
        (("model/features=hog", "model.features.cell=5"), "needs images of 10x10 pixels"),
        (("model/features=embedding", "model.features.name=resnet19"), "no torchvision model 'resnet19'"),
        (("model.estimator.C=-1",), "model.estimator.C=-1"),
        (("model.estimator.gamma=wide",), "model.estimator.gamma='wide'"),
        (("model.C=-1",), "model.estimator.C"),
        (("model.colour=red",), "model.colour is not a key"),
        (("model/features=haar",), "no such model/features"),
        (("data.max_train_samples=0",), "data.max_train_samples=0: expected a number >= 1"),
        (("data.max_train_samples=5",), "leaves no training image of"),
        (("model.calibration_folds=1",), "model.calibration_folds=1: expected a number >= 2"),
        (("data.max_train_samples=20", "model.calibration_folds=5"), "needs as many images of each class"),
    ],
)
def test_what_cannot_work_ends_in_a_few_lines(train, tmp_path, options, message):
    ending = train("model=svm", "data.image_size=8", *options, f"out={tmp_path / 'run'}")
    assert ending.code == 2
    assert message in ending.err
    assert len(ending.err.strip().splitlines()) <= 3


def test_a_run_that_was_stopped_is_fitted_anew_and_a_finished_one_only_reported(train, tmp_path):
    run = tmp_path / "run"
    assert train("model=random_forest", *FEWER["random_forest"], *QUICK, f"out={run}").code == 0
    before = (run / "predictions" / "test.npz").read_bytes()
    assert "already finished" in train(f"resume={run}").out
    RunDirectory(run).record(status="interrupted")
    ending = train(f"resume={run}")
    assert ending.code == 0, ending.err
    assert "to 200 images" in ending.out
    assert (run / "predictions" / "test.npz").read_bytes() == before
    RunDirectory(run).record(status="failed")
    assert train("model=random_forest", *FEWER["random_forest"], *QUICK, f"out={run}").code == 0


@pytest.mark.slow
def test_a_signal_stops_the_fit(start, tmp_path):
    process = start("model=gradient_boosting", "model.estimator.max_iter=100000", f"out={tmp_path / 'run'}")
    while "fitting" not in process.stdout.readline():
        assert process.poll() is None
    time.sleep(0.5)
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(20) == 130
    assert facts(tmp_path / "run")["status"] == "interrupted"


def test_an_experiment_for_a_network_takes_a_classical_model_too():
    assert compose("experiment=digits_cnn", "model=svm").model.features._target_.endswith("Pixels")


def test_a_manifest_with_groups_is_calibrated_in_whole_groups(train, tmp_path, write_folder):
    root = write_folder(tmp_path, {"a": 60, "b": 60})
    names = [f"{label}/{index:03}.png" for label in "ab" for index in range(60)]
    frame = pd.DataFrame({"image": names, "label": [name[0] for name in names]})
    frame.assign(group=[f"p{index // 3}" for index in range(120)]).to_csv(root / "cases.csv", index=False)
    options = ("model=svm", "data.image_size=16", "data.max_train_samples=60", "evaluation.n_resamples=20", "out=run")
    ending = train("data=manifest", f"data.csv={root / 'cases.csv'}", *options)
    assert ending.code == 0, ending.err
    splits = pd.read_csv("run/splits.csv")
    assert (splits.groupby("group")["split"].nunique() == 1).all()
    assert 50 <= (splits["split"] == "train").sum() <= 60


def test_features_are_for_a_model_that_has_some():
    with pytest.raises(ConfigError, match="model/features cannot be chosen: the chosen model has no features"):
        compose("model/features=hog")
