import io
import json

import pandas as pd
import pytest
from rich.console import Console

from medvision.metrics.estimates import Estimate, Key, to_json
from medvision.sweeps import leaderboard
from medvision.sweeps.jobs import Job


@pytest.fixture
def run(tmp_path):
    """Make a finished run: `run("a", log_loss=0.2, test=0.9)` gives its job."""

    def make(name, *, log_loss, test, monitor="val/loss", cases=50, values=("seed=0",), accuracy=0.5):
        folder = tmp_path / "multirun" / "digits" / "1a2b" / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(f"monitor: {monitor}\nevaluation: {{confidence_level: 0.9}}\n")
        seconds = {"prepare": 1.0, "fit": 2.0, "evaluate": 3.0, "predict_per_image": 0.1}
        (folder / "run.json").write_text(json.dumps({"seconds": seconds, "data": {"images": {"val": cases}}}))
        metrics = {
            Key("log_loss", split="val"): log_loss,
            Key("accuracy", split="val"): accuracy,
            Key("accuracy", split="test"): test,
        }
        content = to_json({key: Estimate(one, one - 0.01, one + 0.01, 50) for key, one in metrics.items()})
        (folder / "metrics.json").write_text(json.dumps(content))
        return Job(str(folder), [*values, "trainer.max_epochs=1"], "finished", 0, 9.9)

    return make


def test_validation_sorts_and_test_does_not(run):
    jobs = [
        run("a", log_loss=0.3, test=0.99, values=["seed=0"]),
        Job("nowhere", ["seed=1", "trainer.max_epochs=1"], "failed", 2, 1.5, "no images"),
        run("c", log_loss=0.1, test=0.80, values=["seed=2"]),
    ]
    metric, level, rows, notes = leaderboard.collect(jobs)
    assert (metric, level) == ("log_loss", "90%")
    assert [row.rank for row in rows] == [1, 2, None]
    assert [row.values for row in rows] == [["seed=2"], ["seed=0"], ["seed=1"]]
    assert [row.seconds for row in rows] == [6.0, 6.0, 1.5]
    assert len(notes) == 1  # that overlap is no test
    table = leaderboard.frame(metric, rows)
    assert table["val/log_loss/high"].tolist()[:2] == pytest.approx([0.11, 0.31])
    assert table["reason"].tolist() == ["", "", "no images"]


@pytest.mark.parametrize(("monitor", "metric"), leaderboard.MONITORED.items())
def test_the_monitor_ranks(run, monitor, metric):
    assert leaderboard.collect([run("a", log_loss=1.0, test=0.5, monitor=monitor)])[0] == metric


def test_more_is_better_for_accuracy_and_less_for_loss(run):
    jobs = [
        run("a", log_loss=0.1, accuracy=0.8, test=0.5, monitor="val/accuracy"),
        run("b", log_loss=0.2, accuracy=0.9, test=0.5, monitor="val/loss", cases=60),
    ]
    metric, _, rows, notes = leaderboard.collect(jobs)
    assert metric == "accuracy"
    assert [row.path[-1] for row in rows] == ["b", "a"]
    assert len(notes) == 3  # two monitors, two sizes of validation


def test_the_page_is_closed_and_escaped(run, tmp_path):
    jobs = [run("a", log_loss=0.3, test=0.9, values=["name=<script>"]), Job("b", ["name=2"], "failed", 2, 1.0, "<b>")]
    console = Console(file=io.StringIO(), width=120)
    folder = tmp_path / "multirun" / "digits" / "1a2b"
    leaderboard.write(folder, jobs, console)
    page = (folder / "leaderboard.html").read_text()
    assert "<script" not in page
    assert "<b>" not in page
    assert "default-src 'none'; style-src 'unsafe-inline'" in page
    assert "Sorted by validation" in page
    assert "http://" not in page.replace("http-equiv", "")
    assert pd.read_csv(folder / "leaderboard.csv")["path"].tolist() == [jobs[0].folder, "b"]
    assert "not by test" in console.file.getvalue()


def test_a_multirun_without_a_finished_job_has_a_page_too(tmp_path):
    leaderboard.write(tmp_path, [Job("b", ["seed=0"], "failed", 2, 1.0, "why")], Console(file=io.StringIO()))
    assert "why" in (tmp_path / "leaderboard.html").read_text()
