import json
import re
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits

from medvision import compose, fit
from medvision.audit import audit
from medvision.cli.entry import run_command
from medvision.labelling.inputs import find_images

SETTINGS = [
    *("data=image_folder", "data.image_size=16", "data.channels=1", "model=small_cnn", "augmentation=none"),
    *("trainer.accelerator=cpu", "logger=none", "evaluation.n_resamples=20", "evaluation.report=false"),
]


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A folder of 1200 digits, which of its files lie in the wrong folder and their true class, and a run on it."""
    folder = tmp_path_factory.mktemp("digits")
    images, truth = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    rows = rng.choice(len(truth), 1200, replace=False)
    wrong = set(rows[:40].tolist())
    truths = {}
    for row in rows:
        label = (truth[row] + rng.integers(1, 10)) % 10 if row in wrong else truth[row]
        file = folder / "images" / str(label) / f"{row}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), (16 * images[row].reshape(8, 8)).clip(0, 255).astype(np.uint8))
        if row in wrong:
            truths[str(file)] = str(truth[row])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDVISION_CACHE", str(folder / "cache"))
        run = fit(
            compose(*SETTINGS, f"data.root={folder / 'images'}", "trainer.max_epochs=20", f"out={folder / 'run'}")
        )
    return folder, truths, run.path


@pytest.fixture
def command(monkeypatch, capfd):
    def run(*overrides):
        monkeypatch.setattr(sys, "argv", ["medvision.audit", *map(str, overrides), "out=found"])
        with pytest.raises(SystemExit) as ending:
            run_command("audit", audit)
        said = capfd.readouterr()
        return ending.value.code, said.out + said.err

    return run


def found(truths: dict[str, str]) -> tuple[pd.DataFrame, int, int]:
    """label_errors.csv, how many planted errors are in it, and how many others."""
    table = pd.read_csv("found/label_errors.csv", dtype={"label": str, "suggested": str})
    hits = int(table["image"].isin(truths).sum())
    return table, hits, len(table) - hits


@pytest.mark.slow
def test_planted_errors_are_found_in_the_images_of_a_run(planted, command):
    _, truths, run = planted
    code, said = command("labels=true", f"run={run}")
    assert code == 3, said
    table, hits, others = found(truths)
    assert hits >= 24  # of 40
    assert others <= 6
    right = table[table["image"].isin(truths)]
    assert (right["suggested"] == right["image"].map(truths)).mean() > 0.8
    assert table["quality"].is_monotonic_increasing
    assert set(table["judged_by"]) <= {"run", "regression"}
    assert ((table["judged_by"] == "regression") == (table["split"] == "train")).all()
    assert "trained on their labels" in said
    assert "label_errors.csv" in said

    facts = json.loads(Path("found/audit.json").read_text())
    assert facts["checks"]["labels"]["count"] == len(table)
    assert len(facts["checks"]["labels"]["found"]) == len(table)
    page = Path("found/audit.html").read_text(encoding="utf-8")
    assert "Suspected label errors" in page
    assert f"labelled {table['label'][0]}, {table['suggested'][0]} suggested" in page
    assert "of 11 checks found something" in page
    agreement = [int(share) for share in re.findall(r"agreeing with (\d+)% of the labels", page)]
    assert len(agreement) == 4  # of both judges, in the table and in the section
    assert min(agreement) > 80
    # The list goes on to the review page, with the given labels as truths.
    inputs = find_images("found/label_errors.csv", tuple("0123456789"))
    assert inputs.paths == tuple(table["image"])
    assert inputs.truths == tuple(table["label"])


@pytest.mark.slow
def test_trainings_on_folds_judge_what_the_run_has_trained_on(planted, command):
    _, truths, run = planted
    code, said = command("labels=true", f"run={run}", "labels_folds=5")
    assert code == 3, said
    table, hits, others = found(truths)
    assert hits >= 28
    assert others <= 14
    assert set(table["judged_by"]) == {"run", "folds"}
    assert "training 5 of 5" in said
    assert "trained on their labels" not in said
    assert sorted(path.name for path in Path("found").iterdir()) == ["audit.html", "audit.json", "label_errors.csv"]


@pytest.mark.slow
def test_other_images_are_judged_where_the_run_has_not_trained_on_them(planted, command, tmp_path):
    """Two of the ten classes: some images that the run has seen, and 80 new ones, of which four are mislabelled."""
    folder, _, run = planted
    images, truth = load_digits(return_X_y=True)
    known = {int(path.stem) for path in folder.glob("images/*/*.png")}
    new = [row for row in np.flatnonzero(np.isin(truth, [0, 3])).tolist() if row not in known][:80]
    for row in new:
        label = 3 - truth[row] if row in new[:4] else truth[row]
        path = tmp_path / str(label) / f"{row}.png"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), (16 * images[row].reshape(8, 8)).clip(0, 255).astype(np.uint8))
    splits = pd.read_csv(run / "splits.csv", dtype=str)
    seen = splits["id"][(splits["split"] == "train") & (splits["label"] == "0")][:7]
    for name in seen:
        (tmp_path / "0" / Path(name).name).write_bytes((folder / "images" / name).read_bytes())
    arguments = ["labels=true", f"run={run}", "data=image_folder", f"data.root={tmp_path}"]
    code, said = command(*arguments)
    assert code == 3, said
    table = pd.read_csv("found/label_errors.csv")
    flagged, mislabelled = {int(Path(image).stem) for image in table["image"]}, set(new[:4])
    assert mislabelled <= flagged
    assert len(flagged - mislabelled) <= 3
    assert not flagged & known
    assert set(table["judged_by"]) == {"run"}
    assert "7 image(s) trained the model and are not checked" in said
    (tmp_path / "0").rename(tmp_path / "zero")
    code, said = command(*arguments)
    assert code == 2
    assert "does not know the class(es) zero" in said


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["labels=true"], "add run=DIR"),
        (["run=nowhere"], "add labels=true"),
        (["labels_folds=5"], "add labels=true"),
        (["labels=true", "run=nowhere"], "holds no run"),
        (["labels=true", "run=nowhere", "data=mnist", "labels_folds=5"], "leave labels_folds or data=... out"),
        (["labels=true", "run=nowhere", "labels_folds=1"], ">= 2"),
    ],
)
def test_misuse_is_refused(command, overrides, words):
    code, said = command(*overrides)
    assert code == 2
    assert words in said
    assert "Traceback" not in said


def test_without_cleanlab_nothing_begins(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "cleanlab.filter", None)
    code, said = command("labels=true", "run=nowhere")
    assert code == 2
    assert "medvision[labels]" in said


@pytest.mark.slow
def test_a_classical_model_needs_folds(command, capfd):
    settings = ["data=digits", "model=decision_tree", "augmentation=none", "logger=none", "evaluation.report=false"]
    fit(compose(*settings, "evaluation.n_resamples=20", "out=tree"))
    capfd.readouterr()
    code, said = command("labels=true", "run=tree")
    assert code == 2
    assert "labels_folds=5" in said
    code, said = command("labels=true", "run=tree", "labels_folds=2")
    assert code == 3, said
    assert pd.read_csv("found/label_errors.csv")["image"].dtype == np.int64
