import pytest
import torch

from medvision.data.augment import Augmentation


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8, generator=generator)
    return images, torch.tensor([0, 1, 2, 3, 0, 2])


def test_without_alphas_the_batch_is_untouched(batch):
    images, targets = Augmentation().mix(*batch, 4, 0, 0)
    assert images is batch[0]
    assert targets is batch[1]


def test_mixup_blends_images_and_targets_by_the_same_weight(batch):
    images, targets = Augmentation(mixup=1.0).mix(*batch, 4, 0, 7)
    # Sample 1 has class 1, its neighbour class 0: the target tells the weight.
    weight = targets[1, 1]
    assert 0 < weight < 1
    torch.testing.assert_close(targets[1], torch.tensor([1 - weight, weight, 0, 0]))
    expected = weight * batch[0].float() + (1 - weight) * batch[0].float().roll(1, 0)
    torch.testing.assert_close(images, expected)


def test_cutmix_weighs_targets_by_the_area_taken_from_the_neighbour(batch):
    augmentation = Augmentation(cutmix=1.0)
    for step in range(5):
        images, targets = augmentation.mix(*batch, 4, 0, step)
        own = (images == batch[0]).all(1)
        assert ((images == batch[0].roll(1, 0)).all(1) | own).all()
        torch.testing.assert_close(targets[1, 1].item(), own[1].float().mean().item())


def test_both_alphas_choose_by_coin(batch):
    augmentation = Augmentation(mixup=1.0, cutmix=1.0)
    is_cut = [bool((augmentation.mix(*batch, 4, 0, step)[0] % 1 == 0).all()) for step in range(40)]
    assert 8 <= sum(is_cut) <= 32


def test_blend_is_a_function_of_seed_and_step_and_leaves_the_global_generator_alone(batch):
    augmentation = Augmentation(mixup=0.4)
    before = torch.get_rng_state()
    images, _ = augmentation.mix(*batch, 4, 1, 2)
    torch.rand(3)
    again, _ = augmentation.mix(*batch, 4, 1, 2)
    assert torch.equal(images, again)
    assert not torch.equal(images, augmentation.mix(*batch, 4, 1, 3)[0])
    torch.set_rng_state(before)
    augmentation.mix(*batch, 4, 1, 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_mixed_batches_are_floats_in_range_with_targets_that_sum_to_one(batch):
    images, targets = Augmentation(mixup=0.2, cutmix=1.0).mix(*batch, 4, 0, 0)
    assert images.dtype == targets.dtype == torch.float32
    assert images.min() >= 0
    assert images.max() <= 255
    torch.testing.assert_close(targets.sum(1), torch.ones(6))
