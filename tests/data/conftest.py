"""Images and folders of images for the tests of the data room."""

import io
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medvision.data.table import ImageTable

EncodeImage = Callable[..., bytes]
MakeFolder = Callable[[dict[str, int]], Path]


@pytest.fixture(scope="session")
def picture() -> np.ndarray:
    """A smooth random RGB image, 64 x 96."""
    coarse = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, (96, 64), interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="session")
def encode() -> EncodeImage:
    """encode(pixels or PIL image, format, **options) -> bytes, written by PIL."""

    def write(image: np.ndarray | Image.Image, kind: str, **options: object) -> bytes:
        buffer = io.BytesIO()
        image = image if isinstance(image, Image.Image) else Image.fromarray(image)
        image.save(buffer, kind, **options)
        return buffer.getvalue()

    return write


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """make_folder({"train/cat": 3, ...}) -> root with so many 6 x 5 PNG files in each folder, all different."""

    def make(counts: dict[str, int]) -> Path:
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
def small_table() -> ImageTable:
    """60 grey 4 x 4 images of three classes, 20 each, without splits; image i is filled with i."""
    images = np.broadcast_to(np.arange(60, dtype=np.uint8)[:, None, None, None], (60, 1, 4, 4)).copy()
    frame = pd.DataFrame({"image": np.arange(60), "label": np.arange(60) % 3})
    return ImageTable(frame, ("a", "b", "c"), images)
