"""Evaluate a calibrated model: predictions of each split, and everything that is measured on them."""

import time
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from medvision.data.datamodule import ImageDataModule
from medvision.data.table import SplitArrays
from medvision.inference.predictor import Predictor
from medvision.inference.robustness import robustness
from medvision.inference.tta import VIEWS
from medvision.metrics.conformal import evaluate_sets
from medvision.metrics.estimates import Estimates, Key, placed
from medvision.metrics.evaluate import evaluate, evaluate_calibration
from medvision.metrics.operating_point import apply
from medvision.metrics.options import EvaluationOptions
from medvision.metrics.predictions import Predictions, activation
from medvision.metrics.selective import selective
from medvision.metrics.subgroups import subgroups
from medvision.runs.directory import RunDirectory
from medvision.tasks import Task


def evaluate_run(
    predictor: Predictor, data: ImageDataModule, options: EvaluationOptions, directory: RunDirectory
) -> tuple[Estimates, Predictions]:
    """Predict and measure all splits of a run, and keep the predictions.

    Args:
        predictor: loaded from the bundle, so that what is measured is what a user carries away.
        data: of the run.
        options: of the evaluation.
        directory: of the run, for predictions/.

    Returns:
        All estimates, and the predictions of the test split.
    """
    folder = directory.path / "predictions"
    folder.mkdir(exist_ok=True)
    estimates: Estimates = {}
    for split in ("val", "calibration"):
        if split not in data.table.splits:
            continue
        predictions = predict(predictor, data.split(split))
        predictions.save(folder / f"{split}.npz")
        found = evaluate(predictions, options.confidence_level, options.n_resamples)
        estimates |= placed(found, split=split)
    test = data.split("test")
    started = time.perf_counter()
    predictions = predict(predictor, test)
    seconds = (time.perf_counter() - started) / len(test.ids)
    predictions.save(folder / "test.npz")
    directory.record(seconds=directory.facts.get("seconds", {}) | {"predict_per_image": seconds})
    return estimates | measure(predictor, predictions, test.images, options, data.never_seen()), predictions


def predict(predictor: Predictor, arrays: SplitArrays) -> Predictions:
    """The predictions of a model for labelled images."""
    logits = predictor.predict_logits(arrays.images)
    return predictions_of(arrays, logits, predictor.task, predictor.decision.temperature)


def predictions_of(arrays: SplitArrays, logits: NDArray[np.float32], task: Task, temperature: float) -> Predictions:
    """Logits (N, K) of labelled images as predictions; an image alone in its group has none."""
    return Predictions.from_logits(
        ids=arrays.ids,
        groups=np.where(arrays.groups == arrays.ids, "", arrays.groups),
        targets=arrays.targets,
        logits=logits,
        task=task,
        meta=arrays.meta,
        temperature=temperature,
    )


def measure(
    predictor: Predictor,
    predictions: Predictions,
    images: NDArray[np.uint8],
    options: EvaluationOptions,
    never_seen: NDArray[np.bool_] | None = None,
    split: str = "test",
) -> Estimates:
    """Everything that is measured of a model on one set of cases.

    Args:
        predictor: that made the predictions.
        predictions: of N cases.
        images: (N, C, H, W) uint8, of the same cases.
        options: of the evaluation.
        never_seen: (N,) which of them share nothing with what trained the model; None where that is not known.
        split: "test" or "external".
    """
    level, n_resamples, decision = options.confidence_level, options.n_resamples, predictor.decision
    found = measure_predictions(predictions, level, n_resamples)
    found |= placed(evaluate_calibration(_uncalibrated(predictions), level, n_resamples), section="uncalibrated")
    if decision.operating_point is not None:
        measured = apply(decision.operating_point, predictions, level, n_resamples, prevalence=options.prevalence)
        found |= placed(measured, section="operating_point")
    if decision.conformal is not None:
        sets = evaluate_sets(predictions, decision.conformal["quantile"], level, n_resamples)
        found |= placed(sets, section="conformal")
    if options.robustness:
        found |= robustness(predictor, images, predictions, level, n_resamples, views=VIEWS[decision.tta])
    if never_seen is not None and never_seen.any() and not never_seen.all():
        unseen = evaluate(predictions.take(np.flatnonzero(never_seen)), level, n_resamples)
        found |= placed(unseen, section="never_seen")
    return placed(found, split=split)


def measure_predictions(predictions: Predictions, confidence_level: float, n_resamples: int) -> Estimates:
    """What follows from predictions alone: metrics, selective prediction, subgroups."""
    by_subgroup = subgroups(predictions, confidence_level)
    gaps = {Key(gap.metric, section="subgroup_gaps", names=(gap.column,)): gap.estimate for gap in by_subgroup.gaps}
    return {
        **evaluate(predictions, confidence_level, n_resamples),
        **placed(selective(predictions, confidence_level, n_resamples), section="selective"),
        **by_subgroup.estimates,
        **gaps,
    }


def _uncalibrated(predictions: Predictions) -> Predictions:
    return replace(predictions, probs=activation(predictions.task, predictions.logits), meta={})
