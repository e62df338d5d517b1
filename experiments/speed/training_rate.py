"""Images a second that the CIFAR-10 network trains on: `fit` over the same network as tutorials would train it.

The images are noise of CIFAR-10's size in memory. Our side is the experiment below as it is configured, precision and
memory layout as medvision chooses them; validation and checkpoints are off. The peer trains the same network in eager
fp32 and torch's own layout, with Nesterov SGD and batches of the same size, from a DataLoader with no worker or two,
whichever is faster here: PIL images made of an array, as torchvision's CIFAR10 makes them, then padded random crop,
mirror image, conversion and normalisation, one by one. Cutout, where the experiment has it, the peer is spared.

    python experiments/speed/training_rate.py
"""

import time
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from epochs import Epoch, by_fit, in_memory, noise, step_through
from measuring import fastest, in_turns, parser, publish, read, speedup
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from medvision import compose
from medvision.config.targets import build
from medvision.models.network import Network

# The experiment whose network, batch size, optimizer and augmentation our side has.
EXPERIMENT = "cifar_fast"


def main(arguments: Sequence[str] | None = None) -> None:
    given = read(parser(__file__, __doc__, rounds=3), arguments)
    cfg = compose(f"experiment={EXPERIMENT}")
    size = 8 if given.tiny else cfg.data.batch_size
    steps = 2 if given.tiny else max(3, 3072 // size)
    images = noise(max(1_000, 2 * size), (3, 32, 32)) if given.tiny else noise(20_000, (3, 32, 32))
    data = in_memory(images, size, build(cfg.augmentation, "augmentation"))
    epoch = Epoch(data, partial(network, cfg.model), build(cfg.optimizer, "optimizer"), size, steps)
    theirs = {
        f"DataLoader, {workers} workers": partial(with_data_loader, epoch, Pictures(images), workers)
        for workers in (0, 2)
    }
    best = fastest(theirs)
    found = in_turns({"medvision": partial(by_fit, epoch), best: theirs[best]}, given.rounds)
    trained = steps * size
    rate = trained / sorted(found["medvision"])[given.rounds // 2]
    claim = f"training on {trained:,} images, the network of {EXPERIMENT}, {epoch.precision}: {rate:,.0f} images/s"
    publish([speedup(claim, found, "medvision", best, at_least=2.5)], given)


def network(node: DictConfig, num_classes: int, in_channels: int, image_size: tuple[int, int]) -> Network:
    return build(node, "model", num_classes=num_classes, in_channels=in_channels, image_size=image_size)


class Pictures(Dataset):
    """Images in memory as torchvision's CIFAR10 holds and returns them."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), index % 10


def with_data_loader(epoch: Epoch, pictures: Pictures, workers: int) -> float:
    """Seconds of the steps of the epoch, eager, fp32, NCHW."""
    network = epoch.network().to(memory_format=torch.contiguous_format)
    model = nn.Sequential(network.backbone, network.head)  # the images come normalised
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    loader = DataLoader(pictures, epoch.batch_size, shuffle=True, drop_last=True, num_workers=workers)
    start = time.perf_counter()
    batches = (batch for batch, _ in zip(loader, range(epoch.length), strict=False))
    step_through(model, optimizer, batches, "32-true")
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
