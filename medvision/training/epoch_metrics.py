"""Validation metrics of an epoch, computed on the device."""

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics.functional.classification import binary_auroc, multiclass_confusion_matrix

from medvision.tasks import Kind


def task_metrics(kind: Kind, logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """The metrics of one pass over a split, for (N, K) logits and the targets of a task of this kind."""
    match kind:
        case "classes":
            return classification_metrics(logits, targets)


def monitored(logits: Tensor, targets: Tensor) -> dict[str, float]:
    """The values of `monitor` for a model without epochs, from (N, K) logits and (N,) targets."""
    found = classification_metrics(logits, targets)
    return {f"val/{name}": float(value) for name, value in found.items()}


def classification_metrics(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Loss, accuracy, macro recall and macro one-vs-rest AUROC of one pass over a split.

    Args:
        logits: (N, K) float32.
        targets: (N,) int64 in [0, K).

    Returns:
        Scalars `loss` (plain cross-entropy, so that runs with other losses compare), `accuracy`, `recall` and `auroc`;
        the last two are means over the classes for which they are defined, NaN if there is none.
    """
    num_classes = logits.shape[1]
    probs = functional.softmax(logits, dim=1)
    confusion = multiclass_confusion_matrix(logits.argmax(dim=1), targets, num_classes, validate_args=False)
    support = confusion.sum(dim=1)
    present = support > 0
    recall = confusion.diagonal()[present] / support[present]
    aurocs = [
        binary_auroc(probs[:, k], (targets == k).long(), validate_args=False)
        for k in range(num_classes)
        if 0 < support[k] < len(targets)
    ]
    return {
        "loss": functional.cross_entropy(logits, targets),
        "accuracy": confusion.diagonal().sum() / len(targets),
        "recall": recall.mean(),
        "auroc": torch.stack(aurocs).mean() if aurocs else logits.new_tensor(float("nan")),
    }
