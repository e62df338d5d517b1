"""Every preset of conf/augmentation can be built and keeps what its header promises."""

import importlib
import inspect
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from medvision.data.augment import Augmentation

CONF = Path(__file__).parents[2] / "conf"
NAMES = sorted(path.stem for path in (CONF / "augmentation").glob("*.yaml"))


def preset(name):
    with initialize_config_dir(str(CONF), version_base=None):
        return OmegaConf.to_container(compose(overrides=[f"+augmentation={name}"]))["augmentation"]


def build(node):
    if isinstance(node, list):
        return [build(item) for item in node]
    if not isinstance(node, dict):
        return node
    module, _, name = node["_target_"].rpartition(".")
    options = {key: build(value) for key, value in node.items() if key != "_target_"}
    return getattr(importlib.import_module(module), name)(**options)


@pytest.mark.parametrize("name", NAMES)
def test_preset_changes_images_and_lists_every_option(name):
    node = preset(name)
    augmentation = build(node)
    assert list(inspect.signature(type(augmentation)).parameters) == list(node)[1:]
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    changed = augmentation(images, augmentation.draw(0, 0, 4))
    assert changed.shape == images.shape
    assert torch.equal(changed, images) == (name == "none")


def test_options_default_to_off():
    defaults = {name: value.default for name, value in inspect.signature(Augmentation).parameters.items()}
    assert {**defaults, "_target_": "medvision.data.augment.Augmentation"} == preset("none")


def test_article_is_the_article():
    changed = {key: value for key, value in preset("article").items() if value != preset("none")[key]}
    assert changed == {"shear": 0.2, "zoom": 0.2, "horizontal_flip": True, "fill": "nearest"}


def test_medical_neither_mirrors_nor_recolours():
    node = preset("medical")
    assert not any(node[key] for key in ("horizontal_flip", "vertical_flip", "brightness", "contrast", "cutout"))
