"""The classification loss: cross-entropy with label smoothing, class weights and focal modulation."""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from medvision.tasks import Task


def task_loss(
    task: Task,
    class_counts: NDArray[np.int64],
    *,
    label_smoothing: float = 0.0,
    class_weights: Literal["none", "balanced"] = "none",
    focal_gamma: float = 0.0,
) -> nn.Module:
    """The loss of a task.

    Args:
        task: what is asked.
        class_counts: (K,) training images of each class.
        label_smoothing: see `ClassificationLoss`.
        class_weights: see `ClassificationLoss`.
        focal_gamma: see `ClassificationLoss`.
    """
    match task.kind:
        case "classes":
            loss = ClassificationLoss(label_smoothing, class_weights, focal_gamma)
            loss.set_class_counts(torch.from_numpy(class_counts))
            return loss


class ClassificationLoss(nn.Module):
    """Cross-entropy over logits, optionally smoothed, weighted by class, or focused on hard samples.

    Args:
        label_smoothing: Share of the target spread evenly over all classes, in [0, 1).
        class_weights: `balanced` weighs class k by N / (K * n_k), n_k counted on the training split; `none` does not.
        focal_gamma: Exponent of the factor (1 - p)^gamma; 0 is plain cross-entropy.

    Source: Lin et al. 2017, arXiv:1708.02002, eq. 4; Szegedy et al. 2016, arXiv:1512.00567, section 7.
    """

    weight: Tensor | None

    def __init__(
        self,
        label_smoothing: float = 0.0,
        class_weights: Literal["none", "balanced"] = "none",
        focal_gamma: float = 0.0,
    ) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        self.class_weights = class_weights
        self.focal_gamma = focal_gamma
        self.register_buffer("weight", None)

    def set_class_counts(self, counts: Tensor) -> None:
        """Derive the class weights from the (K,) number of training images of each class."""
        if self.class_weights == "balanced":
            self.weight = counts.sum() / (len(counts) * counts.clamp(min=1).float())

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of a batch.

        Args:
            logits: (B, K) floating point.
            targets: (B,) int64 in [0, K), or (B, K) float rows that sum to 1 (MixUp, CutMix).

        Returns:
            Scalar float32; with class weights, the weighted mean, as `torch.nn.CrossEntropyLoss` has it.
        """
        logits = logits.float()
        if self.focal_gamma == 0:
            return functional.cross_entropy(logits, targets, weight=self.weight, label_smoothing=self.label_smoothing)
        num_classes = logits.shape[1]
        soft = functional.one_hot(targets, num_classes).float() if targets.ndim == 1 else targets
        weight = torch.ones_like(logits[0]) if self.weight is None else self.weight
        # The mean divides by the weight of the true classes, before smoothing spreads them.
        total = (soft * weight).sum()
        soft = soft * (1 - self.label_smoothing) + self.label_smoothing / num_classes
        log_probs = functional.log_softmax(logits, dim=1)
        focus = (1 - log_probs.exp()) ** self.focal_gamma
        return -(soft * weight * focus * log_probs).sum() / total
