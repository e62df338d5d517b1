import cv2
import matplotlib
import numpy as np
import pytest

from medvision.inference.explain import blend, overlay, picture, side_by_side


def read(png):
    """(H, W) of a grey PNG, (H, W, 3) RGB of another."""
    pixels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    return pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


@pytest.fixture
def grey():
    return np.random.default_rng(0).integers(0, 256, (1, 28, 28), dtype=np.uint8)


def smooth_image(channels, height, width):
    rng = np.random.default_rng(0)
    planes = rng.integers(0, 256, (height, width, channels)).astype(np.float32)
    blurred = cv2.GaussianBlur(planes, (0, 0), 5).reshape(height, width, channels)
    return (
        cv2.normalize(blurred, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8).reshape(planes.shape).transpose(2, 0, 1)
    )


def test_tiny_images_are_enlarged_pixel_by_pixel(grey):
    found = read(picture(grey))

    assert found.shape == (112, 112)
    np.testing.assert_array_equal(found, np.kron(grey[0], np.ones((4, 4), np.uint8)))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((8, 8), (112, 112)),
        ((112, 50), (112, 50)),
        ((100, 60), (200, 120)),
        ((300, 600), (112, 224)),
        ((3, 900), (1, 224)),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_neither_tiny_nor_huge(shape, expected, channels):
    image = smooth_image(channels, *shape)

    assert read(picture(image)).shape[:2] == expected
    assert read(overlay(image, np.ones(shape, np.float32))).shape[:2] == expected


@pytest.mark.parametrize("image", [smooth_image(3, 32, 32), smooth_image(3, 120, 90)])
def test_colours_are_kept_in_their_order(image):
    found = read(picture(image))

    times = found.shape[0] // image.shape[1]
    np.testing.assert_allclose(found[::times, ::times].transpose(2, 0, 1).astype(int), image, atol=12)
    assert np.abs(found[::times, ::times].transpose(2, 0, 1).astype(int) - image).mean() < 3


def test_where_the_map_is_zero_the_image_is_as_it_was(grey):
    np.testing.assert_array_equal(read(overlay(grey, np.zeros((28, 28), np.float32))), read(picture(grey)))


@pytest.mark.parametrize("level", [0.2, 0.5, 1.0])
def test_colours_are_infernos_and_opacity_follows_the_map(level):
    pixels = np.full((6, 6, 3), 100, np.uint8)
    inferno = np.array(matplotlib.colormaps["inferno"](round(255 * level))[:3]) * 255

    found = blend(pixels, np.full((3, 3), level, np.float32))

    np.testing.assert_allclose(found[0, 0], 100 + 0.65 * level * (inferno - 100), atol=1.5)


def test_the_map_lies_where_it_belongs():
    image, activation = np.zeros((1, 40, 60), np.uint8), np.zeros((40, 60), np.float32)
    activation[:10, 50:] = 1

    found = read(overlay(image, activation)).max(axis=2)

    height, width = found.shape
    assert found[: height // 8, -width // 8 :].min() > 100
    assert found[height // 2 :].max() == found[:, : width // 2].max() == 0


@pytest.mark.parametrize("channels", [1, 3])
def test_no_image_breaks_the_budget(channels):
    """Noise is the worst there is: a report of 70 pairs of it must still stay under 5 MB in base64."""
    noise = np.random.default_rng(0).integers(0, 256, (channels, 224, 224), dtype=np.uint8)
    activation = np.random.default_rng(1).random((224, 224), dtype=np.float32)

    assert len(picture(noise)) <= 26_500
    assert len(overlay(noise, activation)) <= 26_500


def test_side_by_side_is_the_image_then_the_overlay(grey):
    activation = np.linspace(0, 1, 784, dtype=np.float32).reshape(28, 28)

    found = read(side_by_side(grey, activation))

    assert found.shape == (112, 232, 3)
    np.testing.assert_array_equal(found[:, :112, 0], read(picture(grey)))
    np.testing.assert_allclose(found[:, 120:].astype(int), read(overlay(grey, activation)), atol=40)
