import hashlib

import numpy as np
import pandas as pd
import pytest

from medvision.data.leakage import pixel_hashes
from medvision.data.statistics import channel_statistics, fingerprint, moments, one_coloured
from medvision.data.table import ImageTable
from medvision.tasks import Task


def test_mean_and_deviation_are_numpys():
    images = np.random.default_rng(0).integers(0, 256, (1200, 3, 5, 7), dtype=np.uint8)
    mean, std = channel_statistics(moments(images), 5 * 7)
    np.testing.assert_allclose(mean, images.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, images.std(axis=(0, 2, 3)), rtol=1e-12)
    assert mean.dtype == std.dtype == np.float64


@pytest.mark.parametrize("shape", [(200, 3, 28, 28), (4, 1, 512, 300), (2, 3, 1, 1)])
def test_moments_are_exact(shape):
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    values = images[:, :, ::-1].astype(np.int64)  # not contiguous
    expected = np.stack([values.sum(axis=(2, 3)), (values**2).sum(axis=(2, 3))], axis=-1)
    np.testing.assert_array_equal(moments(images[:, :, ::-1]), expected)


def test_one_can_divide_by_the_deviation_of_a_constant_channel():
    mean, std = channel_statistics(moments(np.full((4, 1, 2, 2), 7, np.uint8)), 4)
    assert mean.tolist() == [7.0]
    assert std.tolist() == [1.0]


@pytest.fixture
def parts():
    frame = pd.DataFrame({"image": [0, 1, 2], "label": [0, 1, 0], "split": ["train", "val", "test"]})
    return {
        "frame": frame,
        "task": Task.classes(("a", "b")),
        "images": np.arange(12, dtype=np.uint8).reshape(3, 1, 2, 2),
    }


def test_fingerprint_changes_with_anything_a_run_sees(parts):
    def of(**changes):
        changed = ImageTable(**{**parts, **changes})
        return fingerprint(changed, pixel_hashes([changed.images[changed.frame["image"]]]), (1, 2, 2))

    frame = parts["frame"]
    variants = [
        of(),
        of(images=parts["images"] + 1),
        of(task=Task.classes(("a", "c"))),
        of(frame=frame.assign(label=[0, 1, 1])),
        of(frame=frame.assign(split=["train", "test", "val"])),
        of(frame=frame.iloc[[0, 2, 1]]),
        of(frame=frame.iloc[:2]),
    ]
    assert len(set(variants)) == len(variants)
    assert of() == variants[0]
    assert len(variants[0]) == len(hashlib.sha256().hexdigest())


def test_fingerprint_knows_nothing_of_images_that_are_set_aside(parts):
    table = ImageTable(**parts)
    hashes = pixel_hashes([table.images])
    frame = pd.concat([table.frame, pd.DataFrame({"image": [0], "label": [1], "split": ["quarantined"]})])
    longer = ImageTable(frame, Task.classes(table.class_names), table.images)
    assert fingerprint(longer, hashes[[0, 1, 2, 0]], (1, 2, 2)) == fingerprint(table, hashes, (1, 2, 2))


def test_pictures_of_one_colour():
    images = np.random.default_rng(0).integers(0, 256, (700, 3, 8, 8), dtype=np.uint8)
    images[3] = 0
    images[4] = 255
    images[5] = np.array([255, 0, 0])[:, None, None]
    images[600] = 0
    images[600, :, 2:6] = 90  # a grey picture between letterbox bars
    images[601] = 0
    images[601, :, 2:6, 2:6] = 90  # a square: bars are on two sides only
    images[602, :, 0, 0] += 1
    assert np.flatnonzero(one_coloured(images, np.arange(700))).tolist() == [3, 4, 5, 600]
    assert one_coloured(images, np.array([600, 2])).tolist() == [True, False]
