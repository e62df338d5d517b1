import math

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss, recall_score, roc_auc_score

from medvision.training.classifier import classification_metrics


def test_equal_to_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(300, 4, generator=generator).double()
    targets = torch.randint(0, 4, (300,), generator=generator)
    found = classification_metrics(logits, targets)
    probs, preds = logits.softmax(1).numpy(), logits.argmax(1).numpy()
    assert float(found["loss"]) == pytest.approx(log_loss(targets, probs))
    assert float(found["accuracy"]) == pytest.approx(accuracy_score(targets, preds))
    assert float(found["recall"]) == pytest.approx(recall_score(targets, preds, average="macro"))
    assert float(found["auroc"]) == pytest.approx(roc_auc_score(targets, probs, multi_class="ovr"), abs=1e-6)


def test_absent_classes_are_left_out():
    logits = torch.eye(3)[[0, 1, 2, 0]] * 5
    targets = torch.tensor([0, 1, 0, 1])
    found = classification_metrics(logits, targets)
    assert float(found["recall"]) == 0.5
    expected = np.mean([roc_auc_score(targets == k, logits.softmax(1)[:, k]) for k in (0, 1)])
    assert float(found["auroc"]) == pytest.approx(expected)


def test_auroc_of_a_single_class_is_not_a_number():
    assert math.isnan(float(classification_metrics(torch.zeros(5, 2), torch.zeros(5, dtype=torch.long))["auroc"]))
