"""Time of the guard on a set of CIFAR's size: 60,000 images of 32 x 32 RGB, of which 1,000 are planted copies.

It hashes all pixels, looks for copies across splits and contradictory labels, and applies the policy; a training run
does so once. There is no peer, but a limit.

    python experiments/speed/guard.py
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from measuring import allowed, clocked, in_turns, parser, publish, read
from numpy.typing import NDArray

from medvision.data import leakage as guard
from medvision.data.statistics import chunks
from medvision.data.table import ImageTable
from medvision.tasks import Task

LIMIT = 3.0  # seconds


def main(arguments: Sequence[str] | None = None) -> None:
    given = read(parser(__file__, __doc__, rounds=5), arguments)
    data = cifar_like(6_000 if given.tiny else 60_000)
    found = in_turns({"guard": clocked(lambda: look(data))}, given.rounds)
    publish([allowed(f"the guard on {len(data):,} images of 32 x 32 colour", found["guard"], LIMIT)], given)


def cifar_like(n: int) -> ImageTable:
    """n images of noise, a sixth of them to test; the last 1,000 are copies from train."""
    images: NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (n, 3, 32, 32), dtype=np.uint8)
    images[-1000:] = images[:1000]
    split = np.repeat(["train", "test"], [n - n // 6, n // 6])
    frame = pd.DataFrame({"image": np.arange(n), "label": np.arange(n) % 10, "split": split})
    return ImageTable(frame, Task.classes(tuple("0123456789")), images)


def look(table: ImageTable) -> None:
    hashes = guard.pixel_hashes(chunks(table.images, np.arange(len(table))))
    findings = guard.inspect(table, hashes)
    cleaned = guard.apply(table, findings, "drop")
    assert int((cleaned.splits == "dropped").sum()) == len(findings.copied) == 1000


if __name__ == "__main__":
    main()
