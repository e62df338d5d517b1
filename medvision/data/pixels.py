"""The pixels of a table, whether its source brings arrays or names files."""

import os
from typing import Literal

import numpy as np
from rich.console import Console
from rich.progress import Progress

from medvision.data import cache, leakage, statistics
from medvision.data.cache import Decoded
from medvision.data.limits import Frames
from medvision.data.resize import Resize, conform_all, height_width
from medvision.data.table import ImageTable
from medvision.errors import ConfigError


def read_pixels(
    table: ImageTable,
    size: int | tuple[int, int] | None,
    channels: Literal[1, 3] | None,
    resize: Resize,
    *,
    window: tuple[float, float] | None,
    frames: Frames,
) -> Decoded:
    """All images of a table at one size, files from the cache of decoded images, with a progress bar.

    Args:
        table: N images.
        size: height and width in pixels, or one number for both; None keeps the size of a source that brings arrays.
        channels: 1 for grey, 3 for RGB; None keeps that of the arrays, and is 3 for files.
        resize: as in `medvision.data.decode.decode`, like the next two.
        window: likewise.
        frames: likewise.

    Returns:
        As `medvision.data.cache.read`; with arrays, one image for each of theirs.

    Raises:
        ConfigError: if files are to be read and there is no size.
        DataError: if the cache cannot be used.
    """
    if table.images is not None:
        pixels = conform_all(
            table.images,
            height_width(size) if size is not None else (table.images.shape[2], table.images.shape[3]),
            channels or (1 if table.images.shape[1] == 1 else 3),
            resize,
        )
        rows = table.frame["image"].to_numpy(np.int64)
        hashes = leakage.pixel_hashes(statistics.chunks(pixels, rows))
        plain = np.flatnonzero(statistics.one_coloured(pixels, rows))
        return Decoded(pixels, [], hashes, plain, statistics.moments(pixels))
    if size is None:
        raise ConfigError("Image files come in many sizes: set data.image_size, for instance to 224.")
    assert table.root is not None
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("Decoding images", total=len(table))
        return cache.read(
            [os.path.join(table.root, name) for name in table.ids.tolist()],  # noqa: PTH118 - a million in 1 s
            size,
            channels or 3,
            resize,
            window=window,
            frames=frames,
            progress=lambda done, _: bar.update(task, completed=done),
        )
