from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from medvision.errors import ConfigError
from medvision.inference.robustness import (
    STRENGTHS,
    add_noise,
    blur,
    compress,
    corrupt,
    rotate,
    scale_contrast,
)


def smooth(channels, height=48, width=48, n=4, sigma=2):
    """Images with structure at the size of a few pixels, as photographs and scans have."""
    planes = np.random.default_rng(0).standard_normal((n, channels, height, width))
    blurred = gaussian_filter(planes, (0, 0, sigma, sigma))
    return np.clip(128 + 125 * sigma * blurred, 0, 255).astype(np.uint8)


@given(
    kind=st.sampled_from(sorted(STRENGTHS)),
    strength=st.integers(1, 5),
    channels=st.sampled_from([1, 3]),
    n=st.integers(0, 3),
    height=st.integers(2, 20),
    width=st.integers(2, 20),
    level=st.sampled_from([0, 7, 255]),
)
def test_images_stay_images(kind, strength, channels, n, height, width, level):
    images = np.full((n, channels, height, width), level, np.uint8)

    found = corrupt(images, kind, strength, 0)

    assert found.dtype == np.uint8
    assert found.shape == images.shape
    assert (images == level).all()
    if kind != "noise":  # what is of one colour stays so, black included, but for the steps of JPEG
        assert n == 0 or np.ptp(found) == 0
        np.testing.assert_allclose(found, level, atol=20 if kind == "jpeg" else 0)


@pytest.mark.parametrize("kind", STRENGTHS)
@pytest.mark.parametrize("channels", [1, 3])
def test_each_strength_does_more_than_the_one_before(kind, channels):
    images = smooth(channels, sigma=6 if kind == "rotation" else 2)

    changes = [np.abs(corrupt(images, kind, strength, 0).astype(int) - images).mean() for strength in range(1, 6)]

    assert changes[0] > 0.02
    assert all(more > 1.05 * less for less, more in pairwise(changes))


@pytest.mark.parametrize("kind", STRENGTHS)
def test_equal_seeds_give_equal_images(kind):
    images = smooth(1, n=20)

    np.testing.assert_array_equal(corrupt(images, kind, 3, 5), corrupt(images, kind, 3, 5))
    is_random = kind in ("noise", "rotation")
    assert is_random != np.array_equal(corrupt(images, kind, 3, 5), corrupt(images, kind, 3, 6))


def test_every_kind_has_five_strengths():
    assert {len(amounts) for amounts in STRENGTHS.values()} == {5}


def test_noise_has_the_standard_deviation_it_says_and_is_clipped():
    colour = np.full((4, 3, 100, 100), 128, np.uint8)
    colour[:, 1] = 129
    grey = np.full_like(colour, 128)

    found, found_grey = add_noise(colour, 20, seed=0).astype(float) - colour, add_noise(grey, 20, 0).astype(float) - 128

    for noise in (found, found_grey):
        assert noise.std() == pytest.approx(20, rel=0.02)
        assert noise.mean() == pytest.approx(0, abs=0.3)
    assert abs(np.corrcoef(found[0, 0].ravel(), found[0, 1].ravel())[0, 1]) < 0.05
    assert abs(np.corrcoef(found[0, 0].ravel(), found[1, 0].ravel())[0, 1]) < 0.05
    np.testing.assert_array_equal(found_grey[:, 1:], found_grey[:, :1].repeat(2, axis=1))
    # Half of the noise on black is clipped: the mean of a half-normal distribution is left.
    assert add_noise(np.zeros_like(grey), 20, 0).mean() == pytest.approx(20 / np.sqrt(2 * np.pi), rel=0.03)
    assert add_noise(np.full_like(grey, 255), 20, 0).min() > 128


def test_stronger_noise_is_the_same_noise():
    grey = np.full((1, 1, 64, 64), 128, np.uint8)

    weak, strong = (add_noise(grey, sigma, 3).astype(float).ravel() - 128 for sigma in (10, 20))

    assert np.corrcoef(weak, strong)[0, 1] > 0.99


