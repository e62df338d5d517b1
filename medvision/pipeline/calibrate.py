"""Calibrate a trained model on its calibration split: temperature, threshold, prediction sets, out-of-distribution."""

import logging
from typing import Any

import numpy as np

from medvision.data.datamodule import ImageDataModule
from medvision.inference.decision import Decision
from medvision.inference.ood import fit_statistics
from medvision.inference.predictor import Predictor
from medvision.metrics.calibration import fit_temperature
from medvision.metrics.conformal import conformalise
from medvision.metrics.operating_point import choose, default_positive, positive_scores
from medvision.metrics.options import EvaluationOptions
from medvision.pipeline.evaluate import predictions_of
from medvision.randomness import generator

log = logging.getLogger(__name__)

_OOD_IMAGES = 2000  # of the training images; the check knows a distribution, not each of them


def check_positive(options: EvaluationOptions, class_names: tuple[str, ...]) -> None:
    """Refuse positive classes that the data do not have, before anything is trained.

    Raises:
        ConfigError: if a positive class is unknown, or all classes are positive.
    """
    positive = options.positive or default_positive(class_names)
    if positive:
        positive_scores(np.zeros((0, len(class_names))), class_names, positive)


def calibrate(
    predictor: Predictor, data: ImageDataModule, options: EvaluationOptions
) -> tuple[Decision, dict[str, Any]]:
    """Fit what turns logits into an answer.

    All of it comes from the calibration split, which had no part in training or in choosing the epoch; from the
    validation split where there is none.

    Args:
        predictor: the trained model, uncalibrated; its views are those of the decision.
        data: that the model was trained on.
        options: of the evaluation.

    Returns:
        The decision, and `calibration`, `operating_point` and `conformal` for run.json.
    """
    split = "calibration" if "calibration" in data.table.splits else "val"
    arrays = data.split(split)
    logits = predictor.predict_logits(arrays.images)
    temperature = fit_temperature(logits, arrays.targets)
    predictions = predictions_of(arrays, logits, data.task, temperature)
    positive = options.positive or default_positive(data.class_names)
    point = choose(predictions, tuple(positive), options.rule, options.target) if positive else None
    conformal = conformalise(predictions, options.coverage)
    if conformal.reason:
        log.warning("No prediction sets: %s.", conformal.reason)
    decision = Decision(
        temperature=temperature,
        tta=options.tta,
        operating_point=point,
        conformal=conformal.to_json(),
        ood=_ood(predictor, data),
    )
    where = {"split": split, "n": len(arrays.ids)}
    return decision, {
        "calibration": {"temperature": temperature, **where},
        "operating_point": None if point is None else {**point.to_json(), **where, "prevalence": options.prevalence},
        "conformal": {
            "coverage": options.coverage,
            "quantile": conformal.quantile,
            "reason": conformal.reason,
            **where,
        },
    }


def _ood(predictor: Predictor, data: ImageDataModule) -> dict[str, Any]:
    rows = generator("gate", 0).permutation(np.flatnonzero(data.table.splits == "train"))[:_OOD_IMAGES]
    images = data.pixels(rows)
    embeddings = predictor.probs_and_embeddings(images)[1] if predictor.has_embeddings else None
    return fit_statistics(images, embeddings)
