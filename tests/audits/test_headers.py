import numpy as np
import pandas as pd
import pytest

from medvision.audits.data_audit import folders, read_headers
from medvision.data.table import ImageTable
from medvision.tasks import Task


def test_headers_of_every_kind(tmp_path, picture, encode, make_dicom):
    from PIL import Image

    sideways = Image.Exif()
    sideways[0x0112] = 6
    files = {
        "colour.jpg": (encode(picture, "JPEG"), 64, 96, "JPEG", "RGB"),
        "sideways.jpg": (encode(picture, "JPEG", exif=sideways), 96, 64, "JPEG", "RGB"),
        "grey.png": (encode(picture[..., 0], "PNG"), 64, 96, "PNG", "L"),
        "wrong.jpg": (encode(picture, "BMP"), 64, 96, "BMP", "RGB"),
        "scan.dcm": (make_dicom(picture[..., 0].copy()), 64, 96, "DICOM", "MONOCHROME2"),
    }
    for name, (data, *_) in files.items():
        (tmp_path / name).write_bytes(data)
    headers = read_headers([tmp_path / name for name in files])
    expected = [(height, width, kind, mode, len(data)) for data, height, width, kind, mode in files.values()]
    pd.testing.assert_frame_equal(headers, pd.DataFrame(expected, columns=headers.columns), check_dtype=False)


@pytest.mark.parametrize(
    ("paths", "splits", "expected"),
    [
        (["train/cat/a.png", "train/dog/b.png"], None, ["train", "train"]),
        (["Training/cat/a.png", "Training/dog/b.png", "Testing/cat/c.png"], ["train", "train", "test"], ["", "", ""]),
        (["cat/siteA/a.png", "dog/siteB/b.png", "cat/c.png"], None, ["siteA", "siteB", ""]),
        (["siteA/a.png", "siteB/b.png", "siteB/c.png"], ["train", "train", "test"], ["siteA", "siteB", "siteB"]),
        (["a.png", "b.png"], None, ["", ""]),
    ],
)
def test_folders_without_classes_and_splits(tmp_path, paths, splits, expected):
    frame = pd.DataFrame({"image": paths, "label": np.arange(len(paths)) % 2})
    if splits:
        frame["split"] = splits
    table = ImageTable(frame, Task.classes(("cat", "dog")), root=tmp_path)
    assert folders(table, np.arange(len(paths))) == expected
