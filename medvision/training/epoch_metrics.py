"""What is watched while a network learns, computed on the device once an epoch."""

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics.functional.classification import binary_auroc, multiclass_confusion_matrix


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
