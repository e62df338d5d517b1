"""Predictions in, verdict out: metrics with their intervals."""

from medvision.evaluation.predictions import Predictions
from medvision.evaluation.verdict import Estimate, evaluate, evaluate_calibration

__all__ = ["Estimate", "Predictions", "evaluate", "evaluate_calibration"]
