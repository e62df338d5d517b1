import hashlib

import numpy as np
import pandas as pd
import pytest

from medvision.data.statistics import channel_statistics, fingerprint
from medvision.data.table import ImageTable


def test_mean_and_deviation_are_numpys():
    images = np.random.default_rng(0).integers(0, 256, (1200, 3, 5, 7), dtype=np.uint8)
    rows = np.random.default_rng(1).permutation(1200)[:1100]  # more than one chunk
    mean, std = channel_statistics(images, rows)
    np.testing.assert_allclose(mean, images[rows].mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, images[rows].std(axis=(0, 2, 3)), rtol=1e-12)
    assert mean.dtype == std.dtype == np.float64


def test_one_can_divide_by_the_deviation_of_a_constant_channel():
    mean, std = channel_statistics(np.full((4, 1, 2, 2), 7, np.uint8), np.arange(4))
    assert mean.tolist() == [7.0]
    assert std.tolist() == [1.0]


@pytest.fixture
def parts():
    frame = pd.DataFrame({"image": [0, 1, 2], "label": [0, 1, 0], "split": ["train", "val", "test"]})
    return {"frame": frame, "class_names": ("a", "b"), "images": np.arange(12, dtype=np.uint8).reshape(3, 1, 2, 2)}


def test_fingerprint_changes_with_anything_a_run_sees(parts):
    def of(**changes):
        changed = ImageTable(**{**parts, **changes})
        return fingerprint(changed, changed.images, changed.frame["image"].to_numpy())

    frame = parts["frame"]
    variants = [
        of(),
        of(images=parts["images"] + 1),
        of(class_names=("a", "c")),
        of(frame=frame.assign(label=[0, 1, 1])),
        of(frame=frame.assign(split=["train", "test", "val"])),
        of(frame=frame.iloc[[0, 2, 1]]),
        of(frame=frame.iloc[:2]),
    ]
    assert len(set(variants)) == len(variants)
    assert of() == variants[0]
    assert len(variants[0]) == len(hashlib.sha256().hexdigest())


def test_fingerprint_does_not_depend_on_where_the_pixels_lie(parts):
    table = ImageTable(**parts)
    spread = np.zeros((6, 1, 2, 2), np.uint8)
    spread[[5, 1, 3]] = parts["images"]
    assert fingerprint(table, spread, np.array([5, 1, 3])) == fingerprint(table, parts["images"], np.arange(3))
