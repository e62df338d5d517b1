import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from medvision.audits.near_duplicates import near_duplicates, perceptual_hashes, thumbnails
from medvision.data.decode import decode
from medvision.data.layouts import arrays
from medvision.data.resize import conform_all

COUNT = 24
SHARED = Path(os.environ.get("MEDVISION_DATA", "data")).absolute()


def jpeg(picture: np.ndarray, quality: int) -> bytes:
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def png(picture: np.ndarray) -> bytes:
    return cv2.imencode(".png", picture)[1].tobytes()


def scaled(picture: np.ndarray, height: float, width: float) -> np.ndarray:
    size = round(picture.shape[1] * width), round(picture.shape[0] * height)
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if height < 1 else cv2.INTER_CUBIC)


COPIES = {
    "re-encoded, quality 90": lambda picture: jpeg(picture, 90),
    "re-encoded, quality 30": lambda picture: jpeg(picture, 30),
    "halved": lambda picture: png(scaled(picture, 0.5, 0.5)),
    "odd size, re-encoded": lambda picture: jpeg(scaled(picture, 0.77, 0.77), 75),
    "doubled": lambda picture: png(scaled(picture, 2, 2)),
    "stretched to another shape": lambda picture: png(scaled(picture, 0.9, 0.6)),
    "brightened": lambda picture: png(np.clip(picture * 1.1 + 5.0, 0, 255).astype(np.uint8)),
    "mirrored": lambda picture: png(picture[:, ::-1]),
    "mirrored, smaller, re-encoded": lambda picture: jpeg(np.ascontiguousarray(scaled(picture, 0.8, 0.8)[:, ::-1]), 75),
}


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    """Different pictures of different shapes: large soft forms with grain."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(COUNT):
        coarse = rng.integers(0, 230, (7, 9, 3), dtype=np.uint8)
        soft = cv2.resize(coarse, (121 + number, 90 + 2 * number), interpolation=cv2.INTER_CUBIC)
        made.append(soft + rng.integers(0, 25, soft.shape, dtype=np.uint8))
    return made


def small(files: list[bytes]) -> np.ndarray:
    shapes = [cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR).shape[:2] for file in files]
    return thumbnails(np.stack([decode(file, 96, 3) for file in files]), np.array(shapes, np.float64))


@pytest.mark.parametrize("kind", COPIES)
def test_every_copy_is_found_and_nothing_else(pictures, kind):
    originals = [png(picture) for picture in pictures]
    copies = [COPIES[kind](picture) for picture in pictures]
    pairs = near_duplicates(small(originals + copies))
    assert pairs.rows.tolist() == [[row, row + COUNT] for row in range(COUNT)]
    assert (pairs.mirrored == ("mirrored" in kind)).all()
    assert ((pairs.similarity > 0.8) & (pairs.similarity <= 1.0001)).all()


def test_a_copy_of_a_small_noisy_picture_is_found_although_it_lost_detail():
    rng = np.random.default_rng(1)
    noise = [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(COUNT)]
    files = [png(picture) for picture in noise] + [png(scaled(picture, 0.5, 0.5)) for picture in noise]
    pairs = near_duplicates(small(files))
    assert pairs.rows.tolist() == [[row, row + COUNT] for row in range(COUNT)]
    assert pairs.similarity.max() < 0.995


def test_hashes_are_those_of_imagehash():
    imagehash = pytest.importorskip("imagehash")
    images = np.random.default_rng(0).integers(0, 256, (40, 32, 32), dtype=np.uint8)

    def reference(chosen: np.ndarray) -> list[str]:
        return [str(imagehash.phash(Image.fromarray(image))) for image in chosen]

    plain, mirrored = perceptual_hashes(images)
    assert [f"{int.from_bytes(value.tobytes()):016x}" for value in plain] == reference(images)
    assert [f"{int.from_bytes(value.tobytes()):016x}" for value in mirrored] == reference(images[:, :, ::-1])


def test_digits_have_no_near_duplicates():
    images = conform_all(arrays.digits().images, 16, 1)
    assert len(near_duplicates(thumbnails(images)).rows) == 0


def test_pictures_of_one_colour_are_not_compared():
    flat = np.repeat(np.arange(10, 20, dtype=np.uint8), 32 * 32).reshape(10, 32, 32)
    assert near_duplicates(flat).rows.shape == (0, 2)


def test_thumbnails_are_without_the_bars_of_letterboxing():
    gradient = np.tile(np.arange(40, 240, 2, dtype=np.uint8), (20, 1))
    letterboxed, stretched = (decode(png(gradient), 64, 1, rule)[np.newaxis] for rule in ("letterbox", "stretch"))
    found = thumbnails(letterboxed, np.array([[20.0, 100.0]]))
    assert np.abs(found.astype(int) - thumbnails(stretched)).max() <= 4
    assert thumbnails(letterboxed).min() == 0 < found.min()


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.skipif(not (SHARED / "MNIST").is_dir(), reason="needs MNIST below MEDVISION_DATA")
def test_ones_of_mnist_are_not_near_duplicates():
    table = arrays.mnist(SHARED)
    assert table.images is not None
    ones = table.images[table.labels == 1]
    assert len(near_duplicates(thumbnails(ones)).rows) == 0
