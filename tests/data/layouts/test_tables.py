import csv
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medvision.data.layouts.tables import manifest
from medvision.errors import DataError


@pytest.fixture
def write(tmp_path):
    """write(rows, header) -> cases.csv beside a folder `images` with a.png to d.png."""
    (tmp_path / "images").mkdir()
    for name in ("a", "b", "c", "d", "é 1", "line\nbreak"):
        Image.fromarray(np.full((4, 4), 7, np.uint8)).save(tmp_path / "images" / f"{name}.png")

    def make(rows, header="image,label", name="cases.csv", delimiter=",", encoding="utf-8"):
        with (tmp_path / name).open("w", newline="", encoding=encoding) as file:
            csv.writer(file, delimiter=delimiter).writerows([header.split(","), *rows])
        return tmp_path / name

    return make


ROWS = [["images/a.png", "tumour"], ["images/b.png", "healthy"], ["images/c.png", "healthy"]]


def failure(path, **options):
    with pytest.raises(DataError) as caught:
        manifest(path, **options)
    assert len(str(caught.value).splitlines()) <= 3
    return str(caught.value)


def test_names_are_sorted_and_paths_are_relative_to_the_file(write):
    table = manifest(write(ROWS))
    assert table.class_names == ("healthy", "tumour")
    assert table.labels.tolist() == [1, 0, 0]
    assert table.ids.tolist() == ["images/a.png", "images/b.png", "images/c.png"]
    assert all((table.root / name).is_file() for name in table.ids)
    assert set(table.frame.columns) == {"image", "label"}


def test_every_column_travels(write):
    rows = [
        ["images/a.png", "tumour", "p1", "Training", "f", "70"],
        ["images/b.png", "healthy", "", "test", "", "NA"],
        ["images/c.png", "healthy", "p1", "VALID", "m", "8"],
    ]
    table = manifest(write(rows, "Image, LABEL,group,split,Sex,age"))
    assert table.frame["split"].tolist() == ["train", "test", "val"]
    assert table.groups.tolist() == ["p1", "images/b.png", "p1"]
    assert {name: column.tolist() for name, column in table.metadata.items()} == {
        "Sex": ["f", "", "m"],
        "age": ["70", "", "8"],
    }


def test_labels_that_are_numbers(write):
    path = write([["images/a.png", "1"], ["images/b.png", "0"], ["images/c.png", "1.0"]])
    assert manifest(path).class_names == ("0", "1")
    assert manifest(path).labels.tolist() == [1, 0, 1]
    assert manifest(path, class_names=["healthy", "tumour"]).class_names == ("healthy", "tumour")
    assert "has 3 names, but" in failure(path, class_names=["a", "b", "c"])
    assert "not 0..K-1: 1, 2.\nNumber the classes" in failure(write([["images/a.png", "1"], ["images/b.png", "2"]]))
    assert "line 2" in failure(write(ROWS), class_names=["a", "b"])


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ({"delimiter": ";"}, ROWS),
        ({"delimiter": "\t"}, ROWS),
        ({"encoding": "utf-8-sig"}, ROWS),
        ({}, [["images/é 1.png", "tumour, large"], ["images/line\nbreak.png", 'so-called "healthy"']]),
        ({"header": ",image,label"}, [["0", *ROWS[0]], ["1", *ROWS[1]]]),  # with the row numbers of pandas
        ({}, [[f"./images/../{image}", label] for image, label in ROWS]),
    ],
    ids=["semicolon", "tab", "byte order mark", "odd names", "row numbers", "dotted paths"],
)
def test_as_people_write_csv(write, options, rows):
    table = manifest(write(rows, **options))
    assert len(table) == len(rows)
    assert all((table.root / name).is_file() for name in table.ids)
    assert table.metadata == {}
    assert {table.class_names[label] for label in table.labels} == {row[-1] for row in rows}


def test_absolute_paths_are_taken_as_they_are(write, tmp_path):
    absolute = [[str(tmp_path / image), label] for image, label in ROWS]
    table = manifest(shutil.move(write(absolute), tmp_path / "images" / "cases.csv"))
    assert table.ids.tolist() == [row[0] for row in absolute]


