import pytest
import torch
from torch.nn import functional

from medvision.training.losses import ClassificationLoss


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(64, 5, generator=generator), torch.randint(0, 5, (64,), generator=generator)


def test_default_is_cross_entropy(batch):
    assert torch.equal(ClassificationLoss()(*batch), functional.cross_entropy(*batch))


@pytest.mark.parametrize("class_weights", ["none", "balanced"])
def test_the_focal_formula_without_focus_is_cross_entropy(batch, class_weights):
    # A gamma too small to matter takes the other branch, which must agree with torch where they overlap.
    plain, focal = (ClassificationLoss(class_weights=class_weights, focal_gamma=gamma) for gamma in (0.0, 1e-9))
    for loss in (plain, focal):
        loss.set_class_counts(torch.tensor([1, 2, 3, 4, 5]))
    torch.testing.assert_close(focal(*batch), plain(*batch))


def test_focal_matches_the_closed_form(batch):
    logits, targets = batch
    p = logits.softmax(1)[torch.arange(64), targets]
    torch.testing.assert_close(ClassificationLoss(focal_gamma=2.0)(logits, targets), (-((1 - p) ** 2) * p.log()).mean())


def test_balanced_weights_are_inverse_to_the_counts():
    loss = ClassificationLoss(class_weights="balanced")
    loss.set_class_counts(torch.tensor([10, 30]))
    torch.testing.assert_close(loss.weight, torch.tensor([2.0, 2 / 3]))


@pytest.mark.parametrize("options", [{}, {"focal_gamma": 2.0}])
def test_soft_targets_that_are_hard_give_the_same_loss(batch, options):
    logits, targets = batch
    loss = ClassificationLoss(label_smoothing=0.1, **options)
    torch.testing.assert_close(loss(logits, functional.one_hot(targets, 5).float()), loss(logits, targets))
