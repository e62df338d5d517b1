"""One epoch of training, by medvision's `fit` and by the best loop one can write by hand.

Both train the same network from the same weights on the same images in memory, with the same batch size, optimizer and
precision; validation and checkpoints are off.
"""

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from medvision.data.augment import Augment
from medvision.data.datamodule import ImageDataModule
from medvision.data.options import DataOptions
from medvision.data.table import ImageTable
from medvision.models.network import Network
from medvision.randomness import generator, key
from medvision.tasks import Task
from medvision.training.classifier import Classifier
from medvision.training.fit import fit_network
from medvision.training.trainer import build_trainer, choose_precision


@dataclass(frozen=True)
class Epoch:
    """What both loops are to train.

    Attributes:
        data: set up.
        build: returns the network for (num_classes, in_channels, image_size).
        optimizer: called with (name, parameter) pairs.
        batch_size: that of `data`.
        steps: the epoch ends after so many; None takes all images.
    """

    data: ImageDataModule
    build: Callable[..., Network]
    optimizer: Callable[[Iterable[tuple[str, nn.Parameter]]], Optimizer]
    batch_size: int
    steps: int | None = None

    @property
    def length(self) -> int:
        """Number of steps."""
        whole = len(self.data.train_dataloader())
        return whole if self.steps is None else min(self.steps, whole)

    @property
    def precision(self) -> str:
        """What trainer.precision=auto chooses."""
        return choose_precision("cpu", self.batch_size)

    def network(self) -> Network:
        """The network, the same weights each time."""
        torch.manual_seed(0)
        network = self.build(self.data.num_classes, self.data.in_channels, self.data.image_size)
        prepare(network, self.data)
        return network.to(memory_format=torch.channels_last)


def prepare(network: Network, data: ImageDataModule) -> None:
    """What a run does to a new network before the first step, from its training images."""
    network.set_statistics(*data.channel_statistics())
    network.fit_layers(data.split("train").images[:5000])


def noise(n: int, shape: tuple[int, int, int]) -> np.ndarray:
    """(n, C, H, W) uint8 noise: the time of what is measured here does not depend on what the images show."""
    return generator("noise").integers(0, 256, (n, *shape), dtype=np.uint8)


def in_memory(images: np.ndarray, batch_size: int, augmentation: Augment | None = None) -> ImageDataModule:
    """A data module over images of ten classes, set up; 2 % of them are kept from training."""
    frame = pd.DataFrame({"image": np.arange(len(images)), "label": np.arange(len(images)) % 10})
    table = ImageTable(frame, Task.classes(tuple("0123456789")), images)
    data = ImageDataModule(
        lambda: table,
        DataOptions(batch_size=batch_size, val_fraction=0.01, test_fraction=0.01),
        augmentation=augmentation,
    )
    data.setup()
    return data


def by_fit(epoch: Epoch, callbacks: Sequence[Callback] = ()) -> float:
    """Seconds of an epoch through medvision's trainer, everything between its first and its last hook included."""
    classifier = Classifier(epoch.network(), epoch.optimizer)
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(
            accelerator="cpu",
            precision=epoch.precision,
            max_epochs=1,
            limit_train_batches=epoch.length,
            limit_val_batches=0,
            callbacks=[
                Checkpoint(),
                *callbacks,
            ],  # one that does nothing, for Lightning brings its own if there is none
            directory=Path(folder),
        )
        start = time.perf_counter()
        fit_network(classifier, epoch.data, trainer)
        return time.perf_counter() - start


def by_hand(epoch: Epoch) -> float:
    """Seconds of an epoch of the loop one would write by hand, without losing time anywhere."""
    network = epoch.network()
    train = epoch.data.split("train")
    images, targets = torch.from_numpy(train.images), torch.from_numpy(train.targets)
    optimizer = epoch.optimizer([(name, p) for name, p in network.named_parameters() if p.requires_grad])
    start = time.perf_counter()
    torch.manual_seed(key(0, "order"))
    order = torch.randperm(len(images))

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for first in range(0, epoch.length * epoch.batch_size, epoch.batch_size):
            rows = order[first : first + epoch.batch_size]
            yield images[rows], targets[rows]

    step_through(network, optimizer, batches(), epoch.precision)
    return time.perf_counter() - start


def step_through(
    network: nn.Module, optimizer: Optimizer, batches: Iterable[tuple[Tensor, Tensor]], precision: str
) -> None:
    """The training loop itself, and nothing else."""
    network.train()
    for images, targets in batches:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16-mixed"):
            loss = functional.cross_entropy(network(images), targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
