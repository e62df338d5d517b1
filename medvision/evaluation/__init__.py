"""Predictions in, verdict out: metrics with their intervals."""

from medvision.evaluation.predictions import Predictions
from medvision.evaluation.verdict import Estimate, evaluate

__all__ = ["Estimate", "Predictions", "evaluate"]
