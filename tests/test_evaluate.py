"""The command `evaluate`: the same numbers again, a test on images from elsewhere, and the negative controls."""

import json
import re
import shutil
import sys
from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss, roc_auc_score

from medvision.cli.entry import run_command
from medvision.metrics.estimates import Key
from medvision.metrics.predictions import Predictions
from medvision.reports.wording import described
from medvision.runs.saved_run import SavedRun

QUICK = ("trainer.max_epochs=6", "evaluation.n_resamples=50", "evaluation.pictures=2", "data.batch_size=16")


@pytest.fixture
def evaluate(monkeypatch, capfd):
    """Run the command in this process: `evaluate("run=DIR")` is its exit code and what it printed."""

    def run(*overrides):
        from medvision.evaluate import evaluate as command

        monkeypatch.setattr(sys, "argv", ["medvision.evaluate", *map(str, overrides)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ending:
            run_command("evaluate", command)
        captured = capfd.readouterr()
        return ending.value.code, captured.out + captured.err

    return run


def write_pictures(folder, names, seed):
    """Two classes that differ in a bright square; 40 pictures of each."""
    rng = np.random.default_rng(seed)
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(40):
            image = rng.integers(0, 90, (32, 32), dtype=np.uint8)
            if name == "sick":
                row, column = rng.integers(6, 18, 2)
                image[row : row + 8, column : column + 8] += 25
            cv2.imwrite(str(folder / name / f"{number:03}.png"), image)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run on pictures of two classes, one of which is ill."""
    from medvision import compose, fit

    folder = tmp_path_factory.mktemp("evaluate")
    root = write_pictures(folder / "images", ("healthy", "sick"), 0)
    data = ("data=image_folder", f"data.root={root}", "data.image_size=32", "data.channels=1", "data.val_fraction=0.5")
    plain = ("model=small_cnn", "augmentation=none", "optimizer=adam", "scheduler=constant")
    return fit(compose(*data, *QUICK, *plain, f"out={folder / 'run'}", "evaluation.prevalence=0.1")).path


def metrics(folder):
    return SavedRun(folder).metrics


def point_of(metric):
    return Key(metric, section="operating_point", split="test")


def test_the_numbers_are_those_of_scikit_learn_on_the_saved_predictions(run):
    test, found = Predictions.load(run / "predictions" / "test.npz"), metrics(run)
    sick, truth = test.probs[:, 1], test.targets == 1
    point = json.loads((run / "model" / "bundle.json").read_text())["operating_point"]
    assert point["positive"] == ["sick"]
    called = sick >= point["threshold"]
    expected = {
        Key("accuracy", split="test"): accuracy_score(test.targets, test.preds),
        Key("auroc", "sick", split="test"): roc_auc_score(truth, sick),
        Key("log_loss", split="test"): log_loss(test.targets, test.probs),
        Key("brier", split="test"): brier_score_loss(truth, sick),
        point_of("sensitivity"): (called & truth).sum() / truth.sum(),
        point_of("specificity"): (~called & ~truth).sum() / (~truth).sum(),
        Key("log_loss", section="uncalibrated", split="test"): log_loss(
            test.targets, softmax(test.logits.astype(float), axis=1)
        ),
    }
    for key, value in expected.items():
        assert found[key].value == pytest.approx(value, abs=1e-6), key
    sensitivity, specificity = expected[point_of("sensitivity")], expected[point_of("specificity")]
    if sensitivity or specificity < 1:
        bayes = 0.1 * sensitivity / (0.1 * sensitivity + 0.9 * (1 - specificity))
        assert found[point_of("ppv_at_prevalence")].value == pytest.approx(bayes)


def test_what_was_fitted_came_from_the_calibration_split(run):
    record, calibration = (
        json.loads((run / "run.json").read_text()),
        Predictions.load(run / "predictions/calibration.npz"),
    )
    assert record["calibration"]["n"] == record["operating_point"]["n"] == len(calibration.ids)
    splits = pd.read_csv(run / "splits.csv", dtype=str)
    assert set(calibration.ids) == set(splits["id"][splits["split"] == "calibration"])
    assert not set(calibration.ids) & set(Predictions.load(run / "predictions" / "val.npz").ids)


def test_the_page_shows_the_numbers_of_metrics_json(run):
    page, found = (run / "report.html").read_text(), metrics(run)
    shown = (Key("accuracy"), Key("auroc", "sick"), Key("sensitivity", section="operating_point"), Key("ece"))
    for key in (replace(one, split="test") for one in shown):
        assert f'data-name="{described(key)}"' in page
        assert repr(found[key].value) in page, key
    assert "data:image/png;base64," in page
    assert "Research use only" in (run / "model" / "README.md").read_text()


def test_the_report_is_made_again_with_the_same_numbers(run, evaluate, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "report.html").unlink()
    code, said = evaluate(f"run={copy}")
    assert code == 0, said
    assert metrics(copy) == metrics(run)
    assert (copy / "report.html").stat().st_size > 50_000
    assert str(copy / "report.html") in said


def test_another_prevalence_changes_only_what_follows_from_it(run, evaluate, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    assert evaluate(f"run={copy}", "evaluation.prevalence=0.5", "evaluation.pictures=0")[0] == 0
    before, after = metrics(run), metrics(copy)
    assert "Stated prevalence: 50" in (copy / "report.html").read_text()
    assert {name for name in before if before[name] != after[name]} <= {
        point_of("ppv_at_prevalence"),
        point_of("npv_at_prevalence"),
    }


def test_images_from_elsewhere_are_an_external_test_and_copies_are_noticed(run, evaluate, tmp_path):
    other = write_pictures(tmp_path / "other", ("healthy", "sick"), 1)
    trained = pd.read_csv(run / "splits.csv", dtype=str)
    known = trained[trained["split"] == "train"]["id"].tolist()[:3]
    root = run.parent / "images"
    for name in known:
        shutil.copy(root / name, other / name.split("/")[0] / f"copy{name.split('/')[1]}")
    code, said = evaluate(f"run={run}", "data=image_folder", f"data.root={other}", f"out={tmp_path / 'external'}")
    assert code == 0, said
    assert "3 of 83 external images have the same pixels" in said
    predictions, found = Predictions.load(tmp_path / "external" / "external.npz"), metrics(tmp_path / "external")
    assert len(predictions.ids) == 83
    accuracy = accuracy_score(predictions.targets, predictions.preds)
    assert found[Key("accuracy", split="external")].value == pytest.approx(accuracy)
    assert found[Key("accuracy", section="never_seen", split="external")].n == 80
    page = (tmp_path / "external" / "report.html").read_text().lower()
    assert "external test" in page
    assert "other" in page


def test_a_table_with_fewer_classes_and_subgroups(run, evaluate, tmp_path):
    other = write_pictures(tmp_path / "other", ("sick",), 2)
    lines = [f"sick/{number:03}.png,sick,{'a' if number % 2 else 'b'}" for number in range(40)]
    (other / "cases.csv").write_text("image,label,site\n" + "\n".join([*lines, ""]))
    (other / "healthy").mkdir()
    cv2.imwrite(str(other / "healthy" / "0.png"), np.zeros((32, 32), np.uint8))
    with (other / "cases.csv").open("a") as table:
        table.write("healthy/0.png,healthy,a\n")
    code, said = evaluate(f"run={run}", "data=manifest", f"data.root={other / 'cases.csv'}", f"out={tmp_path / 'out'}")
    assert code == 0, said
    found = metrics(tmp_path / "out")
    assert found[Key("accuracy", None, "subgroups", ("site", "b"), "external")].n == 20


def test_what_another_program_predicted_is_judged_from_its_table(run, evaluate, tmp_path):
    test = Predictions.load(run / "predictions" / "test.npz")
    table = pd.DataFrame({"id": test.ids, "target": np.array(test.class_names)[test.targets], "site": ["a", "b"] * 8})
    for k, name in enumerate(test.class_names):
        table[f"prob_{name}"] = test.probs[:, k]
    table.to_csv(tmp_path / "theirs.csv", index=False)
    code, said = evaluate(f"predictions={tmp_path / 'theirs.csv'}", f"out={tmp_path / 'out'}")
    assert code == 0, said
    own, found = metrics(run), metrics(tmp_path / "out")
    for key in (Key("accuracy"), Key("auroc", "sick"), Key("brier")):
        ours, theirs = (one[replace(key, split=split)] for one, split in ((own, "test"), (found, "external")))
        assert theirs.value == pytest.approx(ours.value, abs=1e-9)
    assert found[Key("accuracy", None, "subgroups", ("site", "a"), "external")].n == 8
    assert "neither the model nor the images were available" in (tmp_path / "out" / "report.html").read_text()
    code, said = evaluate(f"predictions={tmp_path / 'theirs.csv'}", f"out={tmp_path}/no", "evaluation.prevalence=0.1")
    assert (code, "evaluation.prevalence needs the model" in said) == (2, True)
    table.loc[3, "prob_sick"] = 7
    table.to_csv(tmp_path / "theirs.csv", index=False)
    code, said = evaluate(f"predictions={tmp_path / 'theirs.csv'}", f"out={tmp_path / 'bad'}")
    assert code == 2
    assert "row" in said
    assert "3" in said or "5" in said
    table.drop(columns="target").to_csv(tmp_path / "theirs.csv", index=False)
    code, said = evaluate(f"predictions={tmp_path / 'theirs.csv'}", f"out={tmp_path / 'bad'}")
    assert (code, "target" in said) == (2, True)
    assert not (tmp_path / "bad").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("split=test",), "split is for external data"),
        (("out=somewhere",), "out is for external data"),
        (("data=digits",), r"The model does not know the class\(es\) 0, 1, 2"),
        (("data=digits", "negative_controls=true"), "leave data out"),
        (("evaluation.prevalence=2",), "expected a number > 0 and < 1"),
        (("evaluation.nonsense=2",), "evaluation.nonsense"),
        (("model=svm",), "model"),
        (("predictions=theirs.csv",), "Give either run=DIR"),
    ],
)
def test_misuse(run, evaluate, overrides, message):
    code, said = evaluate(f"run={run}", *overrides)
    assert code == 2
    assert "Traceback" not in said
    assert re.search(message, said), said


def test_a_run_that_is_not_finished_or_none(run, evaluate, tmp_path):
    code, said = evaluate(f"run={tmp_path / 'none'}")
    assert (code, "holds no run" in said) == (2, True)
    copy = shutil.copytree(run, tmp_path / "run")
    record = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(record | {"status": "interrupted"}))
    code, said = evaluate(f"run={copy}")
    assert (code, "is not finished (status: interrupted)" in said) == (2, True)


def test_images_that_changed_since(run, evaluate, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    record = json.loads((copy / "run.json").read_text())
    record["data"]["fingerprint"] = "0" * 64
    (copy / "run.json").write_text(json.dumps(record))
    code, said = evaluate(f"run={copy}")
    assert (code, "no longer those it was trained with" in said) == (2, True)


@pytest.mark.slow
def test_negative_controls_say_where_a_score_comes_from(run, evaluate, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    code, said = evaluate(f"run={copy}", "negative_controls=true", "evaluation.pictures=0")
    assert code == 0, said
    found = metrics(copy)

    def control(name, metric="accuracy"):
        return Key(metric, None, "negative_controls", (name,), "test")

    low = {name: found[control(name)].low for name in ("shuffled_labels", "border_only")}
    assert low["shuffled_labels"] <= 0.5  # nothing leaks here: chance lies within the interval
    assert low["border_only"] <= 0.5  # the square lies inside
    assert found[control("metadata_only", "macro_auroc")].value is not None
    assert {note["name"] for note in json.loads((copy / "run.json").read_text())["negative_controls"]} == {
        "shuffled_labels", "border_only", "masked_centre", "metadata_only",
    }  # fmt: skip
    assert not list(copy.glob(".controls*"))
    assert evaluate(f"run={copy}", "evaluation.pictures=0")[0] == 0
    assert metrics(copy)[control("shuffled_labels")] == found[control("shuffled_labels")]
