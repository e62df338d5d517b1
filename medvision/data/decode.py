"""Image files to uint8 arrays of one size: the only place where pixels are read, for training and prediction alike."""

import io
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from medvision.errors import DataError

log = logging.getLogger(__name__)

Resize = Literal["letterbox", "stretch", "crop"]
RESIZE_RULES: tuple[str, ...] = get_args(Resize)
EXTENSIONS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
}
MAX_PIXELS = 80_000_000  # about 9,000 x 9,000: 240 MB as RGB in each decoding thread
_MAX_BYTES = 6 * MAX_PIXELS  # uncompressed 16-bit RGB of that size
_CHUNK = 32  # images a task: 60,000 single futures cost more than they decode

# A file that cannot be read is reported by its reason in the quarantine, not by OpenCV on stderr.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


class BadImage(DataError):
    """An image file that cannot be used; `reason` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def decode(
    source: str | Path | bytes, size: int | tuple[int, int], channels: Literal[1, 3], resize: Resize = "letterbox"
) -> NDArray[np.uint8]:
    """Read one JPEG, PNG, BMP, TIFF or WebP, known by its content, as an array of the asked size.

    One conversion for everything: EXIF orientation is applied; 16-bit values are scaled by 1/257 so that 0..65535
    becomes 0..255; palettes are resolved; alpha is dropped (in a TIFF, libtiff first multiplies the colours by it);
    CMYK becomes RGB; colour to grey is ITU-R 601 luma, grey to colour is repeated; of several frames or pages the
    first is taken.

    Args:
        source: path of the file, or its bytes.
        size: target height and width in pixels, or one number for both.
        channels: 1 for grey, 3 for RGB.
        resize: "letterbox" keeps the aspect ratio and pads with zeros, "stretch" ignores it, "crop" keeps it and
            cuts the centre.

    Returns:
        (C, H, W) uint8.

    Raises:
        BadImage: if the file is missing, empty, truncated, damaged, of another format, under 2 pixels on a side,
            over `MAX_PIXELS`, or has pixels other than 8-bit and 16-bit integers.
    """
    pixels, _ = _decode(source if isinstance(source, bytes) else _read(Path(source)))
    return np.ascontiguousarray(_conform(pixels, size, channels, resize))


def decode_all(
    paths: Sequence[str | Path],
    size: int | tuple[int, int],
    channels: Literal[1, 3],
    resize: Resize = "letterbox",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[NDArray[np.uint8], list[tuple[int, str, str]]]:
    """Decode many files in parallel into one array; see `decode`.

    Args:
        paths: the N files.
        size: target height and width in pixels, or one number for both.
        channels: 1 for grey, 3 for RGB.
        resize: as in `decode`.
        progress: called in this thread with the number of files done and N.

    Returns:
        (N, C, H, W) uint8, zeros where a file is bad, and (index, reason, stage) of each bad file in order.
    """
    images = np.zeros((len(paths), channels, *_height_width(size)), np.uint8)
    bad: list[tuple[int, str, str]] = []
    misnamed: list[str] = []

    def decode_chunk(start: int) -> int:
        stop = min(start + _CHUNK, len(paths))
        for index in range(start, stop):
            path = Path(paths[index])
            try:
                pixels, kind = _decode(_read(path))
            except BadImage as error:
                bad.append((index, error.reason, "decode"))
                continue
            images[index] = _conform(pixels, size, channels, resize)
            if EXTENSIONS.get(path.suffix.lower(), kind) != kind:
                misnamed.append(f"{path.name} is {kind}")
        return stop

    # Threads are enough: OpenCV releases the GIL while it decodes and resizes.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done in pool.map(decode_chunk, range(0, len(paths), _CHUNK)):
            if progress is not None:
                progress(done, len(paths))
    if misnamed:
        log.warning("%d file(s) were read by content, not by extension: %s ...", len(misnamed), sorted(misnamed)[0])
    return images, sorted(bad)


def conform_all(
    images: NDArray[np.uint8], size: int | tuple[int, int], channels: Literal[1, 3], resize: Resize = "letterbox"
) -> NDArray[np.uint8]:
    """Bring decoded images to another size and number of channels by the rules of `decode`.

    Args:
        images: (N, C, H, W) uint8 with C 1 (grey) or 3 (RGB); returned as it is when it already conforms.
        size: target height and width in pixels, or one number for both.
        channels: 1 for grey, 3 for RGB.
        resize: as in `decode`.

    Returns:
        (N, channels, *size) uint8.
    """
    shape = (channels, *_height_width(size))
    if images.shape[1:] == shape:
        return images
    result = np.empty((len(images), *shape), np.uint8)
    for index, image in enumerate(images):
        pixels = image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))
        result[index] = _conform(pixels, size, channels, resize)
    return result


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise BadImage(f"file is larger than {_MAX_BYTES / 1e6:.0f} MB")
        return path.read_bytes()
    except OSError as error:
        raise BadImage(f"cannot be read: {error.strerror or error}") from error


def _decode(data: bytes) -> tuple[NDArray[np.uint8], str]:
    """Grey (H, W) or RGB (H, W, 3) pixels of a file's bytes, and the name of its format."""
    kind = _check_header(data)
    # Reading from memory, OpenCV 5 returns None for a file cut short at any byte; reading a path may pad with grey.
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH)
    except cv2.error as error:
        raise BadImage(f"{kind} cannot be decoded: {error.err}") from error
    if pixels is None:
        raise BadImage(f"{kind} is truncated or damaged")
    if pixels.dtype == np.uint16:
        pixels = cv2.convertScaleAbs(pixels, alpha=1 / 257)
    if pixels.dtype != np.uint8:
        raise BadImage(f"{kind} has {pixels.dtype} pixels; 8-bit and 16-bit integers have a known range")
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    return np.asarray(pixels, np.uint8), kind


