import logging
import os
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvision.data import leakage as guard
from medvision.data.datamodule import ImageDataModule
from medvision.data.layouts import folders
from medvision.data.options import DataOptions
from medvision.data.table import ImageTable
from medvision.errors import DataError
from medvision.tasks import Task


def table_of(pictures, splits, labels=None, groups=None):
    """A table whose image i shows picture number pictures[i], and its hashes."""
    pixels = np.random.default_rng(0).integers(0, 256, (max(pictures) + 1, 1, 4, 4), dtype=np.uint8)[pictures]
    frame = pd.DataFrame({"image": np.arange(len(pictures)), "label": labels or [0] * len(pictures), "split": splits})
    if groups is not None:
        frame["group"] = groups
    table = ImageTable(frame, Task.classes(("a", "b")), pixels)
    return table, guard.pixel_hashes([pixels[:2], pixels[2:]])


def split_after(table, hashes, leakage="drop"):
    return guard.apply(table, guard.inspect(table, hashes), leakage).splits.tolist()


def test_hashes_are_equal_exactly_where_pixels_are():
    images = np.random.default_rng(0).integers(0, 2, (300, 1, 2, 3), dtype=np.uint8)
    hashes = guard.pixel_hashes([images[:100], images[100:100], images[100:]])
    assert hashes.shape == (300,)
    assert hashes.dtype.itemsize == 16
    same = (images[:, None] == images[None]).all(axis=(2, 3, 4))
    np.testing.assert_array_equal(hashes[:, None] == hashes[None], same)
    strided = images[:, :, :, ::-1]
    np.testing.assert_array_equal(guard.pixel_hashes([strided]), guard.pixel_hashes([strided.copy()]))


def test_copies_leave_train_and_val_but_never_test(caplog):
    #                   twice in train   train+test  train+val  val+test
    table, hashes = table_of(
        [0, 0, 1, 1, 2, 2, 3, 3, 4], ["train"] * 3 + ["test", "train", "val", "val", "test", "test"]
    )
    found = guard.inspect(table, hashes)
    assert found.duplicates == [(0, 1), (2, 3), (4, 5), (6, 7)]
    assert (found.across.tolist(), found.copied.tolist(), found.seen.tolist()) == ([2, 4, 6], [3, 7], [3, 7])
    assert found.conflicts == found.groups == []
    with caplog.at_level(logging.WARNING):
        left = guard.apply(table, found, "drop")
    assert left.splits.tolist() == ["train", "train", "dropped", "test", "dropped", "val", "dropped", "test", "test"]
    assert "LEAK: 2 of 3 test images have the same pixels" in caplog.text
    assert "2 in train, 1 in val" in caplog.text
    again = guard.inspect(left, hashes)
    assert again.duplicates == [(0, 1)]
    assert again.summary() == []


def test_groups_in_several_splits():
    groups = ["p1", "p1", "p2", "p2", "p3", None, None]
    table, hashes = table_of(range(7), ["train", "test", "train", "val", "test", "train", "test"], groups=groups)
    found = guard.inspect(table, hashes)
    assert (found.groups, found.divided.tolist(), found.seen.tolist()) == (["p1", "p2"], [0, 2], [1])
    assert split_after(table, hashes) == ["dropped", "test", "dropped", "val", "test", "train", "test"]


def test_contradictory_labels_leave_train():
    table, hashes = table_of([0, 0, 1, 1, 2], ["train"] * 5, labels=[0, 1, 1, 1, 0])
    found = guard.inspect(table, hashes)
    assert found.conflicts == [(0, 1)]
    assert "1 picture(s) bear several labels (0 = 1)" in found.summary()[0]
    assert split_after(table, hashes) == ["dropped", "dropped", "train", "train", "train"]


def test_policies():
    leaking, hashes = table_of([0, 0, 1], ["train", "test", "train"])
    assert split_after(leaking, hashes, "keep") == ["train", "test", "train"]
    with pytest.raises(
        DataError, match=r"The data leaks: 1 of 1 test images .*\nMend the data, or choose data.leakage=drop"
    ):
        split_after(leaking, hashes, "error")
    contradicting, hashes = table_of([0, 0], ["train", "train"], labels=[0, 1])
    for policy in ("error", "keep"):
        with pytest.raises(DataError, match=r"data\.leakage=drop"):
            split_after(contradicting, hashes, policy)
    clean, hashes = table_of([0, 1], ["train", "test"])
    assert guard.apply(clean, guard.inspect(clean, hashes), "error") is clean


def test_images_set_aside_have_no_part():
    table, hashes = table_of([0, 0, 0, 1], ["quarantined", "unused", "test", "train"], labels=[1, 1, 0, 0])
    found = guard.inspect(table, hashes)
    assert found.duplicates == []
    assert found.summary() == []


def test_without_splits_only_the_labels_can_be_wrong():
    table, hashes = table_of([0, 0, 1], ["train"] * 3, labels=[0, 1, 0])
    bare = ImageTable(table.frame.drop(columns="split"), Task.classes(table.class_names), table.images)
    found = guard.inspect(bare, hashes)
    assert (found.conflicts, len(found.across), len(found.seen)) == ([(0, 1)], 0, 0)


@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_after_dropping_nothing_leaks_and_test_is_whole(data):
    n = data.draw(st.integers(2, 40))
    several = partial(st.lists, min_size=n, max_size=n)
    pictures = data.draw(several(st.integers(0, 12)))
    splits = data.draw(several(st.sampled_from(["train", "val", "test"])))
    groups = data.draw(several(st.sampled_from("abcdefgh")))
    labels = data.draw(several(st.integers(0, 1)))
    table, hashes = table_of(pictures, splits, labels, groups)
    left = np.array(split_after(table, hashes))
    assert ((left == "test") == (np.array(splits) == "test")).all()
    rows = pd.DataFrame({"picture": pictures, "group": groups, "label": labels, "split": left})
    rows = rows[rows["split"] != "dropped"]
    assert (rows.groupby("picture")["split"].nunique() <= 1).all()
    assert (rows.groupby("group")["split"].nunique() <= 1).all()
    trained = rows[rows["split"] == "train"]
    assert (trained.groupby("picture")["label"].nunique() <= 1).all()


@pytest.mark.real_data
@pytest.mark.skipif("MEDVISION_DATA" not in os.environ, reason="MEDVISION_DATA is not set")
@pytest.mark.parametrize("leakage", ["drop", "keep"])
def test_brain_mri_leaks(leakage):
    root = Path(os.environ["MEDVISION_DATA"]) / "brain_mri"
    files = {path: path.read_bytes() for path in root.rglob("*.jpg")}
    train = {content for path, content in files.items() if "Training" in path.parts}
    copies = [str(p.relative_to(root)) for p, content in files.items() if "Testing" in p.parts and content in train]
    data = ImageDataModule(partial(folders.image_folder, root), DataOptions(image_size=32, leakage=leakage))
    data.setup()
    assert sorted(data.findings.table.ids[data.findings.identical]) == sorted(copies)
    assert len(copies) == 88
    assert len(data.findings.copied) == 251  # the others were saved once more, without a loss
    assert data.never_seen().sum() == (394 if leakage == "drop" else 394 - 251)
    assert data.class_counts("test").sum() == 394
