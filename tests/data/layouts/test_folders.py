import hashlib
import logging
import os
import pickle
import unicodedata
import urllib.request
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
from sklearn.datasets import load_digits
from torchvision import datasets

from medvision.data.layouts import arrays, folders
from medvision.errors import DataError

real_data = pytest.mark.skipif("MEDVISION_DATA" not in os.environ, reason="MEDVISION_DATA is not set")


@pytest.fixture
def offline(monkeypatch):
    def refuse(*_, **__):
        raise URLError("no network in tests")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


def test_digits_are_the_scans_at_full_range():
    table = arrays.digits()
    scans = load_digits()
    assert table.images.shape == (1797, 1, 8, 8)
    assert table.images.max() == 255
    np.testing.assert_array_equal(np.rint(table.images[:, 0] / (255 / 16)), scans.images)
    np.testing.assert_array_equal(table.labels, scans.target)
    assert "split" not in table.frame


def write_idx(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(header + array.tobytes())


@pytest.mark.parametrize(("source", "folder"), [(arrays.mnist, "MNIST"), (arrays.fashion_mnist, "FashionMNIST")])
def test_idx_files_are_read_without_a_download(tmp_path, offline, source, folder):
    rng = np.random.default_rng(0)
    images = {
        part: rng.integers(0, 256, (count, 28, 28), dtype=np.uint8) for part, count in (("train", 5), ("t10k", 3))
    }
    for part, pixels in images.items():
        write_idx(tmp_path / folder / "raw" / f"{part}-images-idx3-ubyte", pixels)
        write_idx(tmp_path / folder / "raw" / f"{part}-labels-idx1-ubyte", np.arange(len(pixels), dtype=np.uint8))
    table = source(tmp_path)
    assert table.frame["split"].tolist() == ["train"] * 5 + ["test"] * 3
    assert table.labels.tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    np.testing.assert_array_equal(table.images[:5, 0], images["train"])
    np.testing.assert_array_equal(table.images[5:, 0], images["t10k"])
    assert len(table.class_names) == 10


@pytest.mark.parametrize(
    ("source", "name", "classes"), [(arrays.cifar10, "CIFAR10", 10), (arrays.cifar100, "CIFAR100", 100)]
)
def test_cifar_pickles_are_read_without_a_download(tmp_path, offline, monkeypatch, source, name, classes):
    dataset = getattr(datasets, name)
    label_key = "labels" if classes == 10 else "fine_labels"
    names = [f"class {number}" for number in range(classes)]
    rng = np.random.default_rng(0)
    images = []

    def write(entry, content):
        # As Python 2 pickled arrays: dtype(..., align=0), which numpy 2.4 warns about.
        data = pickle.dumps(content, protocol=2).replace(b"\x89\x88\x87", b"K\x00K\x01\x87")
        path = tmp_path / dataset.base_folder / entry
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return hashlib.md5(data).hexdigest()

    for attribute in ("train_list", "test_list"):
        listed = []
        for entry, _ in getattr(dataset, attribute):
            images.append(rng.integers(0, 256, (2, 3, 32, 32), dtype=np.uint8))
            content = {"data": images[-1].reshape(2, -1), label_key: [0, classes - 1]}
            listed.append([entry, write(entry, content)])
        monkeypatch.setattr(dataset, attribute, listed)
    meta = {**dataset.meta, "md5": write(dataset.meta["filename"], {dataset.meta["key"]: names})}
    monkeypatch.setattr(dataset, "meta", meta)

    table = source(tmp_path)
    assert table.class_names == tuple(names)
    np.testing.assert_array_equal(table.images, np.concatenate(images))
    assert table.labels.tolist() == [0, classes - 1] * len(images)
    assert table.frame["split"].tolist()[-2:] == ["test", "test"]
    assert (table.frame["split"] == "test").sum() == 2


@pytest.mark.parametrize(
    ("source", "dataset"),
    [
        (arrays.mnist, datasets.MNIST),
        (arrays.fashion_mnist, datasets.FashionMNIST),
        (arrays.cifar10, datasets.CIFAR10),
        (arrays.cifar100, datasets.CIFAR100),
    ],
)
def test_offline_the_message_says_which_files_to_put_where(tmp_path, offline, source, dataset):
    with pytest.raises(DataError) as caught:
        source(tmp_path)
    message = str(caught.value)
    if hasattr(dataset, "resources"):
        folder = f"{dataset.__name__}/raw"
        files = [name.removesuffix(".gz") for name, _ in dataset.resources]
    else:
        folder = dataset.base_folder
        files = [name for name, _ in dataset.train_list + dataset.test_list] + [dataset.meta["filename"]]
    assert f"into {tmp_path / folder}: " in message
    assert all(name in message for name in files)
    assert "MEDVISION_DATA" in message
    assert message.count("\n") == 2


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (("train", "val", "test"), ("train", "val", "test")),
        (("Training", "Validation", "Testing"), ("train", "val", "test")),
        (("TRAIN", "valid", "tst"), ("train", "val", "test")),
        (("tr", "dev"), ("train", "val")),
        (("training", "Test"), ("train", "test")),
    ],
)
def test_split_folders_by_their_usual_names(make_folder, names, splits):
    root = make_folder({f"{folder}/{name}": 2 for folder in names for name in ("cat", "dog")})
    table = folders.image_folder(str(root))
    assert table.class_names == ("cat", "dog")
    for folder, split in zip(names, splits, strict=True):
        rows = table.frame[table.frame["split"] == split]
        assert sorted(rows["image"]) == [f"{folder}/{name}/00{i}.png" for name in ("cat", "dog") for i in (0, 1)]
        for image, label in zip(rows["image"], rows["label"], strict=True):
            assert image.split("/")[1] == table.class_names[label]