def _check_header(data: bytes) -> str:
    """Refuse by what the header says, before anything is allocated for the pixels; returns the format."""
    if not data:
        raise BadImage("file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=sorted(set(EXTENSIONS.values()))) as header:
            (width, height), kind = header.size, str(header.format)
    except UnidentifiedImageError as error:
        raise BadImage("not a JPEG, PNG, BMP, TIFF or WebP image") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImage(f"header promises over {MAX_PIXELS} pixels") from error
    except Exception as error:  # whatever a hostile header provokes in the parser is this file's fault
        raise BadImage(f"unreadable header: {error}") from error
    if width * height > MAX_PIXELS:
        raise BadImage(f"header promises {width} x {height} pixels, over {MAX_PIXELS}")
    if min(width, height) < 2:
        raise BadImage(f"{width} x {height} pixels are no picture")
    return "JPEG" if kind == "MPO" else kind  # MPO: a JPEG with further pictures behind it, as phones write them


def _conform(
    pixels: NDArray[np.uint8], size: int | tuple[int, int], channels: Literal[1, 3], resize: Resize
) -> NDArray[np.uint8]:
    """Grey (H, W) or RGB (H, W, 3) pixels as (channels, *size)."""
    if pixels.ndim == 3 and channels == 1:
        pixels = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), np.uint8)
    pixels = _resize(pixels, _height_width(size), resize)
    return pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels[np.newaxis].repeat(channels, axis=0)


def _resize(pixels: NDArray[np.uint8], size: tuple[int, int], resize: Resize) -> NDArray[np.uint8]:
    height, width = size
    old_height, old_width = pixels.shape[:2]
    if resize == "stretch":
        return _scale(pixels, height, width)
    if resize == "crop":  # cut before scaling, so that a 2 x 20,000 strip does not become 224 x 2,240,000 on the way
        cut_height = max(1, min(old_height, round(old_width * height / width)))
        cut_width = max(1, min(old_width, round(old_height * width / height)))
        top, left = (old_height - cut_height) // 2, (old_width - cut_width) // 2
        return _scale(pixels[top : top + cut_height, left : left + cut_width], height, width)
    ratio = min(height / old_height, width / old_width)
    scaled = _scale(pixels, max(1, round(old_height * ratio)), max(1, round(old_width * ratio)))
    top, left = (height - scaled.shape[0]) // 2, (width - scaled.shape[1]) // 2
    padded = np.zeros((height, width, *pixels.shape[2:]), np.uint8)
    padded[top : top + scaled.shape[0], left : left + scaled.shape[1]] = scaled
    return padded


def _scale(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    if pixels.shape[:2] == (height, width):
        return pixels
    shrinks = height < pixels.shape[0] or width < pixels.shape[1]
    # Area averaging: the other rules skip pixels when they shrink, which loses fine structure.
    rule = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=rule), np.uint8)


def _height_width(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])
