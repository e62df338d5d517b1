import hashlib
import io
import json
import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from medvision.cli.entry import run_command
from medvision.config.conf import CONF_DIR
from medvision.data.table import ImageTable
from medvision.inference.bundle import save_bundle
from medvision.inference.decision import Decision
from medvision.metrics.operating_point import OperatingPoint
from medvision.metrics.predictions import Predictions
from medvision.models.small_cnn import small_cnn
from medvision.tasks import Task

Ending = namedtuple("Ending", "code out err")

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
DECISION = Decision(
    temperature=1.7,
    operating_point=OperatingPoint(("glioma",), 0.3, "youden"),
    conformal={"coverage": 0.9, "quantile": 0.8},
)
CLASS_NAMES = ("no tumour", "glioma", "ménière")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path_factory, monkeypatch):
    """Every test works in an empty folder, so that nothing depends on the checkout and nothing is left in it."""
    folder = tmp_path_factory.mktemp("cwd")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MEDVISION_CACHE", str(tmp_path_factory.mktemp("cache")))
    return folder


@pytest.fixture
def train(monkeypatch, capfd):
    """Run the train command in this process: `train("experiment=digits_cnn").code`."""

    def run(*overrides):
        from medvision.pipeline.fit import fit

        monkeypatch.setattr(sys, "argv", ["medvision.train", *map(str, overrides)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ending:
            run_command("train", fit)
        return Ending(ending.value.code, *capfd.readouterr())

    return run


@pytest.fixture
def start():
    """Start the train command in a process of its own: `start("experiment=digits_cnn")` is a Popen."""
    running = []

    def run(*overrides):
        command = [sys.executable, "-m", "medvision.train", *map(str, overrides)]
        environment = os.environ | {"COLUMNS": "200"}
        running.append(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
        )
        return running[-1]

    yield run
    for process in running:
        process.kill()
        process.communicate()


@pytest.fixture
def write_folder():
    """Write an image folder: `write_folder(root, {"train/cat": 3})` makes three PNG files of class cat."""

    def write(root, counts):
        generator = np.random.default_rng(0)
        for number, (folder, count) in enumerate(counts.items()):
            (Path(root) / folder).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                image = generator.integers(0, 100, (16, 16, 3), dtype=np.uint8)
                image[:, :, number % 3] += 100
                cv2.imwrite(str(Path(root) / folder / f"{index:03}.png"), image)
        return Path(root)

    return write


@pytest.fixture(scope="session")
def rewrite():
    """Edit bundle.json as somebody would who knows how to make it consistent again: `rewrite(bundle, task=None)`."""

    def write(bundle, **changes):
        file = Path(bundle) / "bundle.json"
        manifest = {key: one for key, one in json.loads(file.read_text("utf-8")).items() if key != "sha256"} | changes
        digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
        file.write_text(json.dumps(manifest | {"sha256": digest}), encoding="utf-8")

    return write


@pytest.fixture
def make_predictions():
    """Builds predictions of a noisy classifier; `spread` 0 makes it useless, large values perfect."""

    def make(n=200, k=3, *, spread=1.5, seed=0, decimals=None, groups=None, targets=None):
        rng = np.random.default_rng(seed)
        targets = rng.integers(0, k, n) if targets is None else np.asarray(targets)
        logits = rng.normal(size=(len(targets), k))
        logits[np.arange(len(targets)), targets] += spread
        return Predictions.from_logits(
            ids=[f"image {i}" for i in range(len(targets))],
            targets=targets,
            # Few decimals make equal scores, which ranks must treat as ties.
            logits=logits if decimals is None else logits.round(decimals),
            class_names=[f"class {c}" for c in range(k)],
            groups=groups,
        )

    return make


@pytest.fixture(scope="session")
def picture():
    """A smooth random RGB image, 64 x 96."""
    coarse = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, (96, 64), interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="session")
def encode():
    """encode(pixels or PIL image, format, **options) , written by PIL."""

    def write(image: np.ndarray | Image.Image, kind: str, **options: object):
        buffer = io.BytesIO()
        image = image if isinstance(image, Image.Image) else Image.fromarray(image)
        image.save(buffer, kind, **options)
        return buffer.getvalue()

    return write


@pytest.fixture(scope="session")
def make_dicom():
    """make_dicom(pixels, BitsStored=12, WindowCenter=40, ...)  of an uncompressed file.

    Pixels are (H, W) grey, (H, W, 3) colour or (F, H, W) frames; `syntax` is the transfer syntax that it claims.
    """
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

    def make(pixels: np.ndarray, syntax: str = ExplicitVRLittleEndian, **elements: object):
        colour = pixels.ndim == 3 and pixels.shape[2] == 3
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
        data.Rows, data.Columns = pixels.shape[:2] if colour else pixels.shape[-2:]
        if pixels.ndim == 3 and not colour:
            data.NumberOfFrames = len(pixels)
        data.SamplesPerPixel = 3 if colour else 1
        if colour:
            data.PlanarConfiguration = 0
        data.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
        data.BitsAllocated = data.BitsStored = 8 * pixels.itemsize
        data.PixelRepresentation = int(pixels.dtype.kind == "i")
        for keyword, value in elements.items():
            setattr(data, keyword, value)
        data.HighBit = data.BitsStored - 1
        content = pixels.tobytes()
        data.PixelData = content + bytes(len(content) % 2)
        data["PixelData"].VR = "OB" if pixels.itemsize == 1 else "OW"
        buffer = io.BytesIO()
        data.save_as(buffer, enforce_file_format=True)
        plain, claimed = ExplicitVRLittleEndian.encode(), syntax.encode()
        whole = buffer.getvalue()
        if claimed == plain:
            return whole
        place = whole.index(b"\x02\x00\x10\x00UI")  # the element that names the transfer syntax
        claimed += bytes(len(claimed) % 2)
        end = place + 8 + int.from_bytes(whole[place + 6 : place + 8], "little")
        return whole[:place] + b"\x02\x00\x10\x00UI" + len(claimed).to_bytes(2, "little") + claimed + whole[end:]

    return make


@pytest.fixture
def make_folder(tmp_path: Path):
    """make_folder({"train/cat": 3, ...}) -> root with so many 6 x 5 PNG files in each folder, all different."""

    def make(counts: dict[str, int]):
        rng = np.random.default_rng(0)
        root = tmp_path / "images"
        root.mkdir(exist_ok=True)
        for name, count in counts.items():
            folder = root / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)).save(folder / f"{number:03}.png")
        return root

    return make