def test_flat_and_nested_folders(make_folder):
    root = make_folder({"dog/patient 1/scan": 1, "dog/patient 2": 1, "cat": 2})
    table = folders.image_folder(root)
    assert "split" not in table.frame
    assert table.root == root
    assert table.ids.tolist() == ["cat/000.png", "cat/001.png", "dog/patient 1/scan/000.png", "dog/patient 2/000.png"]
    assert table.labels.tolist() == [0, 0, 1, 1]


def test_clutter_is_ignored_and_other_files_are_named(make_folder, caplog):
    root = make_folder({"cat": 1, "dog": 1, ".ipynb_checkpoints": 1, "cat/.ipynb_checkpoints": 1, "__MACOSX/cat": 1})
    for name in (".DS_Store", "Thumbs.db", "._000.png"):
        (root / "cat" / name).touch()
        (root / name).touch()
    (root / "cat" / "notes.txt").touch()
    with caplog.at_level(logging.WARNING):
        table = folders.image_folder(root)
    assert table.ids.tolist() == ["cat/000.png", "dog/000.png"]
    assert [record.getMessage() for record in caplog.records] == [
        f"Ignored 1 file(s) without an image extension in {root}: {root}/cat/notes.txt ..."
    ]


def test_folders_beside_the_splits_are_named(make_folder, caplog):
    root = make_folder({"train/a": 1, "train/b": 1, "extra/a": 1})
    with caplog.at_level(logging.WARNING):
        assert len(folders.image_folder(root)) == 2
    assert "Ignored beside the split folders" in caplog.text
    assert "extra" in caplog.text


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({}, "has no class folders"),
        ({"train": 0}, "train has no class folders"),
        ({"cat": 1}, "has one class only: cat.*point data.root at it"),
        ({"set/train/cat": 1}, "has one class only: set.*point data.root at it"),
        ({"train/cat": 1}, "train has one class only: cat"),
        ({"cat": 1, "dog": 0}, "class folder.s. without images: dog"),
        ({"cat": 1, "dog/deep/deeper": 0}, "class folder.s. without images: dog"),
        (
            {"train/cat": 1, "train/dog": 1, "test/cat": 1, "test/dog": 0},
            "test has class folder.s. without images: dog",
        ),
        ({"train/a": 1, "train/b": 1, "test/a": 1, "test/b": 1, "test/c": 1}, "test folder .* train lacks: c"),
        ({"train/a": 1, "train/b": 1, "val/a": 1, "val/z": 1}, "val folder .* train lacks: z"),
        ({"train/a": 1, "train/b": 1, "train/c": 1, "test/a": 1, "test/c": 1}, "test folder .* lacks .* train has: b"),
        ({"Cat": 1, "cat": 1}, "differ only in case or unicode form: 'Cat' and 'cat'"),
        ({"train/Cat": 1, "train/b": 1, "test/cat": 1, "test/b": 1}, "differ only in case .* 'Cat' and 'cat'"),
        ({unicodedata.normalize(form, "é"): 1 for form in ("NFC", "NFD")}, r"unicode form: 'e\\u0301' and '\\xe9'"),
        ({"test/a": 1, "val/a": 1}, "split folder.s. test, val but none for training"),
        ({"train/a": 1, "Training/a": 1}, "several folders for the train split: Training, train"),
    ],
)
def test_folders_that_cannot_be_used(make_folder, counts, message):
    with pytest.raises(DataError, match=f"(?s){message}") as caught:
        folders.image_folder(make_folder(counts))
    assert str(caught.value).count("\n") == 1


