"""Image files to uint8 arrays of one size: the only place where pixels are read, for training and prediction alike."""

import io
import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from medvision.data.dicom import read as dicom
from medvision.data.limits import MAX_BYTES, MAX_PIXELS, Frames, check_size, choose_frame
from medvision.data.resize import Resize, conform, height_width
from medvision.errors import BadImage

log = logging.getLogger(__name__)

Unusable = tuple[int, str, str]  # index of a file, the reason, and the stage that it failed at
EXTENSIONS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
    ".dcm": "DICOM",
    ".dicom": "DICOM",
}
_PIL_FORMATS = sorted({*EXTENSIONS.values()} - {"DICOM"})
_MAX_PAGES = 10_000  # of a TIFF; to count more takes seconds
_CHUNK = 32  # images a task: 60,000 single futures cost more than they decode
_REDUCED = {
    ("L", 2): cv2.IMREAD_REDUCED_GRAYSCALE_2,
    ("L", 4): cv2.IMREAD_REDUCED_GRAYSCALE_4,
    ("L", 8): cv2.IMREAD_REDUCED_GRAYSCALE_8,
    ("RGB", 2): cv2.IMREAD_REDUCED_COLOR_2,
    ("RGB", 4): cv2.IMREAD_REDUCED_COLOR_4,
    ("RGB", 8): cv2.IMREAD_REDUCED_COLOR_8,
}

# A file that cannot be read is reported by its reason in the quarantine, not by OpenCV on stderr.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def decode(
    source: str | Path | bytes,
    size: int | tuple[int, int],
    channels: Literal[1, 3],
    resize: Resize = "letterbox",
    window: tuple[float, float] | None = None,
    frames: Frames = "reject",
) -> NDArray[np.uint8]:
    """Read one JPEG, PNG, BMP, TIFF, WebP or DICOM, known by its content, as an array of the asked size.

    One conversion for everything: EXIF orientation is applied; 16-bit values are scaled by 1/257 so that 0..65535
    becomes 0..255; palettes are resolved; alpha is dropped (in a TIFF, libtiff first multiplies the colours by it);
    CMYK becomes RGB; colour to grey is ITU-R 601 luma, grey to colour is repeated. A JPEG of at least twice the asked
    size is decoded at a half, quarter or eighth of its own. DICOM: see `medvision.data.dicom.read.decode`.

    Args:
        source: path of the file, or its bytes.
        size: target height and width in pixels, or one number for both.
        channels: 1 for grey, 3 for RGB.
        resize: "letterbox" keeps the aspect ratio and pads with zeros, "stretch" ignores it, "crop" keeps it and
            cuts the centre.
        window: centre and width for grey DICOM, in units after the modality LUT, instead of what the file says.
        frames: "first" or "middle" takes that frame of a file with several frames or pages, "reject" refuses it.
            An animation has a first one only; further pictures inside a phone's JPEG do not count.

    Returns:
        (C, H, W) uint8.

    Raises:
        BadImage: if the file is missing, empty, truncated, damaged, of another format, under 2 pixels on a side,
            over `limits.MAX_PIXELS`, has pixels other than 8-bit and 16-bit integers, or is DICOM without a decoder.
        DataError: if it is DICOM and pydicom is not installed.
    """
    data = source if isinstance(source, bytes) else _read(Path(source))
    return _decode(data, height_width(size), channels, resize, window, frames)[0]


def decode_all(
    paths: Sequence[str | Path],
    size: int | tuple[int, int],
    channels: Literal[1, 3],
    resize: Resize = "letterbox",
    progress: Callable[[int, int], None] | None = None,
    *,
    window: tuple[float, float] | None = None,
    frames: Frames = "reject",
) -> tuple[NDArray[np.uint8], list[Unusable]]:
    """Decode many files in parallel into one array; see `decode`.

    Args:
        paths: the N files.
        size: target height and width in pixels, or one number for both.
        channels: 1 for grey, 3 for RGB.
        resize: as in `decode`.
        progress: called in this thread with the number of files done and N.
        window: as in `decode`.
        frames: as in `decode`.

    Returns:
        (N, C, H, W) uint8, zeros where a file is bad, and (index, reason, stage) of each bad file in order.
    """
    images = np.empty((len(paths), channels, *height_width(size)), np.uint8)
    bad: list[Unusable] = []
    done = 0
    for chunk, unusable in decode_chunks(paths, size, channels, resize, window=window, frames=frames):
        images[done : done + len(chunk)] = chunk
        bad += unusable
        done += len(chunk)
        if progress is not None:
            progress(done, len(paths))
    return images, bad


