"""Steps of ResNet-18 on the brain MRI folder at 224 px over steps on one batch that lies in memory.

Our side is `fit` with all that a run does for each step: loading from the cache of decoded images, augmentation for
medical images (zoom, rotation, shift), the Trainer. The other side, the rate on synthetic data, is a bare loop over one
fixed batch: no loading, no augmentation, no Trainer. Network, optimizer, batch size and precision are the same, and
denormal numbers count as zero in both. The folder is decoded before the clock runs; validation and checkpoints are off.

    MEDVISION_DATA=... python experiments/speed/brain_mri_rate.py
"""

import itertools
import os
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from epochs import Epoch, by_fit, step_through
from measuring import in_turns, parser, publish, read, share

from medvision.data.augment import Augmentation
from medvision.data.datamodule import ImageDataModule
from medvision.data.layouts.folders import image_folder
from medvision.data.options import DataOptions
from medvision.models.pretrained import pretrained

SIDE = 224


def main(arguments: Sequence[str] | None = None) -> None:
    given = read(parser(__file__, __doc__, rounds=4), arguments)
    size, steps = (4, 2) if given.tiny else (32, 8)
    root = Path(os.environ.get("MEDVISION_DATA", "data")) / "brain_mri"
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MEDVISION_CACHE"] = folder
        augmentation = Augmentation(zoom=0.1, rotation=10.0, translation=0.05, fill="zero")
        data = ImageDataModule(
            partial(image_folder, root),
            DataOptions(image_size=SIDE, channels=3, batch_size=size),
            augmentation=augmentation,
        )
        data.setup()
        epoch = Epoch(data, pretrained, partial(torch.optim.Adam, lr=1e-3, fused=True), size, steps)
        seconds = in_turns(
            {"medvision": partial(by_fit, epoch), "one fixed batch": partial(fixed_batch, epoch)}, given.rounds
        )
    found = {name: [size * steps / value for value in values] for name, values in seconds.items()}
    claim = f"ResNet-18 on the brain MRI folder, {SIDE} px, batch {size}, {epoch.precision}: over synthetic data"
    publish([share(claim, found, "medvision", "one fixed batch", at_least=0.95, unit="images/s")], given)


def fixed_batch(epoch: Epoch) -> float:
    """Seconds of the same number of steps on the first batch."""
    torch.set_flush_denormal(True)
    network = epoch.network()
    optimizer = epoch.optimizer(network.parameters())
    images, targets, _ = next(iter(epoch.data.train_dataloader()))
    start = time.perf_counter()
    step_through(network, optimizer, itertools.repeat((images, targets), epoch.length), epoch.precision)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