def test_missing_root_and_root_that_is_a_file(tmp_path):
    with pytest.raises(DataError, match=r"does not exist.\nPoint data.root at"):
        folders.image_folder(tmp_path / "gone")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="is not a folder"):
        folders.image_folder(tmp_path / "file")


def test_links_out_of_the_root_are_refused(make_folder, tmp_path):
    root = make_folder({"cat": 1, "dog": 1})
    (tmp_path / "secret.png").touch()
    (root / "cat" / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(DataError, match=r"link.png is a link that leaves the image folder"):
        folders.image_folder(root)


def test_link_loops_are_entered_once(make_folder, caplog):
    root = make_folder({"cat": 2, "dog": 1})
    (root / "cat" / "loop").symlink_to(root)
    (root / "dog" / "again").symlink_to(root / "dog", target_is_directory=True)
    (root / "dog" / "self.png").symlink_to(root / "dog" / "self.png")
    assert len(folders.image_folder(root)) == 3
    assert "Ignored" in caplog.text


def test_a_link_to_a_training_folder_does_not_become_a_test_folder(make_folder):
    root = make_folder({"train/a": 1, "train/b": 1, "test/a": 1})
    (root / "test" / "b").symlink_to(root / "train" / "b", target_is_directory=True)
    with pytest.raises(DataError, match="without images: b"):
        folders.image_folder(root)


def test_a_root_that_is_a_link_works(make_folder, tmp_path):
    (tmp_path / "link").symlink_to(make_folder({"cat": 1, "dog": 1}))
    assert len(folders.image_folder(tmp_path / "link")) == 2


def test_names_that_are_not_utf8_are_refused(make_folder):
    root = make_folder({"cat": 1, "dog": 1})
    (Path(os.fsdecode(os.fsencode(root) + b"/cat/\xff.png"))).touch()
    with pytest.raises(DataError, match=r"udcff.png' is not valid UTF-8"):
        folders.image_folder(root)


@pytest.mark.real_data
@real_data
def test_mnist_as_it_is():
    table = arrays.mnist(os.environ["MEDVISION_DATA"])
    assert np.bincount(table.labels[:60_000]).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert table.images.shape == (70_000, 1, 28, 28)


@pytest.mark.real_data
@real_data
def test_brain_mri_as_it_is():
    table = folders.image_folder(Path(os.environ["MEDVISION_DATA"]) / "brain_mri")
    assert table.class_names == ("glioma_tumor", "meningioma_tumor", "no_tumor", "pituitary_tumor")
    assert table.frame["split"].value_counts().to_dict() == {"train": 2870, "test": 394}
