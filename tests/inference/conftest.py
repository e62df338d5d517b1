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


@pytest.fixture(scope="session")
def onnx_content():
    """An exported ONNX file of a small network, and that network; temperature 1.7."""
    pytest.importorskip("onnxscript")
    from medvision.inference.exported import OnnxFile
    from medvision.inference.predictor import Predictor

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = small_cnn(3, 1, (12, 16), channels=[4, 8], hidden=16, dropout=0.5)
    network.set_statistics([100.0], [50.0])
    facts = {
        "medvision": "0.0.0",
        "class_names": list(CLASS_NAMES),
        "decode": DECODE,
        "temperature": 1.7,
        "operating_point": {"positive": ["glioma"], "threshold": 0.3, "rule": "youden", "target": None},
        "conformal": {"coverage": 0.9, "quantile": 0.8},
        "gate": None,
    }
    file = OnnxFile(Predictor(network, CLASS_NAMES, decode=DECODE, temperature=1.7))
    return file.content(facts), network


@pytest.fixture
def onnx_path(onnx_content, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_content[0])
    return path
