"""Every file of conf/model that names a network builds one that keeps the promises all networks make."""

import importlib
import inspect
from pathlib import Path

import pytest
import torch
import yaml

CONF = Path(__file__).parents[2] / "conf" / "model"
FILES = [file for file in sorted(CONF.glob("*.yaml")) if "medvision.models.classical." not in file.read_text()]


def builder_and_options(path):
    options = yaml.safe_load(path.read_text(encoding="utf-8"))
    module, _, function = options.pop("_target_").rpartition(".")
    return getattr(importlib.import_module(module), function), options


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_option_is_listed(path):
    builder, options = builder_and_options(path)
    assert set(list(inspect.signature(builder).parameters)[3:]) == set(options)


@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_network_takes_one_raw_image_and_offers_embedding_and_cam_layer(path, in_channels):
    builder, options = builder_and_options(path)
    network = builder(5, in_channels, (32, 32), **options).eval()
    image = torch.randint(0, 256, (1, in_channels, 32, 32), dtype=torch.uint8)
    activations = []
    network.cam_layer.register_forward_hook(lambda _module, _inputs, out: activations.append(out))
    with torch.no_grad():
        logits = network(image)
        embedding = network.embed(image.float())
    assert logits.shape == (1, 5)
    assert embedding.shape == (1, network.head.in_features)
    assert activations[0].ndim == 4
    torch.testing.assert_close(network.head(embedding), logits)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_freezing_leaves_the_head_to_train(path):
    builder, options = builder_and_options(path)
    network = builder(5, 3, (32, 32), **{**options, "freeze_backbone": True})
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert trained == {"head.weight", "head.bias"}
    assert not any(module.training for module in network.train().backbone.modules())
