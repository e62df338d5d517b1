"""What an image file may ask for, checked before its pixels are decoded."""

from typing import Literal, get_args

from medvision.errors import BadImage

Frames = Literal["reject", "first", "middle"]
FRAME_RULES: tuple[str, ...] = get_args(Frames)
MAX_PIXELS = 80_000_000  # about 9,000 x 9,000: 240 MB as RGB in each decoding thread
MAX_BYTES = 6 * MAX_PIXELS  # uncompressed 16-bit RGB of that size


def check_size(width: int, height: int) -> None:
    """Refuse what is too large to decode or too small to be a picture.

    Args:
        width: in pixels, as the header has it.
        height: in pixels.

    Raises:
        BadImage: over `MAX_PIXELS`, or under 2 pixels on a side.
    """
    if width * height > MAX_PIXELS:
        raise BadImage(f"header promises {width} x {height} pixels, over {MAX_PIXELS}")
    if min(width, height) < 2:
        raise BadImage(f"{width} x {height} pixels are no picture")


def choose_frame(count: int, frames: Frames) -> int:
    """Index of the frame that stands for a file of `count` frames or pages.

    Raises:
        BadImage: if there are several and `frames` is "reject".
    """
    if count > 1 and frames == "reject":
        raise BadImage("has several frames; data.frames=first or data.frames=middle takes one of them")
    return count // 2 if frames == "middle" else 0