@pytest.fixture
def small_table():
    """60 grey 4 x 4 images of three classes, 20 each, without splits; image i is filled with i."""
    images = np.broadcast_to(np.arange(60, dtype=np.uint8)[:, None, None, None], (60, 1, 4, 4)).copy()
    frame = pd.DataFrame({"image": np.arange(60), "label": np.arange(60) % 3})
    return ImageTable(frame, Task.classes(("a", "b", "c")), images)


@pytest.fixture(scope="session")
def classical_node():
    """classical_node("svm", pca=5) -> the node `model` of conf/model/svm.yaml, pixels as features, values replaced."""

    def node(name, features=None, **changes):
        found = yaml.safe_load((CONF_DIR / "model" / f"{name}.yaml").read_text(encoding="utf-8"))
        found.pop("defaults")
        estimator = found["estimator"] | changes.pop("estimator", {})
        features = features or {"_target_": "medvision.models.features.Pixels"}
        return found | {"features": features, "estimator": estimator} | changes

    return node


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
            "task": Task.classes(CLASS_NAMES),
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
    from medvision.inference.export import OnnxFile
    from medvision.inference.predictor import Predictor

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = small_cnn(3, 1, (12, 16), channels=[4, 8], hidden=16, dropout=0.5)
    network.set_statistics([100.0], [50.0])
    facts = {
        "medvision": "0.0.0",
        "task": Task.classes(CLASS_NAMES).to_json(),
        "decode": DECODE,
        **DECISION.to_json(),
    }
    file = OnnxFile(Predictor(network, Task.classes(CLASS_NAMES), decode=DECODE, decision=DECISION))
    return file.content(facts), network


@pytest.fixture
def onnx_path(onnx_content, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_content[0])
    return path
