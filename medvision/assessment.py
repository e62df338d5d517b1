"""What a finished model is put through: fitted to mean what it says on cases kept for it, then measured on others."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig

from medvision.data.datamodule import ImageDataModule
from medvision.data.table import SplitArrays
from medvision.evaluation import Estimate, Predictions, evaluate, evaluate_calibration, metrics
from medvision.evaluation.calibration import fit_temperature
from medvision.evaluation.conformal import conformalise, evaluate_sets
from medvision.evaluation.operating_point import OperatingPoint, apply, choose, default_positive, positive_scores
from medvision.evaluation.predictions import softmax
from medvision.evaluation.selective import selective
from medvision.evaluation.subgroups import subgroups
from medvision.inference.bundle import amend_bundle, load_bundle
from medvision.inference.gate import gate_statistics
from medvision.inference.predictor import Predictor
from medvision.inference.robustness import robustness
from medvision.inference.views import VIEWS
from medvision.models.classical import Classical
from medvision.models.network import Network
from medvision.randomness import generator

log = logging.getLogger(__name__)

_GATE_IMAGES = 2000  # of the training images; the gate knows a distribution, not each of them


def check_positive(settings: DictConfig, class_names: tuple[str, ...]) -> None:
    """Refuse a rule for the operating point that these classes cannot have, before anything is trained.

    Args:
        settings: the `evaluation` node of a config.
        class_names: of the data.

    Raises:
        ConfigError: if a positive class is unknown, all are positive, or the target does not suit the rule.
    """
    positive = settings.positive or default_positive(class_names)
    OperatingPoint(tuple(positive or class_names[:1]), 0.5, settings.rule, settings.target)
    if positive:
        positive_scores(np.zeros((0, len(class_names))), class_names, positive)


def calibrate(settings: DictConfig, model: Path, data: ImageDataModule, device: str) -> dict[str, Any]:
    """Fit temperature, threshold, prediction sets and input gate, and write them into the bundle.

    All come from the calibration split, which had no part in training or in choosing the epoch; from the validation
    split where there is none.

    Args:
        settings: the `evaluation` node of a config.
        model: the bundle.
        data: that the model was trained on.
        device: to predict on.

    Returns:
        `calibration`, `operating_point` and `conformal`, as they stand in run.json.
    """
    predictor = load_bundle(model, device)
    split = "calibration" if "calibration" in data.table.splits else "val"
    arrays = data.split(split)
    logits = predictor.predict_logits(arrays.images)
    temperature = fit_temperature(logits, arrays.targets)
    predictions = _predictions(arrays, logits, data.class_names, temperature)
    positive = settings.positive or default_positive(data.class_names)
    point = choose(predictions, tuple(positive), settings.rule, settings.target) if positive else None
    conformal = conformalise(predictions, settings.coverage)
    if conformal.reason:
        log.warning("No prediction sets: %s.", conformal.reason)
    amend_bundle(
        model,
        temperature=temperature,
        operating_point=None if point is None else point.to_json(),
        conformal=conformal.to_json(),
        gate=_gate(predictor, data),
    )
    where = {"split": split, "n": len(arrays.ids)}
    return {
        "calibration": {"temperature": temperature, **where},
        "operating_point": None if point is None else {**point.to_json(), **where, "prevalence": settings.prevalence},
        "conformal": {
            "coverage": settings.coverage,
            "quantile": conformal.quantile,
            "reason": conformal.reason,
            **where,
        },
    }


def predict(predictor: Predictor, arrays: SplitArrays) -> Predictions:
    """What a model says of labelled images."""
    logits = predictor.predict_logits(arrays.images)
    return _predictions(arrays, logits, predictor.class_names, predictor.temperature)


def validation_score(learner: Classical, arrays: SplitArrays, monitor: str) -> float:
    """What a network's `monitor` would be for a classical model, which has no epochs.

    Args:
        learner: fitted.
        arrays: the validation split.
        monitor: val/loss, val/accuracy, val/recall or val/auroc.
    """
    probs = softmax(learner.logits(arrays.images))
    scores = {
        "val/loss": metrics.log_loss,
        "val/accuracy": metrics.accuracy,
        "val/recall": metrics.balanced_accuracy,
        "val/auroc": lambda *both: float(np.nanmean(metrics.auroc(*both))),
    }
    return scores[monitor](probs, arrays.targets)


def measure(
    settings: DictConfig,
    predictor: Predictor,
    predictions: Predictions,
    images: NDArray[np.uint8],
    never_seen: NDArray[np.bool_] | None = None,
    part: str = "test",
) -> dict[str, Estimate]:
    """Everything that is said of a model on one set of cases.

    Args:
        settings: the `evaluation` node of a config.
        predictor: that made the predictions.
        predictions: of N cases.
        images: (N, C, H, W) uint8, of the same cases.
        never_seen: (N,) which of them share nothing with what trained the model; None where that is not known.
        part: how the names begin: "test" or "external".
    """
    level, n_resamples = settings.confidence_level, settings.n_resamples
    found = describe(predictions, level, n_resamples)
    found |= _under("uncalibrated", evaluate_calibration(_with_temperature(predictions, 1.0), level, n_resamples))
    if predictor.operating_point is not None:
        point = OperatingPoint.from_json(predictor.operating_point)
        measured = apply(point, predictions, level, n_resamples, prevalence=settings.prevalence)
        found |= _under("operating_point", measured)
    if predictor.conformal is not None:
        sets = evaluate_sets(predictions, predictor.conformal["quantile"], level, n_resamples)
        found |= _under("conformal", sets)
    if settings.robustness:
        views = VIEWS[predictor.tta]
        found |= _under("robustness", robustness(predictor, images, predictions, level, n_resamples, views=views))
    found = _under(part, found)
    if never_seen is not None and never_seen.any() and not never_seen.all():
        unseen = evaluate(predictions.take(np.flatnonzero(never_seen)), level, n_resamples)
        found |= _under(f"{part}_never_seen", unseen)
    return found


def describe(predictions: Predictions, confidence_level: float, n_resamples: int) -> dict[str, Estimate]:
    """What can be said from predictions alone, whatever made them: metrics, selective prediction, subgroups."""
    by_subgroup = subgroups(predictions, confidence_level)
    return {
        **evaluate(predictions, confidence_level, n_resamples),
        **_under("selective", selective(predictions, confidence_level, n_resamples)),
        **_under("subgroup", by_subgroup.estimates),
        **_under("subgroup_gap", {f"{gap.column}/{gap.metric}": gap.estimate for gap in by_subgroup.gaps}),
    }


def _predictions(
    arrays: SplitArrays, logits: NDArray[np.float32], class_names: tuple[str, ...], temperature: float
) -> Predictions:
    return Predictions.from_logits(
        ids=arrays.ids,
        groups=np.where(arrays.groups == arrays.ids, "", arrays.groups),
        targets=arrays.targets,
        logits=logits,
        class_names=class_names,
        meta=arrays.meta,
        temperature=temperature,
    )


def _with_temperature(predictions: Predictions, temperature: float) -> Predictions:
    return Predictions(
        ids=predictions.ids,
        groups=predictions.groups,
        targets=predictions.targets,
        logits=predictions.logits,
        probs=softmax(predictions.logits, temperature),
        class_names=predictions.class_names,
    )


def _gate(predictor: Predictor, data: ImageDataModule) -> dict[str, Any]:
    rows = generator("gate", 0).permutation(np.flatnonzero(data.table.splits == "train"))[:_GATE_IMAGES]
    images = data.pixels(rows)
    embeddings = predictor.probs_and_embeddings(images)[1] if isinstance(predictor.model, Network) else None
    return gate_statistics(images, embeddings)


def _under(prefix: str, estimates: Mapping[str, Estimate]) -> dict[str, Estimate]:
    return {f"{prefix}/{name}": estimate for name, estimate in estimates.items()}
