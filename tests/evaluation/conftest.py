from dataclasses import replace

import cv2
import numpy as np
import pytest

from medvision.evaluation import Estimate, Predictions
from medvision.evaluation.gallery import Picture, choose


@pytest.fixture
def make_predictions():
    """Builds predictions of a noisy classifier; `spread` 0 makes it useless, large values perfect."""

    def make(n=200, k=3, *, spread=1.5, seed=0, decimals=None, groups=None, targets=None):
        rng = np.random.default_rng(seed)
        targets = rng.integers(0, k, n) if targets is None else np.asarray(targets)
        logits = rng.normal(size=(len(targets), k))
        logits[np.arange(len(targets)), targets] += spread
        return Predictions.from_logits(
            ids=[f"image {i}" for i in range(len(targets))],
            targets=targets,
            # Few decimals make equal scores, which ranks must treat as ties.
            logits=logits if decimals is None else logits.round(decimals),
            class_names=[f"class {c}" for c in range(k)],
            groups=groups,
        )

    return make


@pytest.fixture
def make_report_case(make_predictions):
    """Builds everything that `report` takes, with numbers in every section; `**changes` go into the facts."""

    def make(n=120, k=4, *, part="test", class_names=None, pictures=2, seed=0, **changes):
        rng = np.random.default_rng(seed)
        made = make_predictions(n, k, seed=seed)
        names = tuple(class_names or made.class_names)
        predictions = replace(
            made, class_names=names, meta={"sex": rng.choice(["F", "M"], n), "age": rng.choice(["< 40", "40 to 90"], n)}
        )
        estimates = _every_estimate(predictions, part, rng)
        sizes = np.bincount(predictions.targets, minlength=k).tolist()
        facts = {
            "title": "a model",
            "kind": "internal test" if part == "test" else "external test",
            "written": "2026-01-01T00:00:00+00:00",
            "command": "python -m medvision.train experiment=x",
            "config": "seed: 0\n",
            "seed": 0,
            "confidence_level": 0.95,
            "n_resamples": 1000,
            "data": {
                "fingerprint": "0123456789abcdef",
                "class_names": list(names),
                "images": {"train": 5 * n, "calibration": n, part: n},
                "per_class": {"train": [5 * size for size in sizes], "calibration": sizes, part: sizes},
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
            "probes": [{"name": "border_only", "finding": "AUROC 0.6.", "meaning": "The border tells something."}],
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
            "part": part,
        }

    return make


def _png(rng):
    written, data = cv2.imencode(".png", rng.integers(0, 255, (28, 28), dtype=np.uint8))
    assert written
    return data.tobytes()


def _every_estimate(predictions, part, rng):
    """An estimate for every name that metrics.json can hold, with values that are true for accuracy and recall only."""
    n, names = len(predictions.ids), predictions.class_names
    right = predictions.preds == predictions.targets
    overall = ["balanced_accuracy", "mcc", "kappa", "kappa_quadratic", "log_loss", "brier", "ece"]
    overall += ["calibration_slope", "calibration_intercept", *(f"top_{t}" for t in (2, 3, 5) if t < len(names))]
    overall += [f"macro/{m}" for m in ("precision", "f1", "specificity", "npv", "auroc", "average_precision")]
    per_class = ("specificity", "precision", "npv", "f1", "auroc", "average_precision", "conformal/coverage")
    overall += [f"{metric}/{name}" for metric in per_class for name in names]
    overall += [f"uncalibrated/{m}" for m in ("log_loss", "brier", "ece", "calibration_slope", "calibration_intercept")]
    point = ("sensitivity", "specificity", "ppv", "npv", "accuracy", "ppv_at_prevalence", "npv_at_prevalence")
    overall += [f"operating_point/{m}" for m in point]
    overall += ["conformal/coverage", "conformal/set_size", "conformal/single", "selective/aurc"]
    overall += [f"selective/accuracy_at_{percentage}" for percentage in (80, 90, 95)]
    overall += [
        f"subgroup/{column}/{value}/{metric}"
        for column, values in predictions.meta.items()
        for value in np.unique(values)
        for metric in ("accuracy", "balanced_accuracy", "macro/auroc")
    ]
    kinds = ("noise", "blur", "contrast", "jpeg", "rotation")
    overall += [f"robustness/{kind}/{strength}/accuracy" for kind in kinds for strength in range(1, 6)]
    probes = ("random_labels", "border_only", "masked_centre", "metadata_only")
    overall += [f"probe/{probe}/{metric}" for probe in probes for metric in ("accuracy", "auroc")]
    estimates = {f"{part}/accuracy": Estimate(float(right.mean()), 0.1, 0.9, n)}
    for c, name in enumerate(names):
        of_class = predictions.targets == c
        estimates[f"{part}/recall/{name}"] = Estimate(float(right[of_class].mean()), 0.1, 0.9, int(of_class.sum()))
    for name in overall:
        low, value, high = np.sort(rng.random(3)).tolist()
        estimates[f"{part}/{name}"] = Estimate(value, low, high, int(rng.integers(1, n)))
    estimates[f"{part}_never_seen/accuracy"] = Estimate(0.25, 0.2, 0.3, n - 3)
    return estimates
