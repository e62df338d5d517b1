import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medvision.cli.entry import run_command
from medvision.compare import check, compare
from medvision.metrics.predictions import Predictions

SMALL = ("trainer.max_epochs=1", "logger=none", "trainer.limit_train_batches=2", "evaluation.n_resamples=50")


@pytest.fixture
def run(monkeypatch, capfd):
    """Run the command in this process: exit code and what it said."""

    def start(*overrides):
        monkeypatch.setattr(sys, "argv", ["medvision.compare", *map(str, overrides)])
        monkeypatch.setenv("COLUMNS", "120")
        with pytest.raises(SystemExit) as ending:
            run_command("compare", compare)
        said = capfd.readouterr()
        return ending.value.code, said.out + said.err

    return start


def write(path, model, seed=0, strength=1.5, ids=80, classes=("cat", "dog"), status="finished"):
    folder = Path(path)
    (folder / "predictions").mkdir(parents=True)
    choices = f"choices: {{model: {model}, experiment: null, data: digits}}"
    (folder / "config.yaml").write_text(f"seed: {seed}\nmodel: {{name: {model}}}\noverrides: []\n{choices}\n")
    (folder / "run.json").write_text(json.dumps({"status": status, "reason": "disk full", "seconds": {"fit": 3.0}}))
    rng = np.random.default_rng(seed)
    targets = np.arange(ids) % 2
    logits = rng.normal(size=(ids, len(classes)))
    logits[np.arange(ids), targets] += strength
    Predictions.from_logits(ids=np.arange(ids), targets=targets, logits=logits, class_names=classes).save(
        folder / "predictions" / "test.npz"
    )


def test_two_runs_are_compared(run):
    write("outputs/a", "strong", strength=4.0)
    write("outputs/b", "weak", strength=0.5)
    code, said = run("runs=[outputs/a,outputs/b]", "evaluation.n_resamples=100")
    assert code == 0
    assert "strong is better than weak by" in said
    assert "Fewer than 5 seeds" in said
    (folder,) = Path("outputs/compare").iterdir()
    assert sorted(file.name for file in folder.iterdir()) == [f"comparison.{x}" for x in ("csv", "html", "json", "png")]
    for line, kind in (("page", "html"), ("numbers", "csv"), ("facts", "json"), ("figure", "png")):
        assert f"{line:<8} {folder.absolute()}/comparison.{kind}" in said
    facts = json.loads((folder / "comparison.json").read_text())
    assert facts["metric"] == "accuracy"
    assert facts["pairs"][0]["differences"]["accuracy"]["test"] == "McNemar"
    assert facts["sentences"][0] in said
    lines = pd.read_csv(folder / "comparison.csv")
    assert lines[(lines.model == "strong") & (lines.metric == "seconds_fit")].value.item() == 3


def test_a_folder_of_seeds_is_one_model_each(run):
    for model in ("one", "two"):
        for seed in (0, 1):
            write(f"multirun/x/{model}_{seed}", model, seed=seed + 2 * (model == "two"))
    code, said = run("runs=multirun/x", "out=found", "metric=macro_auroc", "evaluation.n_resamples=50")
    assert code == 0
    assert "one, ensemble of 2" in said
    assert "one and two are not distinguishable at n = 80" in said or "two and one" in said
    # Again into the same folder: the comparison there is replaced.
    assert run("runs=multirun/x", "out=found", "evaluation.n_resamples=50")[0] == 0


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], "found neither"),
        (["runs=[a,b]", "models=[small_cnn,svm]"], "found both"),
        (["runs=[a]"], "two runs or more"),
        (["runs=[a,a]"], "named twice"),
        (["runs=[a,fewer]"], "20 only in strong"),
        (["runs=[a,other]"], "knows cow"),
        (["runs=[a,failed]"], "failed is not finished (status: failed, disk full)"),
        (["runs=nothing"], "nothing is not a folder"),
        (["runs=[a,b]", "trainer.max_epochs=3"], "trainer.max_epochs=3 has no effect"),
        (["runs=[a,b]", "out=a"], "holds a run"),
        (["runs=[a,b]", "metric=accuracies"], "metric=accuracies: expected one of"),
        (["runs=3"], "runs=3 does not fit"),
        (["models=[small_cnn]"], "two models or more"),
        (["models=[small_cnn,small_cnn]"], "names a model twice"),
        (["models=[small_cnn,small_resnet]", "model=small_cnn"], "exclude each other"),
        (["models=[small_cnn,nonesuch]"], "there is no such model"),
        (["models=[small_cnn,small_resnet]", "resume=auto"], "belong to one model"),
        (["models=[small_cnn,small_resnet]", "trainer.max_epoch=1"], "trainer.max_epoch is not a key"),
    ],
)
def test_mistakes_end_with_2_and_a_remedy(run, overrides, said):
    write("a", "strong")
    write("b", "weak", strength=0.3)
    write("fewer", "few", ids=60)
    write("other", "cow", classes=("cat", "cow"))
    write("failed", "x", status="failed")
    code, text = run(*overrides)
    assert code == 2
    assert said in text
    assert len(text.strip().splitlines()) <= 3
    assert not Path("outputs").exists()


def test_a_place_that_cannot_be_written_is_said_before_training(run):
    Path("file").touch()
    code, said = run("models=[small_cnn,small_resnet]", "out=file/x")
    assert code == 2
    assert "cannot be written" in said


@pytest.mark.slow
def test_models_are_trained_on_the_same_data_and_compared(run):
    command = ("experiment=digits_cnn", "models=[small_cnn,small_resnet]", "out=found", *SMALL)
    code, said = run(*command)
    assert code == 0, said
    facts = json.loads(Path("found/comparison.json").read_text())
    assert [model["name"] for model in facts["models"]] == ["small_cnn", "small_resnet"]
    assert facts["n"] == 359
    assert any("in one process" in note for note in facts["notes"])
    for model in ("small_cnn", "small_resnet"):
        metrics = json.loads(Path(f"found/runs/{model}/metrics.json").read_text())
        (row,) = [row for row in facts["models"] if row["name"] == model]
        assert row["metrics"]["accuracy"]["value"] == metrics["test"]["overall"]["accuracy"]["value"]
        assert row["cost"]["size_bytes"] > 10_000
    # The same command again trains nothing.
    code, said = run(*command)
    assert code == 0
    assert said.count("already finished") == 2


def test_models_of_ones_own_are_found(tmp_path):
    from medvision import compose

    (tmp_path / "model").mkdir()
    lines = "_target_: medvision.models.small_cnn.small_cnn\nchannels: [4]\n"
    (tmp_path / "model" / "mine.yaml").write_text(lines)
    cfg = compose("experiment=digits_cnn", "models=[mine,small_cnn]", config_name="compare", config_dir=tmp_path)
    check(cfg)
