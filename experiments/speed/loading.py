"""Whole batches from memory over torch's DataLoader on the same tensors, and the share of a training step they take.

Both hand out the same uint8 images in a new order each epoch, in batches of the same size, without changing them. The
DataLoader reads a TensorDataset, with no worker or two, whichever is faster here. A training step is one of the
article's network in `fit`, at batches of 32, where loading weighs most.

    python experiments/speed/loading.py
"""

import itertools
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from epochs import Epoch, by_fit, in_memory, noise
from measuring import Row, allowed, clocked, fastest, in_turns, parser, publish, read, speedup
from torch.utils.data import DataLoader, TensorDataset

from medvision.data.loader import BatchLoader
from medvision.models.small_cnn import small_cnn

STEPS = 300


def main(arguments: Sequence[str] | None = None) -> None:
    given = read(parser(__file__, __doc__, rounds=5), arguments)
    grey, colour = (2_000, 2_000) if given.tiny else (60_000, 50_000)
    publish(
        [
            *measure("MNIST", noise(grey, (1, 28, 28)), 32, given.rounds),
            *measure("CIFAR-10", noise(colour, (3, 32, 32)), 256, given.rounds),
            step_share(noise(grey, (1, 28, 28)), given.rounds),
        ],
        given,
    )


def measure(name: str, images: np.ndarray, batch_size: int, rounds: int) -> list[Row]:
    ours, theirs = loaders(images, batch_size)
    best = fastest(theirs)
    found = in_turns({"medvision": ours, best: theirs[best]}, rounds)
    claim = f"an epoch of batches of {batch_size} from {len(images):,} images of {name}'s size in memory"
    return [speedup(claim, found, "medvision", best, at_least=20)]


def step_share(images: np.ndarray, rounds: int) -> Row:
    """Loading for each step as a share of a whole step, in percent, pair by pair."""
    ours, _ = loaders(images, 32)
    epoch = Epoch(in_memory(images, 32), small_cnn, partial(torch.optim.Adam, lr=1e-3, fused=True), 32, STEPS)
    batches, steps = len(images) // 32, epoch.length
    found = in_turns({"medvision": lambda: ours() / batches, "a whole step": lambda: by_fit(epoch) / steps}, rounds)
    percent = [100 * own / whole for own, whole in zip(found["medvision"], found["a whole step"], strict=True)]
    milliseconds = 1e3 * sorted(found["a whole step"])[rounds // 2]
    claim = f"loading's part of a training step of {milliseconds:.1f} ms: MNIST's size, the article's network, batch 32"
    return allowed(claim, percent, 2.0, unit="%")


def loaders(images: np.ndarray, batch_size: int) -> tuple[Callable[[], float], dict[str, Callable[[], float]]]:
    """An epoch of each: ours, and the DataLoader's by number of workers; each returns its seconds."""
    targets = np.arange(len(images)) % 10
    shape = {"batch_size": batch_size, "shuffle": True, "drop_last": True}
    count = itertools.count().__next__
    ours = BatchLoader(images, targets, np.arange(len(images)), **shape, seed=0, epoch=count)
    dataset = TensorDataset(torch.from_numpy(images), torch.from_numpy(targets))
    theirs = {
        f"DataLoader, {workers} workers": clocked(partial(exhaust, DataLoader(dataset, num_workers=workers, **shape)))
        for workers in (0, 2)
    }
    return clocked(partial(exhaust, ours)), theirs


def exhaust(loader: BatchLoader | DataLoader) -> None:
    for _ in loader:
        pass


if __name__ == "__main__":
    main()
