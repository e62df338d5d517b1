"""The folder of decoded images: where it lies, who holds what in it, and what leaves when it is full."""

import logging
import os
import shutil
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from medvision.errors import ConfigError, DataError
from medvision.files import Locked, lock

log = logging.getLogger(__name__)

INDEX, HASHES, MOMENTS, PIXELS = "index.json", "hashes", "moments", "pixels"  # the files of an entry
DEFAULT_LIMIT = 50.0  # GB


def location() -> Path:
    """The folder of the entries: below MEDVISION_CACHE, else below ~/.cache/medvision."""
    return Path(os.environ.get("MEDVISION_CACHE") or Path.home() / ".cache" / "medvision").absolute() / "images"


def limit() -> float:
    """What all entries together may take, in bytes: MEDVISION_CACHE_LIMIT in GB, else `DEFAULT_LIMIT`.

    Raises:
        ConfigError: if it is not a positive number.
    """
    text = os.environ.get("MEDVISION_CACHE_LIMIT") or str(DEFAULT_LIMIT)
    with suppress(ValueError):
        if (gigabytes := float(text)) > 0:
            return gigabytes * 1e9
    raise ConfigError(f"MEDVISION_CACHE_LIMIT={text}: expected a number of GB above 0, such as 50.")


def locked(entry: Path, *, wait: bool = True) -> AbstractContextManager[None]:
    """Hold an entry against other processes; see `medvision.files.lock`."""

    def waiting() -> None:
        log.info("Another run is decoding or opening the same images: waiting for it ...")

    return lock(entry.with_suffix(".lock"), wait=wait, waiting=waiting)


def make_room(root: Path, needed: int) -> None:
    """Remove what killed runs left and, down to the limit, the entries whose last use is longest ago.

    Raises:
        DataError: if the disk lacks room for `needed` bytes.
    """
    for path in root.glob("*.partial"):
        _remove(path)
    entries = sorted(_entries(root), key=_last_use)
    total = sum(map(_size, entries)) + needed
    for path in entries:
        size = _size(path)
        if total > limit() and _remove(path):
            log.info("Removed the decoded images in %s, unused for longest, to keep MEDVISION_CACHE_LIMIT.", path)
            total -= size
    if total > limit():
        log.warning(
            "The decoded images take %.1f GB, over the limit of %.1f GB: nothing else can be removed.\n"
            "Raise MEDVISION_CACHE_LIMIT, or choose a smaller data.image_size.",
            total / 1e9,
            limit() / 1e9,
        )
    free = shutil.disk_usage(root).free
    if needed > free:
        raise DataError(
            f"The decoded images need {needed / 1e9:.1f} GB; the disk of {root} has {free / 1e9:.1f} GB free.\n"
            "Point the environment variable MEDVISION_CACHE at a larger disk, or choose a smaller data.image_size."
        )


def total_size(root: Path) -> int:
    """Bytes in all entries."""
    return sum(map(_size, _entries(root)))


def _entries(root: Path) -> list[Path]:
    return [path for path in root.iterdir() if not path.suffix]


def _last_use(entry: Path) -> float:
    with suppress(FileNotFoundError):
        return (entry / INDEX).stat().st_mtime
    return 0.0


def _size(entry: Path) -> int:
    """Bytes in an entry, 0 where another process has just removed it."""
    with suppress(FileNotFoundError):
        return sum(file.stat().st_size for file in entry.iterdir())
    return 0


def _remove(path: Path) -> bool:
    """Remove an entry, or what a killed run left of one, unless another process is making or opening it.

    A run that has the entry mapped keeps its pixels on Linux and macOS. On Windows the rename fails, and all stays.
    """
    with suppress(Locked, PermissionError), locked(path.with_suffix(""), wait=False):
        if not path.suffix:
            path = path.rename(path.with_suffix(".partial"))
        shutil.rmtree(path)
        return True
    return False
