import numpy as np
import pytest
import torch

from medvision.inference.bundle import save_bundle
from medvision.models.small_cnn import small_cnn

ARCHITECTURE = {
    "_target_": "medvision.models.small_cnn.small_cnn",
    "channels": [4, 8],
    "hidden": 16,
    "dropout": 0.5,
    "num_classes": 3,
    "in_channels": 1,
    "image_size": [12, 16],
}
DECODE = {"size": [12, 16], "channels": 1, "resize": "letterbox"}
CLASS_NAMES = ("no tumour", "glioma", "ménière")


@pytest.fixture
def make_network():
    def make(seed=0):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = small_cnn(3, 1, (12, 16), channels=[4, 8], hidden=16, dropout=0.5)
        network.set_statistics([100.0 + seed], [50.0])
        return network

    return make


@pytest.fixture
def network(make_network):
    return make_network()


@pytest.fixture
def save(make_network):
    """Saves a bundle of a small network; keyword arguments replace those of save_bundle."""

    def save(directory, seed=0, **changes):
        settings = {
            "architecture": ARCHITECTURE,
            "class_names": CLASS_NAMES,
            "decode": DECODE,
            "fingerprint": "f" * 64,
        }
        return save_bundle(directory, make_network(seed), **settings | changes)

    return save


@pytest.fixture
def bundle(tmp_path, save):
    return save(tmp_path / "model")


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, size=(70, 1, 12, 16), dtype=np.uint8)