@pytest.mark.parametrize("sigma", [0.6, 2.0, 5.0])
def test_blur_is_that_of_scipy(sigma):
    images = smooth(3)

    expected = gaussian_filter(images.astype(float), (0, 0, sigma, sigma), mode="mirror", truncate=3)

    np.testing.assert_allclose(blur(images, sigma), expected, atol=3)


def test_blur_is_relative_to_the_size_of_the_image():
    small, large = smooth(1, 40, 60), smooth(1, 80, 100)

    np.testing.assert_array_equal(corrupt(small, "blur", 5, 0), blur(small, 1.2))
    np.testing.assert_array_equal(corrupt(large, "blur", 5, 0), blur(large, 2.4))


@pytest.mark.parametrize("factor", [0.8, 0.1, 0.0])
def test_contrast_is_a_line_through_the_mean(factor):
    images = smooth(3)
    means = images.mean(axis=(1, 2, 3), keepdims=True)

    np.testing.assert_allclose(scale_contrast(images, factor), means + factor * (images - means), atol=0.51)


@pytest.mark.parametrize("quality", [75, 5])
def test_jpeg_is_that_of_opencv(quality):
    grey, colour = smooth(1), smooth(3)

    for image, found in zip(grey, compress(grey, quality), strict=True):
        _, file = cv2.imencode(".jpg", image[0], [cv2.IMWRITE_JPEG_QUALITY, quality])
        np.testing.assert_array_equal(found[0], cv2.imdecode(file, cv2.IMREAD_GRAYSCALE))
    for image, found in zip(colour, compress(colour, quality), strict=True):
        bgr = cv2.cvtColor(image.transpose(1, 2, 0), cv2.COLOR_RGB2BGR)
        _, file = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
        np.testing.assert_array_equal(
            found.transpose(1, 2, 0), cv2.cvtColor(cv2.imdecode(file, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        )


@pytest.mark.parametrize(("degrees", "quarters"), [(0, 0), (90, 1), (180, 2), (270, 3), (-90, 3)])
@pytest.mark.parametrize(("channels", "side"), [(1, 28), (3, 29)])
def test_quarter_turns_move_pixels_and_change_none(degrees, quarters, channels, side):
    images = smooth(channels, side, side)

    found = rotate(images, np.full(4, degrees))

    np.testing.assert_array_equal(found, np.rot90(images, quarters, axes=(2, 3)))


def test_each_image_turns_by_its_own_angle_about_its_centre():
    images = np.zeros((2, 1, 41, 61), np.uint8)
    images[:, :, 20, 45] = images[:, :, 20, 30] = 255  # a point 15 pixels right of the centre, and the centre

    found = rotate(images, np.array([30.0, -30.0]))

    for image, sign in zip(found[:, 0], (1, -1), strict=True):
        assert image[20, 30] == 255
        row, column = 20 - sign * 15 * np.sin(np.pi / 6), 30 + 15 * np.cos(np.pi / 6)
        ys, xs = np.nonzero(np.where(np.arange(61) > 35, image, 0))
        weights = image[ys, xs].astype(float)
        assert np.average(ys, weights=weights) == pytest.approx(row, abs=0.2)
        assert np.average(xs, weights=weights) == pytest.approx(column, abs=0.2)


def test_about_half_of_the_images_turn_either_way():
    images = np.zeros((400, 1, 21, 21), np.uint8)
    images[:, :, 10, 18] = 255

    upwards = corrupt(images, "rotation", 5, 0)[:, 0, :10].any(axis=(1, 2))

    assert 0.4 < upwards.mean() < 0.6


@pytest.mark.parametrize(("kind", "strength"), [("fog", 1), ("noise", 0), ("noise", 6)])
def test_unknown_corruptions_are_refused(kind, strength):
    with pytest.raises(ConfigError, match=f"at a strength from 1 to 5; found {kind} at {strength}"):
        corrupt(smooth(1), kind, strength, 0)
