"""Time of the guard on a set of CIFAR's size: 60,000 images of 32 x 32 RGB, of which 1,000 are planted copies.

It hashes all pixels, looks for copies across splits and contradictory labels, and applies the policy. What is reported
is the median of the rounds; a training run spends it once.

    python experiments/speed/guard.py
"""

import argparse
import logging
import statistics
import time

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from medvision.data import guard
from medvision.data.statistics import chunks
from medvision.data.table import ImageTable

LIMIT = 3.0  # seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    logging.disable()  # the guard is loud about what was planted
    data = cifar_like()
    seconds = [measure(data) for _ in range(arguments.rounds + 1)][1:]  # the first round warms up
    table = Table(title=f"{len(data):,} images of {data.images.shape[1:]}", title_justify="left")
    for column in ("hash", "inspect and apply", "together", "of the allowed 3 s"):
        table.add_column(column, justify="right")
    hashing, looking = (statistics.median(values) for values in zip(*seconds, strict=True))
    together = statistics.median(map(sum, seconds))
    table.add_row(*(f"{value:.2f} s" for value in (hashing, looking, together)), f"{together / LIMIT:.2f}")
    Console().print(table)


def cifar_like() -> ImageTable:
    """50,000 + 10,000 images of noise; the last 1,000 of the test part are copies from train."""
    images: NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (60_000, 3, 32, 32), dtype=np.uint8)
    images[-1000:] = images[:1000]
    labels = np.arange(60_000) % 10
    split = np.repeat(["train", "test"], [50_000, 10_000])
    return ImageTable(
        pd.DataFrame({"image": np.arange(60_000), "label": labels, "split": split}), tuple("0123456789"), images
    )


def measure(table: ImageTable) -> tuple[float, float]:
    """Seconds to hash, and seconds for all the rest."""
    begin = time.perf_counter()
    hashes = guard.pixel_hashes(chunks(table.images, np.arange(len(table))))
    hashed = time.perf_counter()
    findings = guard.inspect(table, hashes)
    cleaned = guard.apply(table, findings, "drop")
    ended = time.perf_counter()
    assert int((cleaned.splits == "dropped").sum()) == len(findings.copied) == 1000
    return hashed - begin, ended - hashed


if __name__ == "__main__":
    main()
