import numpy as np
import pandas as pd
import pytest

from medvision.data.table import ImageTable
from medvision.errors import DataError
from medvision.tasks import Task

IMAGES = np.zeros((2, 1, 4, 4), np.uint8)


def frame(**columns):
    return pd.DataFrame({"image": [0, 1], "label": [0, 1], **columns})


def test_columns_as_arrays():
    table = ImageTable(
        frame(group=["p1", None], split=["train", "test"], age=[70, 8]), Task.classes(("a", "b")), IMAGES
    )
    assert len(table) == 2
    assert table.ids.tolist() == ["0", "1"]
    assert table.labels.dtype == np.int64
    assert table.groups.tolist() == ["p1", "1"]  # no group: one of its own
    assert {name: values.tolist() for name, values in table.metadata.items()} == {"age": ["70", "8"]}
    assert all(column.dtype.kind == "U" for column in (table.ids, table.groups, table.metadata["age"]))


def test_without_groups_every_image_is_its_own():
    assert ImageTable(frame(), Task.classes(("a", "b")), IMAGES).groups.tolist() == ["0", "1"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (lambda: ImageTable(pd.DataFrame({"image": [0]}), Task.classes(("a", "b")), IMAGES), "lacks the column"),
        (lambda: ImageTable(frame().iloc[:0], Task.classes(("a", "b")), IMAGES), "is empty"),
        (lambda: ImageTable(frame(), Task.classes(("a", "b"))), "not both"),
        (lambda: ImageTable(frame(), Task.classes(("a", "a")), IMAGES), "must differ"),
        (lambda: ImageTable(frame(), Task.classes(("a",)), IMAGES), "two or more"),
        (lambda: ImageTable(frame(label=[0, 2]), Task.classes(("a", "b")), IMAGES), "from 0 to 1"),
        (lambda: ImageTable(frame(label=[0.0, np.nan]), Task.classes(("a", "b")), IMAGES), "must be integers"),
        (lambda: ImageTable(frame(split=["train", "dev"]), Task.classes(("a", "b")), IMAGES), r"found \['dev'\]"),
        (lambda: ImageTable(frame(image=[0, 2]), Task.classes(("a", "b")), IMAGES), "index the 2 images"),
        (lambda: ImageTable(frame(), Task.classes(("a", "b")), IMAGES.astype(np.float32)), "found float32"),
        (lambda: ImageTable(frame(), Task.classes(("a", "b")), IMAGES[:, 0]), "N, C, H, W"),
    ],
)
def test_refuses_what_cannot_be_right(table, message):
    with pytest.raises(DataError, match=message):
        table()
