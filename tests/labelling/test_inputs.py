import logging
import os

import numpy as np
import pytest
from PIL import Image

from medvision.errors import DataError
from medvision.labelling.inputs import find_images

NAMES = ("cat", "dog")


@pytest.fixture
def folder(tmp_path):
    for name in ("b.png", "deep/er/a.JPG", ".hidden.png", "deep/notes.txt", "deep/Thumbs.db"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() in (".png", ".jpg"):
            Image.fromarray(np.zeros((4, 4), np.uint8)).save(path)
        else:
            path.write_text("hello")
    return tmp_path / "in"


def names(found, folder):
    return [os.path.relpath(path, folder) for path in found.paths]


def test_a_folder_is_searched_in_any_depth(folder, caplog):
    with caplog.at_level(logging.WARNING):
        found = find_images(folder, NAMES)
    assert names(found, folder) == ["b.png", "deep/er/a.JPG"]
    assert found.truths is None
    assert "Ignored 1 file(s)" in caplog.text


def test_dicom_files_count_by_content(folder):
    (folder / "IM0001").write_bytes(bytes(128) + b"DICM")
    assert "IM0001" in names(find_images(folder, NAMES), folder)


def test_links_are_followed_once(folder):
    (folder / "deep" / "loop").symlink_to(folder)
    (folder / "deep" / "again").symlink_to(folder / "deep" / "er")
    assert len(find_images(folder, NAMES).paths) == 2


def test_a_file_a_pattern_and_a_relative_folder(folder, monkeypatch):
    assert names(find_images(folder / "b.png", NAMES), folder) == ["b.png"]
    assert names(find_images(f"{folder}/**/*.JPG", NAMES), folder) == ["deep/er/a.JPG"]
    monkeypatch.chdir(folder.parent)
    assert names(find_images("in", NAMES), folder) == ["b.png", "deep/er/a.JPG"]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_csv_names_paths_relative_to_it(tmp_path, separator):
    odd = 'we"ird, na\nme.png'
    quoted = '"we""ird, na\nme.png"'
    text = f"Image{separator}sex\n{quoted}{separator}f\n/abs/b.png{separator}m\n"
    (tmp_path / "cases.csv").write_text(text, encoding="utf-8-sig")
    found = find_images(tmp_path / "cases.csv", NAMES)
    assert found.paths == (str(tmp_path / odd), "/abs/b.png")
    assert found.truths is None


@pytest.mark.parametrize(
    ("labels", "truths"), [(("cat", "", "dog"), ("cat", "", "dog")), (("0", "1", ""), ("cat", "dog", ""))]
)
def test_labels_of_a_csv_are_truths(tmp_path, labels, truths):
    rows = "".join(f"{number}.png,{label}\n" for number, label in enumerate(labels))
    (tmp_path / "cases.csv").write_text("image,label\n" + rows)
    assert find_images(tmp_path / "cases.csv", NAMES).truths == truths


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "image,label\na.png,cow\nb.png,cat\n",
            "not the classes of the model.\nOnly in the file: cow; the model has cat, dog.",
        ),
        ("image,label\na.png,7\n", "Only in the file: 7"),
        ("path,label\na.png,cat\n", "Expected a column image"),
        ("image\n", "no rows below its header"),
        ("image,label\na.png,cat\n,dog\n", "no image on 1 row(s), the first on line 3"),
        ("", "has the columns (none)"),
    ],
)
def test_a_csv_that_cannot_be_used_is_refused(tmp_path, text, message):
    (tmp_path / "cases.csv").write_text(text)
    with pytest.raises(DataError) as error:
        find_images(tmp_path / "cases.csv", NAMES)
    assert message in str(error.value)


def test_a_csv_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "cases.csv").write_bytes(b"image\n\xff\xfe.png\n")
    with pytest.raises(DataError, match="Save it as CSV in UTF-8"):
        find_images(tmp_path / "cases.csv", NAMES)


def test_a_folder_without_images_and_a_path_to_nothing_are_refused(tmp_path):
    with pytest.raises(DataError, match="holds no images"):
        find_images(tmp_path, NAMES)
    with pytest.raises(DataError, match="no such file or folder, and no file matches"):
        find_images(tmp_path / "nothing*.png", NAMES)


def test_the_fingerprint_notices_every_change(folder):
    before = find_images(folder, NAMES).fingerprint()
    assert find_images(folder, NAMES).fingerprint() == before
    os.utime(folder / "b.png", (1, 1))
    touched = find_images(folder, NAMES).fingerprint()
    (folder / "b.png").rename(folder / "c.png")
    assert len({before, touched, find_images(folder, NAMES).fingerprint()}) == 3
