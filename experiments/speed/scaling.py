"""Time a step and memory against the number of images: 10,000 to 1,000,000 of 1 x 16 x 16, memory-mapped from a file.

Each size runs in a process of its own. Once it is the loader and the augmentation alone, by `BatchLoader` and
`Augmentation`; once the whole of a run's data, by `ImageDataModule` in `fit`, with its table, the hash of every image
and what else it keeps. Memory is RssAnon of /proc/self/status (what no file backs) at the end of a stretch of steps,
less what the process had before it opened the images; what setting up needs for a moment is not in it. Bytes a sample
are the difference between the largest and the smallest size. The loader's part includes the targets and rows it is
given.

A step trains the article's network on a batch of 256 with padded crop, mirror image and cutout (five parameters a
sample). The start of an epoch, which draws order and parameters for all images, is shared out among all its steps.

    python experiments/speed/scaling.py
"""

import itertools
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from epochs import Epoch, by_fit, in_memory, noise, step_through
from lightning.pytorch.callbacks import LambdaCallback
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from measuring import RESULTS, Seconds, allowed, parser, publish, read, share
from torch import Tensor

from medvision.data.augment import Augmentation
from medvision.data.loader import BatchLoader
from medvision.models.small_cnn import small_cnn
from medvision.reports.plots import BLUE, DIM, GREEN, INK, RULE, VERMILION

SHAPE = (1, 16, 16)
BATCH = 256
ALLOWED = 64  # bytes a sample

augmentation = Augmentation(crop_padding=2, horizontal_flip=True, cutout=4)
optimizer = partial(torch.optim.Adam, lr=1e-3, fused=True)


def main(arguments: Sequence[str] | None = None) -> None:
    given = read(parser(__file__, __doc__, rounds=2), arguments)
    sizes, steps = ((2_000, 200_000), 2) if given.tiny else ((10_000, 100_000, 1_000_000), 150)
    parts = {"training": trained, "loading": loaded, "module": whole}
    seconds: dict[str, Seconds] = {name: {str(size): [] for size in sizes} for name in parts}
    memory: dict[str, Seconds] = {name: {str(size): [] for size in sizes} for name in parts}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "images"
        write(file, sizes[-1])
        for size, (name, part) in itertools.product(list(sizes) * given.rounds, parts.items()):
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                took, needed = process.submit(part, file, size, steps).result()
            seconds[name][str(size)].append(took)
            memory[name][str(size)].append(needed)
    small, large = str(sizes[0]), str(sizes[-1])
    per_sample = {
        name: [(most - least) / (sizes[-1] - sizes[0]) for least, most in zip(found[small], found[large], strict=True)]
        for name, found in memory.items()
    }
    per_sample["loader and augmentation"] = per_sample["loading"]
    per_sample["medvision"] = per_sample["module"]
    named = {name: {f"{sizes[0]:,}": found[small], f"{sizes[-1]:,}": found[large]} for name, found in seconds.items()}
    ends = f"{sizes[-1]:,}", f"{sizes[0]:,}"
    rows = [
        share(f"a training step with {ends[0]} images over {ends[1]}", named["training"], *ends, at_most=1.1),
        share(f"loading and augmentation alone, {ends[0]} images over {ends[1]}", named["loading"], *ends),
        allowed("memory of loader and augmentation", per_sample["loading"], ALLOWED, unit="bytes a sample"),
        share(
            "memory of the whole data module over loader and augmentation",
            per_sample,
            "medvision",
            "loader and augmentation",
            unit="bytes a sample",
        ),
    ]
    publish(rows, given)
    if given.out or not given.tiny:
        draw(sizes, seconds, memory, (given.out or RESULTS) / "scaling.png")


def write(file: Path, n: int) -> None:
    """A file of n images, a part at a time; their first pixels count them, so that no two are the same."""
    some = noise(min(n, 100_000), SHAPE)
    with file.open("wb") as out:
        for first in range(0, n, len(some)):
            count = np.arange(first, min(first + len(some), n), dtype=np.uint32)
            some[: len(count), 0, 0, :4] = count[:, None].view(np.uint8)
            out.write(some[: len(count)])


def opened(file: Path, n: int) -> np.ndarray:
    return np.memmap(file, np.uint8, "r", shape=(n, *SHAPE))


