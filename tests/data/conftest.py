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
MakeDicom = Callable[..., bytes]
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


@pytest.fixture(scope="session")
def make_dicom() -> MakeDicom:
    """make_dicom(pixels, BitsStored=12, WindowCenter=40, ...) -> bytes of an uncompressed file.

    Pixels are (H, W) grey, (H, W, 3) colour or (F, H, W) frames; `syntax` is the transfer syntax that it claims.
    """
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

    def make(pixels: np.ndarray, syntax: str = ExplicitVRLittleEndian, **elements: object) -> bytes:
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
