from dataclasses import replace

import cv2
import numpy as np
import pytest

from medvision.metrics.definitions import METRICS, metrics_of, section
from medvision.metrics.estimates import Estimate, Key
from medvision.reports.caveats import CONTROLS
from medvision.reports.gallery import Picture, choose
from medvision.tasks import Task


@pytest.fixture
def make_report_case(make_predictions):
    """Builds everything that `report` takes, with numbers in every section; `**changes` go into the facts."""

    def make(n=120, k=4, *, split="test", class_names=None, pictures=2, seed=0, **changes):
        rng = np.random.default_rng(seed)
        made = make_predictions(n, k, seed=seed)
        names = tuple(class_names or made.class_names)
        predictions = replace(
            made,
            task=Task.classes(names),
            meta={"sex": rng.choice(["F", "M"], n), "age": rng.choice(["< 40", "40 to 90"], n)},
        )
        estimates = _every_estimate(predictions, split, rng)
        sizes = np.bincount(predictions.targets, minlength=k).tolist()
        facts = {
            "title": "a model",
            "kind": "internal test" if split == "test" else "external test",
            "written": "2026-01-01T00:00:00+00:00",
            "command": "medvision train experiment=x",
            "config": "seed: 0\n",
            "seed": 0,
            "confidence_level": 0.95,
            "n_resamples": 1000,
            "data": {
                "fingerprint": "0123456789abcdef",
                "class_names": list(names),
                "images": {"train": 5 * n, "calibration": n, split: n},
                "per_class": {"train": [5 * size for size in sizes], "calibration": sizes, split: sizes},
                "quarantined": 1,
                "dropped": 7,
                "unused": 0,
                "one_coloured": 2,
                "leakage": {"policy": "drop", "test_images_seen": 3, "label_conflicts": 1},
                "test_never_seen": n - 3,
            },
            "quarantine": [{"path": "a/broken.png", "reason": "not an image", "stage": "decode"}],
            "environment": {"python": "3.11", "versions": {"medvision": "0", "torch": None}, "git": None},
            "seconds": {"fit": 10.0, "evaluate": 1.0},
            "model": {
                **{"name": "small_cnn", "parameters": 12345, "image_size": [28, 28], "channels": 1},
                **{"resize": "letterbox", "precision": "32-true", "epochs": 3, "best_epoch": 2, "monitor": "val/loss"},
                **{"augmentation": "none", "optimizer": "adam"},
            },
            "calibration": {"temperature": 1.5, "split": "calibration", "n": n},
            "operating_point": {
                **{"positive": [names[-1]], "threshold": 0.4, "rule": "sensitivity", "target": 0.9},
                **{"split": "calibration", "n": n, "prevalence": 0.05},
            },
            "conformal": {"coverage": 0.9, "quantile": 0.8, "split": "calibration", "n": n},
            "cam": None,
            "robustness": {"n": n},
            "negative_controls": [
                {"name": "border_only", "finding": "AUROC 0.6.", "meaning": "The border tells something."}
            ],
            "notes": ["A note."],
        }
        shown = [
            Picture(
                section=section,
                id=str(predictions.ids[row]),
                target=names[predictions.targets[row]],
                pred=names[predictions.preds[row]],
                prob=float(predictions.probs[row].max()),
                prob_target=float(predictions.probs[row, predictions.targets[row]]),
                original=_png(rng),
                overlay=_png(rng),
            )
            for section, rows in choose(predictions, pictures).items()
            for row in rows
        ]
        return {
            "predictions": predictions,
            "facts": facts | changes,
            "estimates": estimates,
            "rows": [
                {"epoch": e, "val/loss": 1 / (1 + e), "train/loss": 1 / (2 + e), "val/accuracy": 0.5} for e in range(3)
            ],
            "pictures": shown,
            "split": split,
        }

    return make


def _png(rng):
    written, data = cv2.imencode(".png", rng.integers(0, 255, (28, 28), dtype=np.uint8))
    assert written
    return data.tobytes()


def _every_estimate(predictions, split, rng):
    """An estimate for every key that metrics.json can hold; values are true for accuracy and sensitivity only."""
    n, names = len(predictions.ids), predictions.class_names
    right = predictions.preds == predictions.targets
    keys = []
    for metric in metrics_of(predictions.task):
        keys += [Key(metric.name, name) for name in names] if metric.per_class else [Key(metric.name)]
    keys += [Key(metric, section="uncalibrated") for metric in section("calibration")]
    point = ("sensitivity", "specificity", "ppv", "npv", "accuracy", "ppv_at_prevalence", "npv_at_prevalence")
    keys += [Key(metric, section="operating_point") for metric in point]
    keys += [Key(metric, section="conformal") for metric in ("coverage", "set_size", "single")]
    keys += [Key("coverage", name, "conformal") for name in names]
    keys += [Key(metric, section="selective") for metric in METRICS if metric.startswith(("accuracy_at_", "aurc"))]
    keys += [
        Key(metric, section="subgroups", names=(column, str(value)))
        for column, values in predictions.meta.items()
        for value in np.unique(values)
        for metric in ("accuracy", "balanced_accuracy", "macro_auroc")
    ]
    kinds = ("noise", "blur", "contrast", "jpeg", "rotation")
    keys += [Key("accuracy", section="robustness", names=(kind, str(one))) for kind in kinds for one in range(1, 6)]
    keys += [
        Key(metric, section="negative_controls", names=(control,))
        for control in CONTROLS
        for metric in ("accuracy", "macro_auroc")
    ]
    estimates = {}
    for key in keys:
        low, value, high = np.sort(rng.random(3)).tolist()
        estimates[replace(key, split=split)] = Estimate(value, low, high, int(rng.integers(1, n)))
    estimates[Key("accuracy", split=split)] = Estimate(float(right.mean()), 0.1, 0.9, n)
    for c, name in enumerate(names):
        of_class = predictions.targets == c
        share = float(right[of_class].mean())
        estimates[Key("sensitivity", name, split=split)] = Estimate(share, 0.1, 0.9, int(of_class.sum()))
    estimates[Key("accuracy", section="never_seen", split=split)] = Estimate(0.25, 0.2, 0.3, n - 3)
    return estimates
