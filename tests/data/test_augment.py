import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torchvision.transforms.v2 import functional

from medvision.data.augment import Augmentation
from medvision.errors import ConfigError

EVERYTHING = {
    "shear": 0.2,
    "zoom": 0.2,
    "rotation": 15.0,
    "translation": 0.1,
    "horizontal_flip": True,
    "vertical_flip": True,
    "crop_padding": 3,
    "cutout": 5,
    "brightness": 0.3,
    "contrast": 0.3,
}
PIXELS_ONLY = {"horizontal_flip": True, "vertical_flip": True, "crop_padding": 3, "cutout": 4}
NUMPY_PADDING = {"reflect": "reflect", "nearest": "edge", "zero": "constant"}
LARGE = [(96, 96), (91, 113)]  # which a CPU gives to OpenCV
SCIPY_PADDING = {"reflect": "mirror", "nearest": "nearest", "zero": "grid-constant"}


def noise(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def smooth(*shape):
    """Noise without its finest detail, so that a tiny difference in position is a tiny difference in value."""
    blurred = ndimage.gaussian_filter(noise(*shape).numpy().astype(np.float64), sigma=(0, 0, 2, 2))
    low, high = blurred.min(), blurred.max()
    return torch.from_numpy(np.round((blurred - low) / (high - low) * 255).astype(np.uint8))


def rows(*values):
    return torch.tensor(values, dtype=torch.float32)


def test_without_options_images_come_back_untouched():
    augmentation = Augmentation()
    images = noise(4, 3, 8, 8)
    params = augmentation.draw(0, 0, 4)
    assert params.shape == (4, 0)
    assert augmentation(images, params) is images


@pytest.mark.parametrize(("option", "axis"), [("horizontal_flip", 3), ("vertical_flip", 2)])
def test_flips_are_those_of_numpy(option, axis):
    images = noise(3, 3, 6, 9)
    flipped = Augmentation(**{option: True})(images, rows([1], [0], [1])).numpy()
    expected = images.numpy().copy()
    expected[[0, 2]] = np.flip(expected, axis)[[0, 2]]
    np.testing.assert_array_equal(flipped, expected)


def test_alternating_flips_show_every_image_both_ways_in_turn():
    images, augmentation = noise(500, 1, 4, 5), Augmentation(horizontal_flip="alternating")
    shown = [augmentation(images, augmentation.draw(7, epoch, 500)) for epoch in range(4)]
    assert torch.equal(shown[0], shown[2])
    assert torch.equal(shown[1], shown[3])
    assert torch.equal(shown[0], shown[1].flip(3))
    assert 200 < (shown[0] == images).all((1, 2, 3)).sum() < 300


@pytest.mark.parametrize("fill", NUMPY_PADDING)
def test_crop_is_a_slice_of_the_padded_flipped_image(fill):
    padding, height, width = 3, 7, 10
    shifts = [(x, y, flip) for x in (-3, 0, 2, 3) for y in (-3, -1, 3) for flip in (0, 1)]
    images = noise(len(shifts), 3, height, width)
    augmentation = Augmentation(horizontal_flip=True, crop_padding=padding, fill=fill)
    cropped = augmentation(images, rows(*[(flip, x, y) for x, y, flip in shifts])).numpy()
    for image, found, (x, y, flip) in zip(images.numpy(), cropped, shifts, strict=True):
        source = image[:, :, ::-1] if flip else image
        padded = np.pad(source, ((0, 0), (padding, padding), (padding, padding)), mode=NUMPY_PADDING[fill])
        top, left = padding + y, padding + x
        np.testing.assert_array_equal(found, padded[:, top : top + height, left : left + width])


@pytest.mark.parametrize("fill", SCIPY_PADDING)
@pytest.mark.parametrize(("height", "width"), [(24, 24), (20, 31), *LARGE])
def test_affine_parts_are_one_bilinear_resampling(fill, height, width):
    images = smooth(2, 3, height, width)
    augmentation = Augmentation(
        shear=0.3, zoom=0.3, rotation=30.0, translation=0.2, horizontal_flip=True, crop_padding=2, fill=fill
    )
    shear, zoom_x, zoom_y, angle, part_x, part_y, flip, shift_x, shift_y = values = (
        0.21, 0.8, 1.25, 17.0, 0.1, -0.15, 1.0, 2.0, -1.0,
    )  # fmt: skip
    found = augmentation(images, rows(values, values)).numpy().astype(int)

    radians = math.radians(angle)
    rotate = np.array([[math.cos(radians), -math.sin(radians)], [math.sin(radians), math.cos(radians)]])
    tilt = np.array([[1, -math.sin(shear)], [0, math.cos(shear)]])
    mirror = np.diag([-1 if flip else 1, 1])
    matrix = mirror @ rotate @ tilt @ np.diag([zoom_x, zoom_y])
    offset = mirror @ np.array([part_x * width + shift_x, part_y * height + shift_y])
    centre = (np.array([width, height]) - 1) / 2
    offset = centre - matrix @ centre + offset
    for image, result in zip(images.numpy(), found, strict=True):
        for channel, changed in zip(image.astype(np.float64), result, strict=True):
            # scipy counts (row, column) where this test counts (x, y).
            expected = ndimage.affine_transform(
                channel, matrix[::-1, ::-1], offset[::-1], order=1, mode=SCIPY_PADDING[fill]
            )
            assert np.abs(changed - np.round(expected)).max() <= 1


def test_zoom_below_one_enlarges():
    images = torch.zeros(1, 1, 21, 21, dtype=torch.uint8)
    images[:, :, 8:13, 8:13] = 255
    enlarged = Augmentation(zoom=0.5)(images, rows([0.5, 0.5]))
    assert (enlarged == 255).sum() > 3 * (images == 255).sum()


@pytest.mark.parametrize("fill", NUMPY_PADDING)
@pytest.mark.parametrize(("height", "width"), [(12, 15), *LARGE])
def test_whole_pixels_agree_on_both_paths(height, width, fill):
    # A rotation of zero sends the same flips and shifts through the resampling.
    images = noise(8, 3, height, width)
    exact = Augmentation(**{**PIXELS_ONLY, "cutout": 0}, fill=fill)
    resampled = Augmentation(**{**PIXELS_ONLY, "cutout": 0}, rotation=1.0, fill=fill)
    params = exact.draw(0, 0, 8)
    assert torch.equal(exact(images, params), resampled(images, torch.cat([torch.zeros(8, 1), params], dim=1)))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("factor", [0.6, 1.0, 1.4])
@pytest.mark.parametrize("size", [(9, 11), *LARGE])
def test_contrast_and_brightness_are_those_of_torchvision(channels, factor, size):
    images = noise(4, channels, *size)
    params = torch.full((4, 1), factor)
    for option, adjust in (("contrast", functional.adjust_contrast), ("brightness", functional.adjust_brightness)):
        expected = (adjust(images / 255, factor) * 255).round()
        found = Augmentation(**{option: 0.5})(images, params).float()
        assert (found - expected).abs().max() <= 1
        assert (found - expected).abs().mean() < 0.01


def test_cutout_covers_a_square_with_the_mean_colour():
    images = noise(2, 3, 10, 12)
    found = Augmentation(cutout=4)(images, rows([0.5, 0.5], [0.0, 0.999]))
    expected = images.clone()
    mean = images.double().mean((2, 3)).round().to(torch.uint8)
    expected[0, :, 3:7, 4:8] = mean[0, :, None, None]
    # Centred on column 0 and on the last row: part of it lies outside.
    expected[1, :, 7:10, 0:2] = mean[1, :, None, None]
    assert torch.equal(found, expected)


@pytest.mark.parametrize("size", [(19, 23), *LARGE])
@pytest.mark.parametrize("options", [PIXELS_ONLY, EVERYTHING], ids=["pixels", "everything"])
def test_a_sample_looks_the_same_in_any_batch(options, size):
    augmentation = Augmentation(**options)
    images, params = noise(8, 3, *size), augmentation.draw(3, 5, 8)
    one_by_one = torch.cat([augmentation(images[i : i + 1], params[i : i + 1]) for i in range(8)])
    assert torch.equal(augmentation(images, params), one_by_one)


def test_parameters_depend_on_seed_epoch_and_position_alone():
    augmentation = Augmentation(**EVERYTHING)
    params = augmentation.draw(1, 2, 50)
    assert torch.equal(params, Augmentation(**EVERYTHING).draw(1, 2, 50))
    assert torch.equal(params[:20], augmentation.draw(1, 2, 20))
    for seed, epoch in ((1, 3), (2, 2)):
        assert not (params == augmentation.draw(seed, epoch, 50)).all(0).any()


def test_switching_a_transform_on_leaves_the_draws_of_others():
    alone = Augmentation(rotation=15.0).draw(0, 0, 30)
    together = Augmentation(**EVERYTHING).draw(0, 0, 30)
    assert torch.equal(together[:, 3:4], alone)


def test_parameters_fill_their_ranges():
    params = Augmentation(**EVERYTHING).draw(0, 0, 20_000).numpy()
    low = [-0.2, 0.8, 0.8, -15, -0.1, -0.1, 0, 0, -3, -3, 0, 0, 0.7, 0.7]
    high = [0.2, 1.2, 1.2, 15, 0.1, 0.1, 1, 1, 3, 3, 1, 1, 1.3, 1.3]
    np.testing.assert_allclose(params.min(0), low, atol=0.02)
    np.testing.assert_allclose(params.max(0), high, atol=0.02)
    np.testing.assert_allclose(params.mean(0), np.add(low, high) / 2, atol=0.3)
    flips, shifts = params[:, 6:8], params[:, 8:10]
    assert set(np.unique(flips)) == {0, 1}
    np.testing.assert_allclose(flips.mean(0), 0.5, atol=0.02)
    for values in shifts.T:
        np.testing.assert_allclose(np.unique(values, return_counts=True)[1], 20_000 / 7, rtol=0.1)


def test_parameters_take_at_most_64_bytes_a_sample():
    params = Augmentation(**EVERYTHING).draw(0, 0, 3)
    assert params.dtype == torch.float32
    assert params.shape[1] * params.element_size() <= 64


@settings(deadline=None, max_examples=40)
@given(
    shape=st.tuples(st.integers(1, 4), st.sampled_from([1, 3]), st.integers(6, 12), st.integers(6, 12)),
    options=st.sets(st.sampled_from(sorted(EVERYTHING))),
    fill=st.sampled_from(sorted(NUMPY_PADDING)),
    seed=st.integers(0, 2**32),
)
def test_any_options_keep_shape_type_and_a_constant_image(shape, options, fill, seed):
    chosen = {name: EVERYTHING[name] for name in options}
    augmentation = Augmentation(**chosen, fill=fill)
    images = torch.full(shape, 77, dtype=torch.uint8)
    changed = augmentation(images, augmentation.draw(seed, 0, len(images)))
    assert changed.shape == images.shape
    assert changed.dtype == torch.uint8
    assert (images == 77).all()
    if fill != "zero" and not options & {"brightness", "contrast"}:
        assert (changed == 77).all()


@pytest.mark.parametrize(
    "options",
    [
        {"shear": -0.1},
        {"zoom": 1.0},
        {"rotation": 181.0},
        {"translation": 1.1},
        {"crop_padding": -1},
        {"cutout": -1},
        {"brightness": 1.5},
        {"contrast": math.nan},
        {"mixup": -0.2},
        {"cutmix": -1.0},
        {"fill": "wrap"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_amounts_out_of_range_are_refused_by_name(options):
    with pytest.raises(ConfigError, match=rf"augmentation\.{next(iter(options))} must be .*found"):
        Augmentation(**options)


@pytest.mark.parametrize("options", [{"crop_padding": 8}, {"cutout": 9}], ids=lambda options: next(iter(options)))
def test_amounts_beyond_the_image_are_refused(options):
    augmentation = Augmentation(**options)
    with pytest.raises(ConfigError, match=r"8x12 pixels"):
        augmentation(noise(2, 1, 8, 12), augmentation.draw(0, 0, 2))
