import pytest
import torch
from torchvision.transforms import v2

from medvision.data.transforms_v2 import TorchvisionTransforms
from medvision.errors import ConfigError


@pytest.fixture
def images():
    image = torch.randint(0, 256, (1, 3, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return image.expand(16, -1, -1, -1)


def test_each_copy_of_an_image_is_changed_in_its_own_way(images):
    transforms = TorchvisionTransforms([v2.RandomHorizontalFlip()])
    changed = transforms(images, transforms.draw(0, 0, 16))
    mirrored = (changed == images.flip(3)).flatten(1).all(1)
    assert 0 < mirrored.sum() < 16
    assert torch.equal(changed[~mirrored], images[~mirrored])


def test_a_sample_depends_on_its_own_seed_alone(images):
    transforms = TorchvisionTransforms([v2.RandomRotation(30), v2.ColorJitter(0.5)])
    params = transforms.draw(4, 2, 16)
    changed = transforms(images, params)
    before = torch.get_rng_state()
    one_by_one = torch.cat([transforms(images[i : i + 1], params[i : i + 1]) for i in reversed(range(16))]).flip(0)
    assert torch.equal(changed, one_by_one)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(changed, transforms(images, transforms.draw(4, 3, 16)))


def test_draw_gives_distinct_seeds_that_float32_holds_exactly():
    params = TorchvisionTransforms([]).draw(0, 0, 10_000)
    assert params.dtype == torch.float32
    assert len(params.unique(dim=0)) == 10_000
    assert torch.equal(params.long().float(), params)
    assert params.max() < 2**24


@pytest.mark.parametrize("transform", [v2.Resize(6), v2.ToDtype(torch.float32)], ids=["shape", "type"])
def test_transforms_that_change_shape_or_type_are_refused(images, transform):
    transforms = TorchvisionTransforms([transform])
    with pytest.raises(ConfigError, match=r"augmentation\.transforms"):
        transforms(images, transforms.draw(0, 0, 16))


def test_mix_is_that_of_augmentation(images):
    mixed, targets = TorchvisionTransforms([], mixup=0.5).mix(images, torch.arange(16) % 2, 2, 0, 0)
    assert mixed.dtype == torch.float32
    assert targets.shape == (16, 2)


def test_negative_alphas_are_refused():
    with pytest.raises(ConfigError, match=r"augmentation\.cutmix"):
        TorchvisionTransforms([], cutmix=-1.0)
