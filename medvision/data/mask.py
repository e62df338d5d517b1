"""Images with a part painted over, to see how much of an answer comes from the rest.

What is painted is black, as the letterbox around an image is: the mean grey of an image would reveal its middle
what it is meant to hide, and that of a set of images would differ between training and test.
"""

import numpy as np
from numpy.typing import NDArray

from medvision.errors import ConfigError


def mask_centre(images: NDArray[np.uint8], share: float) -> NDArray[np.uint8]:
    """Paint the middle black; a model that still scores well finds its answer around what it should look at.

    Args:
        images: (N, C, H, W) uint8; left as they are.
        share: of the height and of the width that is painted, in (0, 1), rounded to whole pixels on either side.

    Raises:
        ConfigError: if `share` is out of range.
    """
    _check(share, "the masked centre")
    masked = np.array(images)
    rows, columns = (_centre(length, share) for length in images.shape[2:])
    masked[:, :, rows, columns] = 0
    return masked


def keep_border(images: NDArray[np.uint8], share: float) -> NDArray[np.uint8]:
    """Paint all but a frame black; a model that scores well on it reads the scanner, the markers or the collimation.

    Args:
        images: (N, C, H, W) uint8; left as they are.
        share: of the height and of the width that is kept, half of it on either side, in (0, 1).

    Raises:
        ConfigError: if `share` is out of range.
    """
    _check(share, "the border")
    return mask_centre(images, 1 - share)


def _centre(length: int, share: float) -> slice:
    # At least one pixel is painted and one is left on either side, where there are three.
    margin = min(max(1, round(length * (1 - share) / 2)), (length - 1) // 2)
    return slice(margin, length - margin)


def _check(share: float, what: str) -> None:
    if not 0 < share < 1:
        raise ConfigError(f"expected {what} as a share of height and width between 0 and 1; found {share}")