def decode_chunks(
    paths: Sequence[str | Path],
    size: int | tuple[int, int],
    channels: Literal[1, 3],
    resize: Resize = "letterbox",
    *,
    window: tuple[float, float] | None = None,
    frames: Frames = "reject",
) -> Iterator[tuple[NDArray[np.uint8], list[Unusable]]]:
    """Decode many files in parallel, some at a time and in order; see `decode_all`.

    However many files there are, it holds no more than a few chunks for each thread. Files whose extension is wrong
    are used and counted in a warning at the end.

    Yields:
        (n, C, H, W) uint8 of the next n files, zeros where a file is bad, and (index, reason, stage) of each bad one.
    """
    height, width = height_width(size)
    misnamed: list[str] = []

    def decode_chunk(start: int) -> tuple[NDArray[np.uint8], list[Unusable]]:
        chunk = paths[start : start + _CHUNK]
        images = np.zeros((len(chunk), channels, height, width), np.uint8)
        bad: list[Unusable] = []
        for index, path in enumerate(map(Path, chunk)):
            try:
                images[index], kind = _decode(_read(path), (height, width), channels, resize, window, frames)
            except BadImage as error:
                bad.append((start + index, error.reason, "decode"))
                continue
            if EXTENSIONS.get(path.suffix.lower(), kind) != kind:
                misnamed.append(f"{path.name} is {kind}")
        return images, bad

    # Threads are enough: OpenCV releases the GIL while it decodes and resizes.
    workers = os.cpu_count() or 1
    pool = ThreadPoolExecutor(workers)
    pending: deque[Future[tuple[NDArray[np.uint8], list[Unusable]]]] = deque()
    try:
        for start in range(0, len(paths), _CHUNK):
            pending.append(pool.submit(decode_chunk, start))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
    if misnamed:
        log.warning("%d file(s) were read by content, not by extension: %s ...", len(misnamed), sorted(misnamed)[0])


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadImage(f"file is larger than {MAX_BYTES / 1e6:.0f} MB")
        return path.read_bytes()
    except OSError as error:
        raise BadImage(f"cannot be read: {error.strerror or error}") from error


def _decode(
    data: bytes,
    size: tuple[int, int],
    channels: Literal[1, 3],
    resize: Resize,
    window: tuple[float, float] | None,
    frames: Frames,
) -> tuple[NDArray[np.uint8], str]:
    """(C, *size) pixels of a file's bytes, and the name of its format."""
    if dicom.is_dicom(data):
        pixels, kind = dicom.decode(data, window, frames), "DICOM"
        shape = pixels.shape[0], pixels.shape[1]
    else:
        pixels, shape, kind = _decode_file(data, size, resize, frames)
    return np.ascontiguousarray(conform(pixels, size, channels, resize, shape)), kind


def _decode_file(
    data: bytes, size: tuple[int, int], resize: Resize, frames: Frames
) -> tuple[NDArray[np.uint8], tuple[int, int], str]:
    """Grey (H, W) or RGB (H, W, 3) pixels of a file's bytes, perhaps reduced; its own shape; its format."""
    kind, mode, shape, page = _check_header(data, frames)
    divisor = _divisor(shape, size, resize) if kind == "JPEG" and mode in ("L", "RGB") else 1
    flags = _REDUCED.get((mode, divisor), cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH)
    buffer = np.frombuffer(data, np.uint8)
    # Reading from memory, OpenCV 5 returns None for a file cut short at any byte; reading a path may pad with grey.
    try:
        if page:
            _, pages = cv2.imdecodemulti(buffer, flags, range=(page, page + 1))
            pixels = pages[0] if pages else None
        else:
            pixels = cv2.imdecode(buffer, flags)
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
    found = pixels.shape[0], pixels.shape[1]
    if divisor == 1:
        shape = found
    elif found != (-(-shape[0] // divisor), -(-shape[1] // divisor)):
        shape = shape[::-1]  # turned by its EXIF orientation
    return np.asarray(pixels, np.uint8), shape, kind


def _check_header(data: bytes, frames: Frames) -> tuple[str, str, tuple[int, int], int]:
    """Refuse by what the header says, before anything is allocated for the pixels.

    Returns:
        The format, the mode in PIL's words, (height, width) as stored, and the number of the page to take.
    """
    if not data:
        raise BadImage("file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=_PIL_FORMATS) as header:
            # MPO: a JPEG with further pictures behind it, as phones write them
            kind = "JPEG" if header.format == "MPO" else str(header.format)
            page = _choose_page(header, frames) if kind != "JPEG" else 0
            width, height = header.size
            mode = header.mode
    except BadImage:
        raise
    except UnidentifiedImageError as error:
        raise BadImage("not a JPEG, PNG, BMP, TIFF, WebP or DICOM image") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImage(f"header promises over {MAX_PIXELS} pixels") from error
    except Exception as error:  # a hostile header may provoke any error in the parser
        raise BadImage(f"unreadable header: {error}") from error
    check_size(width, height)
    return kind, mode, (height, width), page


def _choose_page(header: Image.Image, frames: Frames) -> int:
    """Number of the page to take; `header` is left standing at it."""
    if not getattr(header, "is_animated", False):
        return 0
    if frames != "middle":
        return choose_frame(2, frames)
    if header.format != "TIFF":
        raise BadImage("is an animation, of which only the first frame can be taken; data.frames=first takes it")
    count = 1
    with suppress(EOFError):
        while count <= _MAX_PAGES:
            header.seek(count)
            count += 1
        raise BadImage(f"has more than {_MAX_PAGES} pages")
    page = choose_frame(count, frames)
    header.seek(page)
    return page


def _divisor(shape: tuple[int, int], size: tuple[int, int], resize: Resize) -> int:
    """8, 4 or 2 where a JPEG so reduced still covers the target, whichever way it lies; else 1."""
    binding = max if resize == "letterbox" else min
    upright, turned = (
        [length / target for length, target in zip(shape, way, strict=True)] for way in (size, size[::-1])
    )
    surplus = min(binding(upright), binding(turned))

    def fits(divisor: int) -> bool:
        # The last block may reach over the edge, which stretches the picture: by a quarter of a target pixel at most.
        return divisor <= surplus and max(-length % divisor for length in shape) <= surplus / 4

    return next((divisor for divisor in (8, 4, 2) if fits(divisor)), 1)
