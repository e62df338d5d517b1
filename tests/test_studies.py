"""The scripts of experiments/cnn_vs_classical and experiments/seeds, in their tiny mode."""

import importlib.util
import itertools
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

STUDIES = Path(__file__).parents[1] / "experiments"
SHOWN = {"results.csv", "pairs.csv", "tables.md", "accuracy.png"}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a study into tmp_path and gives the lines of results.csv and pairs.csv."""

    def tiny(study):
        monkeypatch.syspath_prepend(STUDIES / study)
        spec = importlib.util.spec_from_file_location(f"study_{study}", STUDIES / study / "run.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules.pop("presentation", None)
        module.main(["--tiny", "--out", str(tmp_path / "runs"), "--results", str(tmp_path / "results")])
        assert {file.name for file in (tmp_path / "results").iterdir()} == SHOWN
        return [pd.read_csv(tmp_path / "results" / f"{name}.csv") for name in ("results", "pairs")]

    return tiny


@pytest.mark.slow
def test_cnn_vs_classical(run, tmp_path):
    results, pairs = run("cnn_vs_classical")
    assert len(results) == 2 * 5
    assert len(pairs) == 2 * 10
    assert list(results.train_images.unique()) == [100, 300]

    saved = np.load(tmp_path / "runs" / "digits" / "300" / "svm" / "predictions" / "test.npz")
    accuracy = results.set_index(["model", "train_images"]).accuracy
    assert accuracy["SVM", 300] == pytest.approx((saved["logits"].argmax(axis=1) == saved["targets"]).mean(), rel=1e-5)
    one = pairs[(pairs.train_images == 300) & (pairs["first"] == "CNN") & (pairs.second == "SVM")].iloc[0]
    assert one.difference == pytest.approx(accuracy["CNN", 300] - accuracy["SVM", 300], abs=1e-5)

    # A model that knows no images loses nothing when they get worse, and robustness is that of the largest size.
    loss = results.set_index(["model", "train_images"]).corruption_loss
    assert loss["majority", 300] == 0
    assert loss["decision tree", 300] > 0
    assert loss.xs(100, level="train_images").isna().all()

    runs = {file: file.stat().st_mtime_ns for file in (tmp_path / "runs").rglob("run.json")}
    again, _ = run("cnn_vs_classical")
    assert {file: file.stat().st_mtime_ns for file in runs} == runs
    pd.testing.assert_frame_equal(again, results)


@pytest.mark.slow
def test_seeds(run):
    results, pairs = run("seeds")
    assert len(results) == 4 * 2
    assert len(pairs) == 6
    for pair in pairs.itertuples():
        first, second = (results[results.recipe == name].accuracy for name in (pair[2], pair.second))
        gaps = np.array([a - b for a, b in itertools.product(first, second)])
        assert pair.difference == pytest.approx(gaps.mean(), abs=1e-5)
        assert (pair.single_lowest, pair.single_highest) == pytest.approx((gaps.min(), gaps.max()), abs=1e-5)
        assert pair.single_reversed == (gaps * np.sign(gaps.mean()) < -1e-9).mean()
        assert pair.single_tied == (np.abs(gaps) < 1e-9).mean()


@pytest.mark.parametrize("study", ["cnn_vs_classical", "seeds"])
def test_the_readme_shows_what_was_measured(study):
    readme = (STUDIES / study / "README.md").read_text(encoding="utf-8")
    tables = (STUDIES / study / "tables.md").read_text(encoding="utf-8")
    rows = [line for line in tables.splitlines() if line.startswith("|")]
    assert rows
    assert [line for line in rows if line not in readme] == []
    assert f"python experiments/{study}/run.py" in readme
    for name in re.findall(r"\]\(([\w./]+)\)", readme):
        assert (STUDIES / study / name).exists()
