"""One reader of a run directory, of this version's and of older ones."""

import json

import pytest

from medvision import compose, fit
from medvision.errors import RunError
from medvision.metrics.estimates import Estimate, Key
from medvision.runs.saved_run import SavedRun, find_resumable

# As version 0.1 wrote it.
FLAT = {
    "test/accuracy": {"value": 0.9, "low": 0.8, "high": 0.95, "n": 100},
    "test/macro/precision": {"value": 0.9, "low": 0.8, "high": 0.95, "n": 100},
    "test/recall/a/b": {"value": 0.9, "low": 0.8, "high": 0.95, "n": 40, "caution": "few"},
    "test/auroc/macro": {"value": None, "low": None, "high": None, "n": 0, "reason": "none"},
    "test_never_seen/accuracy": {"value": 0.9, "low": 0.8, "high": 0.95, "n": 90},
    "test/operating_point/sensitivity": {"value": 0.9, "low": 0.8, "high": 0.95, "n": 40},
    "test/conformal/coverage/cat": {"value": 0.9, "low": 0.8, "high": 0.95, "n": 40},
    "test/subgroup/sex/F/macro/auroc": {"value": 0.9, "low": 0.8, "high": 0.95, "n": 50},
    "test/subgroup_gap/sex/accuracy": {"value": 0.1, "low": -0.1, "high": 0.3, "n": 100},
    "test/robustness/noise/5/accuracy": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 100},
    "test/probe/random_labels/balanced_accuracy": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 100},
    "test/uncalibrated/ece": {"value": 0.1, "low": 0.0, "high": 0.2, "n": 100},
    "external/selective/aurc": {"value": 0.1, "low": 0.0, "high": 0.2, "n": 100},
}
KEYS = [
    Key("accuracy", split="test"),
    Key("macro_ppv", split="test"),
    Key("sensitivity", "a/b", split="test"),
    Key("auroc", "macro", split="test"),
    Key("accuracy", None, "never_seen", (), "test"),
    Key("sensitivity", None, "operating_point", (), "test"),
    Key("coverage", "cat", "conformal", (), "test"),
    Key("macro_auroc", None, "subgroups", ("sex", "F"), "test"),
    Key("accuracy", None, "subgroup_gaps", ("sex",), "test"),
    Key("accuracy", None, "robustness", ("noise", "5"), "test"),
    Key("balanced_accuracy", None, "negative_controls", ("shuffled_labels",), "test"),
    Key("ece", None, "uncalibrated", (), "test"),
    Key("aurc", None, "selective", (), "external"),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A short run."""
    options = ("experiment=digits_cnn", "trainer.max_epochs=1", "evaluation.n_resamples=20", "evaluation.report=false")
    return fit(compose(*options, f"out={tmp_path_factory.mktemp('run') / 'out'}"))


@pytest.fixture
def run(tmp_path):
    """A directory with nothing but a configuration."""
    (tmp_path / "config.yaml").write_text("seed: 1\nchoices: {data: digits, model: svm}\n")
    return SavedRun.open(tmp_path)


def test_everything_of_a_run_is_read(finished):
    run = SavedRun.open(finished.path)

    assert (run.status, run.is_finished, run.is_resumable, run.must_stay) == ("finished", True, False, True)
    assert run.require_finished() is run
    assert run.name == "digits_cnn"
    assert run.config["seed"] == 0
    assert set(run.epochs[0]) >= {"train/loss", "val/loss", "val/recall"}
    assert run.quarantine == []
    assert len(run.splits) == 1797
    predictions = run.predictions()
    assert run.metrics[Key("accuracy", split="test")].value == (predictions.preds == predictions.targets).mean()
    assert run.estimate("accuracy") == run.metrics[Key("accuracy", split="test")]
    assert run.estimate("sensitivity", "3", "val") == run.metrics[Key("sensitivity", "3", split="val")]
    assert run.predictor().task == predictions.task
    assert "finished" in repr(run)


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunError, match="holds no run"):
        SavedRun.open(tmp_path)


@pytest.mark.parametrize(
    ("status", "checkpoint", "stays", "resumable"),
    [
        (None, False, False, False),
        ("running", False, True, True),
        ("interrupted", True, True, True),
        ("finished", True, True, False),
        ("failed", False, False, False),
        ("failed", True, True, True),
    ],
)
def test_what_a_status_means(run, status, checkpoint, stays, resumable):
    if status:
        (run.path / "run.json").write_text(json.dumps({"status": status, "reason": "why"}))
    if checkpoint:
        run.last.parent.mkdir()
        run.last.touch()

    assert (run.must_stay, run.is_resumable, run.is_finished) == (stays, resumable, status == "finished")
    if status not in (None, "finished"):
        with pytest.raises(RunError, match=rf"not finished \(status: {status}, why\)\.\n.*resume="):
            run.require_finished()


def test_the_flat_metrics_of_version_0_1_are_read(run):
    (run.path / "metrics.json").write_text(json.dumps(FLAT))

    assert run.metrics == {key: Estimate(**values) for key, values in zip(KEYS, FLAT.values(), strict=True)}


@pytest.mark.parametrize("name", ["run.json", "metrics.json", "config.yaml"])
@pytest.mark.parametrize("content", ["{", "[]", "\x00", "null"])
def test_a_damaged_file_is_named_with_what_to_do(run, name, content):
    (run.path / name).write_text(content)
    read = {"run.json": "facts", "metrics.json": "metrics", "config.yaml": "config"}[name]

    with pytest.raises(RunError, match=rf"{name}[^\n]*\n\w+") as refusal:
        getattr(run, read)
    assert len(str(refusal.value).splitlines()) == 2


def test_the_keys_of_a_configuration_are_this_versions(run):
    run.config_file.write_text("data: {csv: cases.csv}\nmodel: {_target_: medvision.models.resnet.small_resnet}\n")

    assert run.config["model"]["_target_"] == "medvision.models.small_resnet.small_resnet"


def test_auto_takes_the_newest_run_that_can_be_continued(tmp_path):
    stages = {"a": "running", "b": "interrupted", "c": "finished", "d": "failed"}  # the last without a checkpoint
    for started, (name, status) in enumerate(stages.items()):
        (tmp_path / "digits_cnn" / name).mkdir(parents=True)
        record = {"status": status, "started": str(started)}
        (tmp_path / "digits_cnn" / name / "run.json").write_text(json.dumps(record))
    assert find_resumable("auto", str(tmp_path), "digits_cnn").path.name == "b"
    (tmp_path / "digits_cnn" / "d" / "checkpoints").mkdir()
    (tmp_path / "digits_cnn" / "d" / "checkpoints" / "last.ckpt").touch()
    assert find_resumable("auto", str(tmp_path), "digits_cnn").path.name == "d"
    with pytest.raises(RunError, match="No unfinished run"):
        find_resumable("auto", str(tmp_path), "other")
