"""Files that are either wholly there or not at all."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Lend a temporary path beside `path`; when the block ends, flush it to disk and move it over `path`.

    A crash at any moment leaves the old file or the new one, never a part. When the block fails, `path` is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


@contextmanager
def replacing_directory(directory: Path) -> Iterator[Path]:
    """Lend an empty directory beside `directory`; when the block ends, flush it to disk and put it in its place.

    A directory cannot be renamed over another, so for an instant neither is there; should the process be killed just
    then, the old one is found beside as `.<name>.old` and the next save puts it back first.
    """
    staged, retired = _beside(directory)
    restore_directory(directory)
    for leftover in (staged, retired):
        shutil.rmtree(leftover, ignore_errors=True)
    staged.mkdir(parents=True)
    try:
        yield staged
        for path in (*staged.iterdir(), staged):
            sync(path)
        if directory.exists():
            directory.rename(retired)
        staged.rename(directory)
        sync(directory.parent)
    finally:
        restore_directory(directory)
        shutil.rmtree(staged, ignore_errors=True)
        shutil.rmtree(retired, ignore_errors=True)


def restore_directory(directory: Path) -> None:
    """Put back a directory whose replacement was killed between its two renames."""
    _, retired = _beside(directory)
    if retired.exists() and not directory.exists():
        retired.rename(directory)


def _beside(directory: Path) -> tuple[Path, Path]:
    """Where the new directory is made and where the old one waits until the new one is in its place."""
    return directory.with_name(f".{directory.name}.new"), directory.with_name(f".{directory.name}.old")


def link(source: Path, target: Path) -> None:
    """Give a file a second name where the file system can, else make a copy.

    Raises:
        OSError: if neither can be done.
    """
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def sync(path: Path) -> None:
    """Flush a file, or a directory's entries, to disk. Windows flushes files only."""
    if os.name == "nt":
        if path.is_file():
            with path.open("r+b") as file:
                os.fsync(file.fileno())
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Locked(Exception):
    """Another process holds the lock."""


@contextmanager
def lock(path: Path, *, wait: bool = True, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock file `path` within the block; the lock ends with the process, however that ends.

    Args:
        path: of the lock file, which stays: removed, it could be held by one process and made again by another.
        wait: until another process lets go of it.
        waiting: called once before the wait, for a message.

    Raises:
        Locked: if another process holds it and `wait` is false.
        OSError: if the file cannot be made.
    """
    held = FileLock(path, thread_local=False)
    try:
        held.acquire(blocking=False)
    except Timeout:
        if not wait:
            raise Locked(path) from None
        if waiting is not None:
            waiting()
        held.acquire()
    try:
        yield
    finally:
        held.release()