def test_every_bad_row_is_listed(write):
    rows = [
        ["images/a.png", "tumour", "train"],  # line 2
        ["images/missing.png", "healthy", "train"],
        ["images/b.png", "", "train"],
        ["images/b.png", "nan", "train"],  # listed twice as well
        ["images/c.png", "tumour", "elsewhere"],
        ["images/d.png", "tumour", "train"],
        ["./images/d.png", "healthy", "test"],
        ["", "healthy", "train"],
        ["images/é 1.png", "healthy", "test"],
        ["images/é 1.png", "healthy", "test"],
        ["images/gone.png", "healthy", "test"],
    ]
    message = failure(write(rows, "image,label,split"))
    assert message.startswith("10 of 11 rows of ")
    for words in (
        "no image: 9 (empty)",
        "no label: 4-5 (images/b.png)",
        "a split that is none of calibration, test, train, val: 6 (images/c.png)",
        "another label in another row: 4-5, 7-8 (images/b.png)",
        "several rows: 10-11 (images/é 1.png)",
        "does not exist: 3, 12 (images/missing.png)",
    ):
        assert words in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has the columns (none)"),
        ("image,label\n", "no rows below its header"),
        ("path,class\nimages/a.png,x\n", "has the columns path, class.\nExpected image,label"),
        ("image,label,Label\nimages/a.png,x,y\n", "of the same name: label"),
        ("image,label\nimages/a.png,x,y\nimages/b.png\n", "2 row(s) of .*: line 2-3"),
        ('image,label\nimages/a.png,"x\n', "cannot be read: unexpected end of data"),
        ("image,label\nimages/a.png,x\nimages/b.png,x\n", "one class only: x"),
        ("image,label\nimages/a.png,Cat\nimages/b.png,cat\n", "differ only in case or unicode form"),
        ("image,label\nimages/a.png,caf\u00e9\nimages/b.png,cafe\u0301\n", "differ only in case or unicode form"),
        ("image,label\nimages/a.png\0,x\nimages/b.png,y\n", "does not exist: 2|cannot be read"),
    ],
)
def test_tables_that_cannot_be_used(write, tmp_path, text, words):
    import re

    path = tmp_path / "bad.csv"
    path.write_text(text)
    assert re.search(words.replace("(s)", r"\(s\)").replace("(none)", r"\(none\)"), failure(path), re.DOTALL)


def test_other_encodings_and_missing_files(write, tmp_path):
    assert "it is not UTF-8" in failure(write([["images/é 1.png", "é"], *ROWS], encoding="latin-1"))
    assert "does not exist.\nPoint data.root" in failure(tmp_path / "no.csv")


def test_parquet(write, tmp_path):
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame({"image": [row[0] for row in ROWS], "label": [1, 0, 0], "age": [70, None, 8]})
    frame["age"] = frame["age"].astype("Int64")
    write(ROWS)
    frame.to_parquet(tmp_path / "cases.parquet")
    table = manifest(tmp_path / "cases.parquet")
    assert table.labels.tolist() == [1, 0, 0]
    assert table.metadata["age"].tolist() == ["70", "", "8"]
    frame.assign(label=["x", None, "y"]).to_parquet(tmp_path / "cases.parquet")
    message = failure(tmp_path / "cases.parquet")
    assert "no label: 2 (images/b.png)" in message
    assert "rows of the file" in message
    (tmp_path / "cases.parquet").write_bytes(b"PAR1 but not really")
    assert "cannot be read" in failure(tmp_path / "cases.parquet")


def dicom_files(folder: Path, patients: list[str]) -> list[str]:
    """Copies of a small CT, each under a patient's ID of its own."""
    pydicom = pytest.importorskip("pydicom")
    from pydicom.data import get_testdata_file

    original = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    for number, patient in enumerate(patients):
        original.PatientID = patient
        original.save_as(folder / f"{number}.dcm")
    return [f"{number}.dcm" for number in range(len(patients))]


def test_dicom_files_are_grouped_by_patient(tmp_path):
    names = dicom_files(tmp_path, ["anna", "anna", "bert"])
    pd.DataFrame({"image": names, "label": ["x", "y", "y"]}).to_csv(tmp_path / "cases.csv", index=False)
    groups = manifest(tmp_path / "cases.csv").groups.tolist()
    assert groups[0] == groups[1] != groups[2]
    assert not {"anna", "bert"} & set(groups)
    pd.DataFrame({"image": names, "label": ["x", "y", "y"], "group": ["1", "2", "2"]}).to_csv(
        tmp_path / "cases.csv", index=False
    )
    assert manifest(tmp_path / "cases.csv").groups.tolist() == ["1", "2", "2"]


def test_dicom_files_in_folders_with_and_without_extension(tmp_path):
    from medvision.data.layouts.folders import image_folder

    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        dicom_files(tmp_path / folder, ["anna", "bert"])
        (tmp_path / folder / "0.dcm").rename(tmp_path / folder / "IM0001")
        (tmp_path / folder / "notes").write_text("no picture")
    table = image_folder(tmp_path)
    assert table.ids.tolist() == ["x/1.dcm", "x/IM0001", "y/1.dcm", "y/IM0001"]
    assert table.groups[0] == table.groups[2] != table.groups[1] == table.groups[3]
