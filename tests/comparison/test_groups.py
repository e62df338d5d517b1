import json

import numpy as np
import pytest
import yaml

from medvision.comparison.compare import compare
from medvision.comparison.groups import candidates, find, notes
from medvision.errors import DataError, RunError
from medvision.metrics.predictions import Predictions


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a run directory as training leaves it: `write("a", model="svm", seed=1)`."""
    monkeypatch.chdir(tmp_path)

    def make(path, *, model="small_cnn", lr=0.1, seed=0, fold=None, status="finished", rows=None, facts=None, typed=()):
        folder = tmp_path / path
        (folder / "predictions").mkdir(parents=True)
        (folder / "model").mkdir()
        (folder / "model" / "weights").write_bytes(b"0" * 1000)
        config = {
            "seed": seed,
            "out": str(path),
            "data": {"n_folds": None if fold is None else 3, "fold": fold},
            "model": {"_target_": model},
            "optimizer": {"lr": lr},
            "trainer": {"devices": 1},
            "choices": {"model": model, "experiment": "digits_cnn", "data": "digits"},
            "overrides": [f"seed={seed}", *typed],
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        record = {"status": status, "reason": None, "seconds": {"fit": 10.0 + seed}} | (facts or {})
        (folder / "run.json").write_text(json.dumps(record))
        rows = np.arange(60) if rows is None else rows
        rng = np.random.default_rng([len(model), seed])
        targets = np.arange(60) % 3
        logits = rng.normal(size=(60, 3))
        logits[np.arange(60), targets] += 1.5
        Predictions.from_logits(ids=rows, targets=targets[rows], logits=logits[rows], class_names=["a", "b", "c"]).save(
            folder / "predictions" / "test.npz"
        )
        return str(path)

    return make


def test_runs_are_read_with_what_they_cost(write):
    write("a", facts={"peak_memory_bytes": 5, "parameters": 7})
    write("b", model="svm")
    runs, left_out = find(["a", "b"])
    assert left_out == []
    assert runs[0].cost() == {
        "seconds_fit": 10.0,
        "seconds_predict_per_image": None,
        "size_bytes": 1000,
        "peak_memory_bytes": 5,
        "parameters": 7,
    }
    assert [one.name for one in candidates(runs)] == ["small_cnn", "svm"]


def test_a_folder_gives_all_finished_runs_below_it(write):
    write("all/x/1")
    write("all/y", model="svm")
    write("all/z", status="failed", facts={"reason": "out of memory"})
    runs, left_out = find("all")
    assert [str(run.saved.path) for run in runs] == ["all/x/1", "all/y"]
    (note,) = left_out
    assert "all/z" in note
    assert "out of memory" in note


@pytest.mark.parametrize("status", ["failed", "interrupted", "running"])
def test_a_run_that_is_named_must_be_finished(write, status):
    write("a")
    write("b", status=status)
    with pytest.raises(RunError, match=rf"b is not finished \(status: {status}\).\n.*resume=.*b"):
        find(["a", "b"])


def test_what_is_no_run_is_refused(write, tmp_path):
    write("a")
    (tmp_path / "empty").mkdir()
    write("bad/one", status="failed")
    for places, said in (
        (["a", "empty"], "No finished run below empty"),
        (["a", "bad"], r"No finished run below bad \(1 unfinished\)"),
        (["a", "nowhere"], "nowhere is not a folder"),
        (["a", "./a"], "named twice"),
        (["a"], r"two runs or more; found one \(.*a\)"),
        ([], "two runs or more"),
    ):
        with pytest.raises(RunError, match=said) as refusal:
            find(places)
        assert 2 <= len(str(refusal.value).splitlines()) <= 3


def test_damaged_runs_are_refused(write, tmp_path):
    for name in ("a", "b", "c", "d"):
        write(name)
    (tmp_path / "b/run.json").write_text("{")
    (tmp_path / "c/predictions/test.npz").unlink()
    (tmp_path / "d/run.json").write_text("[]")
    for name in ("b", "c", "d"):
        with pytest.raises(RunError, match=name):
            find(["a", name])


def test_seeds_are_one_model(write):
    for model in ("small_cnn", "svm"):
        for seed in (2, 0, 1):
            write(f"{model}/{seed}", model=model, seed=seed)
    one, two = candidates(find(["small_cnn", "svm"])[0])
    assert [replicate.seed for replicate in one.replicates] == [0, 1, 2]
    assert one.cost["seconds_fit"] == 11
    assert len(two.runs) == 3
    assert len(compare([one, two], n_resamples=20).rows) == 4


def test_folds_are_joined(write):
    for seed in (0, 1):
        for fold in range(3):
            write(f"{seed}/{fold}", seed=seed, fold=fold, rows=np.arange(fold, 60, 3))
    runs, _ = find(".")
    (one,) = candidates(runs)
    assert [len(replicate.folds) for replicate in one.replicates] == [3, 3]
    assert sorted(one.replicates[0].predictions.ids.tolist()) == sorted(map(str, range(60)))
    assert notes(runs) == []
    (row, _) = compare([one], n_resamples=20).rows
    assert (row.seeds, row.folds) == (2, 3)


def test_a_missing_fold_is_said(write):
    for fold in (0, 2):
        write(str(fold), fold=fold, rows=np.arange(fold, 60, 3))
    runs, _ = find(".")
    assert notes(runs) == ["Only 2 of 3 folds are finished: the other cases were not tested."]


def test_folds_that_overlap_are_refused(write):
    for fold in (0, 1):
        write(str(fold), fold=fold, rows=np.arange(fold, 20 + fold))
    with pytest.raises(DataError, match="19 case"):
        candidates(find(".")[0])


def test_the_same_configuration_twice_is_two_models_named_by_their_paths(write):
    write("a")
    write("b")
    assert [one.name for one in candidates(find(".")[0])] == ["a", "b"]


def test_a_seed_that_is_there_twice_is_refused(write):
    write("a")
    write("b")
    write("c", seed=1)
    with pytest.raises(RunError, match="a and b are both seed 0 of one configuration"):
        candidates(find(".")[0])


def test_one_model_with_two_settings_is_named_by_what_was_typed(write):
    write("a", lr=0.1, typed=["optimizer.lr=0.1"])
    write("b", lr=0.2, typed=["optimizer.lr=0.2"])
    write("c", lr=0.3)
    names = [one.name for one in candidates(find(".")[0])]
    assert names == ["small_cnn, optimizer.lr=0.1", "small_cnn, optimizer.lr=0.2", "small_cnn"]


def test_what_runs_say_of_themselves_is_repeated(write):
    write("a", facts={"processor": "x", "data": {"images": {"test": 60}, "test_never_seen": 50}})
    write("b", model="svm", facts={"processor": "y"})
    said = notes(find(".")[0])
    assert any("different machines" in one for one in said)
    assert any("a: 10 of 60 test images" in one for one in said)
