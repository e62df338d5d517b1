import numpy as np
import pytest

from medvision.data.mask import keep_border, mask_centre
from medvision.errors import ConfigError


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(1, 256, (3, 2, 20, 40), dtype=np.uint8)


def test_the_centre_is_black_and_the_rest_as_it_was(images):
    before = images.copy()

    found = mask_centre(images, 0.5)

    assert not found[:, :, 5:15, 10:30].any()
    found[:, :, 5:15, 10:30] = images[:, :, 5:15, 10:30]
    np.testing.assert_array_equal(found, before)
    np.testing.assert_array_equal(images, before)


def test_the_border_is_what_is_left(images):
    found = keep_border(images, 0.2)

    assert not found[:, :, 2:18, 4:36].any()
    outside = np.ones((20, 40), bool)
    outside[2:18, 4:36] = False
    np.testing.assert_array_equal(found[:, :, outside], images[:, :, outside])


@pytest.mark.parametrize("share", [0.001, 0.3, 0.7, 0.999])
@pytest.mark.parametrize("side", [3, 8, 28, 29])
@pytest.mark.parametrize("change", [mask_centre, keep_border])
def test_something_is_painted_and_something_is_left(share, side, change):
    painted = change(np.full((1, 1, side, side), 200, np.uint8), share) == 0

    assert painted[0, 0, side // 2, side // 2]
    assert not painted[0, 0, [0, -1]].any()
    assert not painted[0, 0, :, [0, -1]].any()


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, float("nan")])
def test_shares_out_of_range_are_refused(images, share):
    for change in (mask_centre, keep_border):
        with pytest.raises(ConfigError, match="as a share of height and width between 0 and 1; found"):
            change(images, share)
