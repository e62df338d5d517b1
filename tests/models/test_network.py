import numpy as np
import pytest
import torch
from torch import nn

from medvision.errors import ModelError
from medvision.models.network import Network


def make_network(freeze_backbone=False):
    backbone = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Network(backbone, 5, 4, 3, backbone[0], freeze_backbone)


@pytest.fixture
def images():
    return torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_normalise_is_the_textbook_formula(images):
    network = make_network()
    mean, std = np.array([100.0, 120.0, 140.0]), np.array([40.0, 50.0, 60.0])
    network.set_statistics(mean, std)
    expected = (images.numpy() - mean[:, None, None]) / std[:, None, None]
    np.testing.assert_allclose(network.normalise(images).numpy(), expected, rtol=1e-6, atol=1e-6)


def test_images_are_scaled_to_one_before_statistics_are_set(images):
    torch.testing.assert_close(make_network().normalise(images), images / 255)


def test_uint8_and_float_images_give_the_same_logits_in_any_memory_format(images):
    network = make_network().eval()
    logits = network(images)
    assert logits.shape == (6, 4)
    torch.testing.assert_close(network(images.float()), logits)
    torch.testing.assert_close(network.to(memory_format=torch.channels_last)(images), logits)


def test_logits_are_the_head_of_the_embedding(images):
    network = make_network().eval()
    torch.testing.assert_close(network(images), network.embed(images) @ network.head.weight.T + network.head.bias)


def test_statistics_travel_with_the_weights_and_every_tensor_is_stored_once(images):
    source, target = make_network(), make_network()
    source.set_statistics([1.0, 2.0, 3.0], [4.0, 5.0, 6.0])
    state = source.state_dict()
    assert len({value.data_ptr() for value in state.values()}) == len(state)
    target.load_state_dict(state)
    torch.testing.assert_close(target.eval()(images), source.eval()(images))


@pytest.mark.parametrize(
    ("mean", "std"), [([1.0], [1.0]), ([1.0, 1.0, 1.0], [1.0, 0.0, 1.0]), ([1.0] * 3, [1.0, float("nan"), 1.0])]
)
def test_unusable_statistics_are_refused(mean, std):
    with pytest.raises(ModelError, match="channel"):
        make_network().set_statistics(mean, std)


def test_a_frozen_backbone_keeps_weights_and_batch_statistics_while_the_head_learns(images):
    network = make_network(freeze_backbone=True).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    network(images).sum().backward()
    optimizer.step()
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"head.weight", "head.bias"}


def test_a_free_backbone_updates_its_batch_statistics(images):
    network = make_network().train()
    network(images)
    assert network.backbone[1].num_batches_tracked == 1


def test_cam_layer_is_the_layer_itself_or_none():
    network = make_network()
    assert network.cam_layer is network.backbone[0]
    assert Network(nn.Flatten(), 12, 2, 3, None).cam_layer is None