def anonymous() -> int:
    """Bytes of this process that no file backs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("RssAnon:"))
    return int(line.split()[1]) * 1024


def trained(file: Path, n: int, steps: int) -> tuple[float, float]:
    """Seconds of a training step, and bytes of memory."""
    network = small_cnn(10, *SHAPE[:1], SHAPE[1:]).to(memory_format=torch.channels_last)
    adam = optimizer(network.parameters())
    return walk(opened(file, n), steps, lambda images, targets: step_through(network, adam, [(images, targets)], "32"))


def loaded(file: Path, n: int, steps: int) -> tuple[float, float]:
    """Seconds to load and augment a batch, and bytes of memory."""
    return walk(opened(file, n), steps, lambda images, targets: None)


def walk(images: np.ndarray, steps: int, use: Callable[[Tensor, Tensor], None]) -> tuple[float, float]:
    """Seconds of a step, the median over stretches of steps, and bytes of memory at their ends."""
    stretch(images[: 4 * BATCH], 4, use)  # warms up
    before = anonymous()
    found = [stretch(images, steps, use) for _ in range(max(1, steps * BATCH // len(images)))]
    seconds, memory = zip(*found, strict=True)
    return statistics.median(seconds), max(memory) - before


def stretch(images: np.ndarray, steps: int, use: Callable[[Tensor, Tensor], None]) -> tuple[float, float]:
    """At most so many steps of an epoch: seconds of each, with its share of the epoch's start, and memory after."""
    rows = np.arange(len(images))
    shape: dict[str, Any] = {"batch_size": min(BATCH, len(rows)), "shuffle": True, "drop_last": True, "seed": 0}
    loader = BatchLoader(images, rows % 10, rows, **shape)
    begin = time.perf_counter()
    params = augmentation.draw(0, 0, len(rows))
    batches = iter(loader)
    first = next(batches)
    started = time.perf_counter()
    done = 0
    for batch, targets, indices in itertools.chain([first], itertools.islice(batches, steps - 1)):
        use(augmentation(batch, params[indices]), targets)
        done += 1
    ended = time.perf_counter()
    return (started - begin) / len(loader) + (ended - started) / done, anonymous()


def whole(file: Path, n: int, steps: int) -> tuple[float, float]:
    """Seconds of a step in `fit`, its start included, and bytes of memory at the last one."""
    images = opened(file, n)
    fit(images[: 8 * BATCH], 2)  # warms up
    before = anonymous()
    steps = min(steps, 20)  # more need no more memory
    seconds, memory = fit(images, steps)
    return seconds / steps, memory - before


def fit(images: np.ndarray, steps: int) -> tuple[float, float]:
    found = [0]
    look = LambdaCallback(on_train_batch_end=lambda *_: found.append(anonymous()))
    data = in_memory(images, BATCH, augmentation)
    return by_fit(Epoch(data, small_cnn, optimizer, BATCH, steps), [look]), found[-1]


def draw(sizes: Sequence[int], seconds: dict[str, Seconds], memory: dict[str, Seconds], path: Path) -> None:
    """Both quantities against the number of images."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    lines = {
        left: (
            ("training step", seconds["training"], 1e3, BLUE, "o-"),
            ("loading and augmentation", seconds["loading"], 1e3, GREEN, "s--"),
        ),
        right: (
            ("whole data module", memory["module"], 1e-6, VERMILION, "o-"),
            ("loader and augmentation", memory["loading"], 1e-6, GREEN, "s--"),
        ),
    }
    for axes, several in lines.items():
        for name, found, scale, colour, style in several:
            values = [scale * statistics.median(found[str(size)]) for size in sizes]
            axes.plot(sizes, values, style, color=colour, label=name)
    right.plot(sizes, [size * ALLOWED * 1e-6 for size in sizes], ":", color=DIM, label=f"{ALLOWED} bytes a sample")
    left.set(title="time of a step, ms", ylim=(0, None))
    right.set(title="anonymous memory, MB", yscale="log")
    for axes in (left, right):
        axes.set(xscale="log", xlabel="images")
        axes.grid(color=RULE, linewidth=0.6)
        axes.tick_params(colors=INK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
