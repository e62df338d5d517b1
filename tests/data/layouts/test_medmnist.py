import os
from pathlib import Path

import numpy as np
import pytest

from medvision.data.layouts.medmnist import medmnist
from medvision.errors import DataError


@pytest.fixture
def write(tmp_path):
    """write(colour=..., **changes) -> an .npz in the layout of the collection, two classes, 6 + 2 + 4 images."""

    def make(colour=False, size=8, **changes):
        rng = np.random.default_rng(0)
        arrays = {}
        for split, count in (("train", 6), ("val", 2), ("test", 4)):
            arrays[f"{split}_images"] = rng.integers(0, 256, (count, size, size, 3)[: 3 + colour], dtype=np.uint8)
            arrays[f"{split}_labels"] = (np.arange(count, dtype=np.uint8) % 2)[:, None]
        arrays = {name: array for name, array in (arrays | changes).items() if array is not None}
        np.savez_compressed(tmp_path / "set.npz", **arrays)
        return tmp_path / "set.npz"

    return make


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("size", [8, 20])
def test_images_labels_and_splits(write, colour, size):
    path = write(colour=colour, size=size)
    table = medmnist(path, class_names=["normal", "ill"])
    assert table.class_names == ("normal", "ill")
    assert table.images.shape == (12, 3 if colour else 1, size, size)
    assert table.splits.tolist() == ["train"] * 6 + ["val"] * 2 + ["test"] * 4
    assert table.labels.tolist() == [0, 1] * 6
    with np.load(path) as arrays:
        expected = arrays["test_images"]
    np.testing.assert_array_equal(np.moveaxis(table.images[8:], 1, -1).reshape(expected.shape), expected)


def test_without_names_and_without_some_parts(write):
    table = medmnist(write(val_images=None, val_labels=None))
    assert table.class_names == ("0", "1")
    assert set(table.splits) == {"train", "test"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train_images": None, "train_labels": None}, "has no train_images, only test_images"),
        ({"val_labels": None}, r"val_labels in .* must be integers \(2, 1\), found nothing"),
        ({"val_images": None}, "val_images in .* found nothing"),
        ({"train_labels": np.zeros((6, 14), np.uint8)}, r"train_labels .* found uint8 \(6, 14\)"),  # ChestMNIST
        ({"train_labels": np.zeros((5, 1), np.uint8)}, r"train_labels .* found uint8 \(5, 1\)"),
        ({"train_labels": np.zeros((6, 1))}, "train_labels .* found float64"),
        ({"train_images": np.zeros((6, 8, 8, 8), np.uint8)}, r"train_images .* found uint8 \(6, 8, 8, 8\)"),  # 3D
        ({"train_images": np.zeros((6, 8, 8))}, "train_images .* found float64"),
        ({"train_images": np.zeros((6, 9, 9), np.uint8)}, "images of different shapes"),
        ({"train_labels": np.full((6, 1), 3, np.uint8)}, "without gaps, two or more; found 0, 1, 3"),
        ({"train_labels": np.full((6, 1), -1)}, "without gaps, two or more; found -1, 0, 1"),
        ({"train_images": np.array([{}] * 6)}, "cannot be read"),
    ],
)
def test_files_of_another_layout(write, changes, words):
    with pytest.raises(DataError, match=words) as caught:
        medmnist(write(**changes))
    assert len(str(caught.value).splitlines()) == 2


def test_files_that_cannot_be_read(write, tmp_path):
    path = write()
    with pytest.raises(DataError, match="has 3 names"):
        medmnist(path, class_names=list("abc"))
    whole = path.read_bytes()
    for content in (b"", b"PK\3\4", whole[: len(whole) // 2], b"\x93NUMPY\x01\x00" + whole, b"\x80\x04N."):
        path.write_bytes(content)
        with pytest.raises(DataError, match="cannot be read"):
            medmnist(path)
    with pytest.raises(DataError, match="does not exist"):
        medmnist(tmp_path / "no.npz")


@pytest.mark.real_data
@pytest.mark.skipif("MEDVISION_DATA" not in os.environ, reason="MEDVISION_DATA is not set")
def test_pneumoniamnist():
    table = medmnist(Path(os.environ["MEDVISION_DATA"]) / "pneumoniamnist.npz")
    assert table.images.shape == (5232, 1, 28, 28)
    assert np.unique(table.splits, return_counts=True)[1].tolist() == [624, 4084, 524]
