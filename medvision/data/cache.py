"""Decoded images on disk: made once, in parallel, and mapped into memory by every later run.

An entry is a folder named by a SHA-256 over what its pixels depend on. It appears by a rename when it is whole. Beside
it lies `<key>.lock`, held while the entry is made, opened or removed, and, while it is made, `<key>.partial`.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medvision.data.cache_folder import HASHES, INDEX, MOMENTS, PIXELS, limit, location, locked, make_room, total_size
from medvision.data.decode import Unusable, decode_chunks
from medvision.data.leakage import pixel_hashes
from medvision.data.limits import Frames
from medvision.data.resize import Resize, height_width
from medvision.data.statistics import moments, one_coloured
from medvision.errors import DataError
from medvision.files import sync

log = logging.getLogger(__name__)

FORMAT = 2  # to be raised when `decode` gives other pixels, or the files of an entry change

# Another version may give other pixels; a decoder that is installed later makes files usable.
_DECODERS = (
    *("opencv-python-headless", "pillow", "pydicom"),
    *("python-gdcm", "pyjpegls", "pylibjpeg", "pylibjpeg-openjpeg", "pylibjpeg-libjpeg", "pylibjpeg-rle"),
)
# What is compared with its hash when an entry is opened: 0.15 s of SHA-256, at most.
_CHECKED_BYTES = 256_000_000
_CHECKED_IMAGES = 50_000


class Decoded(NamedTuple):
    """What `read` returns.

    Attributes:
        pixels: (N, C, H, W) uint8, mapped read-only; zeros where a file is bad.
        bad: index, reason and stage of each file that cannot be used, in order.
        hashes: (N,) of `medvision.data.leakage.pixel_hashes`.
        plain: rows of the images of one colour; see `medvision.data.statistics.one_coloured`.
        moments: (N, C, 2) of `medvision.data.statistics.moments`. Like the two before, they are kept so that a later
            run need not read all pixels.
    """

    pixels: NDArray[np.uint8]
    bad: list[Unusable]
    hashes: NDArray[np.void]
    plain: NDArray[np.intp]
    moments: NDArray[np.int64]


def read(
    paths: Sequence[str | Path],
    size: int | tuple[int, int],
    channels: Literal[1, 3],
    resize: Resize = "letterbox",
    *,
    window: tuple[float, float] | None = None,
    frames: Frames = "reject",
    progress: Callable[[int, int], None] | None = None,
) -> Decoded:
    """Decode files, or find them decoded by an earlier run with the same files and settings.

    The files are known by their paths, sizes, modes and times of modification. One that changes while it is read is
    bad in this run, and nothing is kept. When another process makes the same entry, this one waits and then uses it.

    An entry is checked when it is opened: its index and hashes by a digest, the number of its pixels, and the pixels
    of all images up to 256 MB, else of as many spread evenly. Reading all pixels of a large set would take longer than
    the run's first steps; truncated and half-written files show in what is checked.

    Args:
        paths: the N files, at least one.
        size: target height and width in pixels, or one number for both.
        channels: 1 for grey, 3 for RGB.
        resize: as in `medvision.data.decode.decode`.
        window: as in `decode`.
        frames: as in `decode`.
        progress: called with the number of files done and N while files are decoded.

    Raises:
        DataError: if the cache cannot be written, or the images do not fit on its disk.
        ConfigError: if MEDVISION_CACHE_LIMIT is not a number of GB.
    """
    names = [os.fspath(path) for path in paths]
    shape = (len(names), channels, *height_width(size))
    state = _state(names)
    settings = {"size": shape[1:], "resize": resize, "window": window, "frames": frames}
    root = location()
    entry = root / _key(names, state, settings)
    try:
        for folder in (root.parent, root):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(entry):
            found = _open(entry, shape)
            if found is None:
                chunks = decode_chunks(names, size, channels, resize, window=window, frames=frames)
                found = _build(entry, names, state, shape, chunks, progress)
        total = total_size(root)
    except OSError as error:
        raise DataError(
            f"The cache of decoded images in {root} cannot be used: {error.strerror or error}.\n"
            "Point the environment variable MEDVISION_CACHE at a folder on a disk with room, which you may write to."
        ) from error
    log.info(
        "Decoded images (patients' pixels) lie in %s: %s of this data set, %s in all of at most %s. To clear: rm -r %s",
        root,
        *(f"{value / 1e9:.2f} GB" for value in (found.pixels.nbytes, total, limit())),
        root,
    )
    return found


def _state(names: Sequence[str]) -> NDArray[np.int64]:
    """(N, 3) size in bytes, time of modification in ns, and mode of each file; -1 where there is none."""

    def facts() -> Iterator[int]:
        for name in names:
            try:
                found = os.stat(name)  # noqa: PTH116 - a Path for each of a million files takes longer than its stat
            except OSError:
                yield from (-1, -1, -1)
            else:
                yield found.st_size
                yield found.st_mtime_ns
                yield found.st_mode  # a file that may be read now could have been closed to us

    return np.fromiter(facts(), np.int64, 3 * len(names)).reshape(-1, 3)


def _key(names: Sequence[str], state: NDArray[np.int64], settings: dict[str, Any]) -> str:
    """SHA-256, in hex, over everything that the pixels depend on."""
    here = "" if all(map(os.path.isabs, names)) else str(Path.cwd())
    facts = {"format": FORMAT, "folder": here, "decoders": {name: _version(name) for name in _DECODERS}, **settings}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name in names:
        digest.update(os.fsencode(name) + b"\0")
    digest.update(state.tobytes())
    return digest.hexdigest()


def _version(package: str) -> str | None:
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return None


def _open(entry: Path, shape: tuple[int, ...]) -> Decoded | None:
    """The finished entry; None, and nothing left of it, where it is damaged."""
    if not entry.is_dir():
        return None
    try:
        found = _checked(entry, shape)
    except (ValueError, FileNotFoundError) as error:
        log.warning("The decoded images in %s are damaged (%s) and are decoded again.", entry, error)
        shutil.rmtree(entry)
        return None
    os.utime(entry / INDEX)  # its last use, by which entries are removed
    return found


def _checked(entry: Path, shape: tuple[int, ...]) -> Decoded:
    digest, _, text = (entry / INDEX).read_bytes().partition(b"\n")
    hashes, sums = (entry / HASHES).read_bytes(), np.memmap(entry / MOMENTS, np.int64, "r")
    if digest.decode("ascii", "replace") != _digest(text, hashes, sums):
        raise ValueError("index, hashes or moments have changed")
    index = json.loads(text)
    found = Decoded(
        _mapped(entry, shape),
        [(row, reason, stage) for row, reason, stage in index["bad"]],
        np.frombuffer(hashes, "V16"),
        np.array(index["plain"], np.intp),
        sums.reshape(*shape[:2], 2),
    )
    nbytes = found.pixels[0].nbytes
    count = max(1, min(len(found.pixels), _CHECKED_IMAGES, _CHECKED_BYTES // nbytes))
    with (entry / PIXELS).open("rb", buffering=0) as file:  # mapped pages would count as this process's memory
        for row in np.linspace(0, len(found.pixels) - 1, count).astype(np.int64).tolist():
            file.seek(row * nbytes)
            image = np.frombuffer(file.read(nbytes), np.uint8)
            if pixel_hashes([image[np.newaxis]])[0] != found.hashes[row]:
                raise ValueError(f"the pixels of image {row} have changed")
    return found


def _mapped(folder: Path, shape: tuple[int, ...]) -> Any:
    """(N, C, H, W) uint8. Should the file be removed, the map outlives it; Windows keeps a mapped file."""
    with (folder / PIXELS).open("rb") as file:
        if os.fstat(file.fileno()).st_size != np.prod(shape, dtype=np.int64):
            raise ValueError("pixels are missing")
        return np.memmap(file, np.uint8, "r", shape=shape)


def _build(
    entry: Path,
    names: Sequence[str],
    state: NDArray[np.int64],
    shape: tuple[int, ...],
    chunks: Iterator[tuple[NDArray[np.uint8], list[Unusable]]],
    progress: Callable[[int, int], None] | None,
) -> Decoded:
    """Decode into a folder beside `entry` and rename it; memory does not grow with the number of images."""
    partial = entry.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed: the lock is ours
    make_room(entry.parent, int(np.prod(shape, dtype=np.int64)))
    partial.mkdir(mode=0o700)
    bad: list[Unusable] = []
    plain: list[int] = []
    hashes = bytearray()
    done = 0
    with (partial / PIXELS).open("wb") as file, (partial / MOMENTS).open("wb") as sums_file:
        for images, unusable in chunks:
            file.write(images.data)
            sums_file.write(moments(images).data)
            hashes += pixel_hashes([images]).tobytes()
            bad += unusable
            plain += (done + np.flatnonzero(one_coloured(images, np.arange(len(images))))).tolist()
            done += len(images)
            if progress is not None:
                progress(done, len(names))
    kept = np.memmap(partial / MOMENTS, np.int64, "r", shape=(*shape[:2], 2))
    found = Decoded(_mapped(partial, shape), bad, np.frombuffer(bytes(hashes), "V16"), np.array(plain, np.intp), kept)
    changed = np.flatnonzero((_state(names) != state).any(axis=1)).tolist()
    if changed:
        log.warning("%d file(s) changed while they were read: %s ...", len(changed), names[changed[0]])
        shutil.rmtree(partial)  # the map outlives it
        late = {index: (index, "changed while it was read", "decode") for index in changed}
        return found._replace(bad=sorted(({one[0]: one for one in bad} | late).values()))
    (partial / HASHES).write_bytes(hashes)
    text = json.dumps({"bad": bad, "plain": plain}).encode()
    (partial / INDEX).write_bytes(_digest(text, hashes, kept).encode() + b"\n" + text)
    for path in (*partial.iterdir(), partial):
        sync(path)
    partial.rename(entry)
    sync(entry.parent)
    return found


def _digest(text: bytes, hashes: bytes | bytearray, sums: NDArray[np.int64]) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in (text, hashes, sums.data))).hexdigest()
