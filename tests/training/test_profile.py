import pandas as pd
import pytest

from medvision.training import profile
from medvision.training.profile import StageProfiler, table


@pytest.fixture
def clock(monkeypatch):
    """Time that passes when it is told to."""
    now = [0.0]
    monkeypatch.setattr(profile.time, "perf_counter", lambda: now[0])
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


def test_every_second_is_given_to_the_innermost_stage(clock):
    profiler = StageProfiler()
    clock(100)  # before fitting
    profiler.start("[Callback]Anything.on_fit_start")
    profiler.start("[_TrainingEpochLoop].train_dataloader_next")
    clock(1)
    profiler.stop("[_TrainingEpochLoop].train_dataloader_next")
    clock(2)
    with profiler.profile("[LightningModule]Classifier.optimizer_step"):
        clock(4)
        with profiler.profile("[Strategy]SingleDeviceStrategy.training_step"):
            clock(8)
        with profiler.profile("[Strategy]SingleDeviceStrategy.backward"), profiler.profile("[Callback]X.on_after"):
            clock(16)
        clock(32)
    with profiler.profile("[Callback]X.on_validation_start"):
        clock(64)
    with profiler.profile("[Strategy]SingleDeviceStrategy.validation_step"):
        clock(128)
    clock(256)
    with profiler.profile("[Callback]X.on_validation_end"):
        clock(512)
    with profiler.profile("save_checkpoint"):
        clock(1024)
    assert profiler.seconds == {
        "data": 1,
        "augmentation": 0,
        "forward": 8,
        "backward": 16,
        "optimizer": 36,
        "Lightning and callbacks": 2 + 512,
        "validation": 64 + 128 + 256,
        "checkpoints": 1024,
    }
    assert profiler.steps == 1


def test_the_table_has_shares_of_the_whole_and_milliseconds_of_a_step():
    rows = table({"preparing data": 1.0, "forward": 2.0, "validation": 1.0}, steps=4)
    assert [row["share"] for row in rows] == [0.25, 0.5, 0.25]
    assert [row["ms_per_step"] for row in rows] == ["", 500.0, ""]


def test_a_run_says_where_its_time_went(train, tmp_path):
    ending = train("experiment=digits_cnn", "trainer.max_epochs=2", "profile=true", f"out={tmp_path / 'run'}")
    assert ending.code == 0, ending.err
    rows = pd.read_csv(tmp_path / "run" / "profile.csv").set_index("stage")
    assert rows.share.sum() == pytest.approx(1, abs=1e-3)
    assert (rows.seconds >= 0).all()
    assert rows.seconds[["data", "augmentation", "forward", "backward", "optimizer", "validation"]].min() > 0
    assert "where the time went" in ending.out
    facts = pd.read_json(tmp_path / "run" / "run.json", typ="series")
    assert facts.profile["steps"] == 2 * (facts.data["images"]["train"] // 32)
    whole = facts.seconds["prepare"] + facts.seconds["fit"] + facts.seconds["evaluate"]
    assert rows.seconds.sum() == pytest.approx(whole, abs=0.02)


def test_a_classical_model_is_profiled_as_well(train, tmp_path):
    ending = train("data=digits", "model=decision_tree", "profile=true", f"out={tmp_path / 'run'}")
    assert ending.code == 0, ending.err
    assert list(pd.read_csv(tmp_path / "run" / "profile.csv").stage) == [
        "preparing data",
        "fitting, the rest",
        "evaluation and report",
    ]
