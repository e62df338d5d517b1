import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from medvision.data.decode import decode_all
from medvision.inference.ood import check, fit_statistics

SHARED = Path(os.environ.get("MEDVISION_DATA", "data")).absolute()


def heads(n: int, seed: int, channels: int = 1, side: int = 48) -> np.ndarray:
    """Bright ellipses with texture on a dark ground, as heads are on MRI."""
    rng = np.random.default_rng(seed)
    images = np.zeros((n, side, side), np.float32)
    for image in images:
        centre = side / 2 + rng.uniform(-2, 2, 2)
        axes = side * rng.uniform(0.28, 0.38), side * rng.uniform(0.34, 0.42)
        cv2.ellipse(image, (centre, 2 * np.array(axes), 0), float(rng.uniform(90, 150)), -1)
        coarse = rng.uniform(0.7, 1.2, (6, 6)).astype(np.float32)
        image *= cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
        image += rng.uniform(0, 6, image.shape)
    return np.repeat(images.clip(0, 255).astype(np.uint8)[:, np.newaxis], channels, axis=1)


def photographs(n: int, channels: int, side: int = 48) -> np.ndarray:
    """Blurred colour noise that fills the frame, as photographs do."""
    rng = np.random.default_rng(9)
    coarse = rng.integers(0, 256, (n, 5, 5, channels), dtype=np.uint8)
    sized = [cv2.resize(one, (side, side), interpolation=cv2.INTER_CUBIC).reshape(side, side, -1) for one in coarse]
    return np.stack(sized).transpose(0, 3, 1, 2)


def embed(images: np.ndarray, dim: int = 20) -> np.ndarray:
    """A fixed random network of one layer."""
    flat = images.reshape(len(images), -1) / 255
    weights = np.random.default_rng(5).standard_normal((flat.shape[1], dim)) / np.sqrt(flat.shape[1])
    return np.maximum(flat @ weights, 0)


def flagged(statistics: dict, images: np.ndarray, embeddings: np.ndarray | None = None) -> float:
    return float(np.mean([bool(reasons) for reasons in check(statistics, images, embeddings)]))


@pytest.mark.parametrize("channels", [1, 3])
def test_images_like_those_of_training_pass_and_others_do_not(channels):
    known = heads(600, 0, channels)
    statistics = fit_statistics(known, embed(known))
    new = heads(1000, 1, channels)
    assert 0.002 <= flagged(statistics, new, embed(new)) <= 0.03
    for other in (255 - new[:200], photographs(200, channels), np.zeros_like(new[:5]), np.full_like(new[:5], 255)):
        assert flagged(statistics, other, embed(other)) >= 0.95


@pytest.mark.parametrize("rate", [0.01, 0.05])
def test_the_false_alarm_rate_is_about_the_one_asked_for(rate):
    """On features without any structure, where each bound is as independent as it gets."""
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (4000, 1, 16, 16), dtype=np.uint8)
    embeddings = rng.standard_normal((4000, 12))
    statistics = fit_statistics(images[:2000], embeddings[:2000], false_alarm=rate)
    assert rate / 2 <= flagged(statistics, images[2000:], embeddings[2000:]) <= 2 * rate


def test_reasons_name_the_feature_the_value_and_the_range():
    known = heads(400, 0)
    (reasons,) = check(fit_statistics(known, None), 255 - known[:1], None)
    assert any(reason.startswith("brightness ") and "(training images: " in reason for reason in reasons)
    assert any(reason.startswith("border ") for reason in reasons)


def test_colour_is_noticed_where_training_had_none():
    known = heads(400, 0, 3)
    tinted = heads(50, 1, 3)
    tinted[:, 2] //= 2
    reasons = check(fit_statistics(known, None), tinted, None)
    assert all(any(reason.startswith("saturation") for reason in some) for some in reasons)


def test_an_embedding_far_from_all_is_noticed_though_the_image_is_not():
    known = heads(400, 0)
    embeddings = np.random.default_rng(0).standard_normal((400, 8))
    statistics = fit_statistics(known, embeddings)
    new = heads(20, 1)
    assert flagged(statistics, new, embeddings[:20]) <= 0.1
    assert flagged(statistics, new, embeddings[:20] + 10) == 1
    assert "what the model sees" in check(statistics, new[:1], embeddings[:1] + 10)[0][0]


@pytest.mark.parametrize("dim", [1, 64, 2048])
def test_statistics_are_small_plain_json(dim):
    known = heads(300, 0)
    embeddings = np.random.default_rng(0).standard_normal((300, dim)).astype(np.float32)
    statistics = fit_statistics(known, embeddings)
    text = json.dumps(statistics, allow_nan=False)
    assert len(text) < 200_000
    assert check(json.loads(text), known[:50], embeddings[:50]) == check(statistics, known[:50], embeddings[:50])


def test_tiny_images_identical_images_and_none_at_all():
    statistics = fit_statistics(np.full((4, 1, 2, 2), 7, np.uint8), np.ones((4, 3)))
    assert check(statistics, np.zeros((0, 1, 2, 2), np.uint8), np.zeros((0, 3))) == []
    assert check(statistics, np.full((1, 1, 2, 2), 7, np.uint8), np.ones((1, 3))) == [()]
    assert check(statistics, np.full((1, 1, 2, 2), 200, np.uint8), np.ones((1, 3))) != [()]


def test_a_statistics_of_another_version_is_not_applied():
    statistics = fit_statistics(heads(20, 0), None) | {"version": 99}
    assert check(statistics, photographs(3, 1), None) == [(), (), ()]


@pytest.mark.real_data
def test_inverted_scans_photographs_and_digits_are_no_brain_mri():
    folder = SHARED / "brain_mri"
    if not folder.is_dir():
        pytest.skip(f"no brain MRI in {SHARED}")
    files = sorted(folder.glob("Training/*/*.jpg"))
    order = np.random.default_rng(0).permutation(len(files))
    images, _ = decode_all([files[row] for row in order], 64, 3)
    known, new = images[:-400], images[-400:]
    statistics = fit_statistics(known, None)
    assert flagged(statistics, new) <= 0.03
    assert flagged(statistics, 255 - new) >= 0.99
    raw = SHARED / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    if raw.is_file():
        digits = np.frombuffer(raw.read_bytes()[16:], np.uint8).reshape(-1, 28, 28)[:300]
        large = np.stack([cv2.resize(one, (64, 64), interpolation=cv2.INTER_LINEAR) for one in digits])
        assert flagged(statistics, np.repeat(large[:, np.newaxis], 3, axis=1)) >= 0.7
