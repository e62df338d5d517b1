"""Augmentation of whole uint8 batches over the same transforms image by image, by torchvision's v2 and by timm.

Against v2: both change images in memory, our side whole batches with parameters drawn for the epoch (drawing included),
v2 one image at a time as a dataset does, stacked to the same batches. The transforms and their ranges are the same; but
v2's RandomAffine scales both axes alike where ours scales each. v2 gets uint8 tensors, its faster input.

Against timm: from images in memory to normalised float batches, by timm's loader (decoded PIL images, no worker or two,
whichever is faster here) and by ours (the normalisation is that of our networks). The transforms are where both
overlap: mirror image, brightness, contrast; timm's resized crop is set to the whole image.

    python experiments/speed/augmentation.py
"""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import timm
import torch
from epochs import noise
from measuring import Row, clocked, fastest, in_turns, parser, publish, read, speedup
from PIL import Image
from timm.data import create_loader
from torch.utils.data import Dataset
from torchvision.transforms import v2

from medvision.data.augment import Augmentation
from medvision.data.loader import BatchLoader
from medvision.models.small_cnn import small_cnn

BATCH = 128
BILINEAR = v2.InterpolationMode.BILINEAR


def main(arguments: Sequence[str] | None = None) -> None:
    given = read(parser(__file__, __doc__, rounds=5), arguments)
    small, large = (256, 128) if given.tiny else (8_192, 512)
    pose = {"shear": 0.1, "zoom": 0.1, "rotation": 10.0, "fill": "zero"}
    affine = partial(v2.RandomAffine, 10, scale=(0.9, 1.1), shear=math.degrees(0.1), interpolation=BILINEAR)
    rows = [
        over_v2(
            "padded crop and mirror image, 32 x 32 colour",
            noise(small, (3, 32, 32)),
            Augmentation(crop_padding=4, horizontal_flip=True),
            v2.Compose([v2.RandomCrop(32, padding=4, padding_mode="reflect"), v2.RandomHorizontalFlip()]),
            given.rounds,
        ),
        over_v2(
            "shear, zoom, rotation, shift, 28 x 28 grey",
            noise(small, (1, 28, 28)),
            Augmentation(**pose, translation=0.08),
            affine(translate=(0.08, 0.08)),
            given.rounds,
        ),
        over_v2(
            "shear, zoom, rotation, shift, 224 x 224 colour",
            noise(large, (3, 224, 224)),
            Augmentation(**pose, translation=0.05),
            affine(translate=(0.05, 0.05)),
            given.rounds,
        ),
        over_v2(
            "mirror image, brightness, contrast, 32 x 32 colour",
            noise(small, (3, 32, 32)),
            Augmentation(horizontal_flip=True, brightness=0.2, contrast=0.2),
            v2.Compose([v2.RandomHorizontalFlip(), v2.ColorJitter(brightness=0.2, contrast=0.2)]),
            given.rounds,
        ),
        *(over_timm(noise(n, (3, side, side)), given.rounds) for n, side in ((small, 32), (large, 224))),
    ]
    publish(rows, given, {"timm": timm.__version__})


def over_v2(
    claim: str, images: np.ndarray, ours: Augmentation, theirs: Callable[[torch.Tensor], torch.Tensor], rounds: int
) -> Row:
    batches = torch.from_numpy(images).split(BATCH)
    epoch = itertools.count().__next__

    def whole_batches() -> None:
        params = ours.draw(0, epoch(), len(images)).split(BATCH)
        for batch, drawn in zip(batches, params, strict=True):
            ours(batch, drawn)

    def one_by_one() -> None:
        for batch in batches:
            torch.stack([theirs(image) for image in batch])

    peer = "torchvision v2, per image"
    found = in_turns({"medvision": clocked(whole_batches), peer: clocked(one_by_one)}, rounds)
    return speedup(f"{claim}: {len(images):,} images", found, "medvision", peer, at_least=10)


class Pictures(Dataset):
    """Images in memory the way timm's readers hand them out: PIL images through the transform that timm attaches."""

    transform: Callable[[Image.Image], np.ndarray]

    def __init__(self, images: np.ndarray) -> None:
        self.pictures = [Image.fromarray(image) for image in images.transpose(0, 2, 3, 1)]

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self.transform(self.pictures[index]), index % 10


def over_timm(images: np.ndarray, rounds: int) -> Row:
    """An epoch from images in memory to batches that are ready for the network."""
    side = images.shape[2]
    network = small_cnn(10, 3, (side, side))
    network.set_statistics([127.5] * 3, [127.5] * 3)
    augmentation = Augmentation(horizontal_flip=True, brightness=0.2, contrast=0.2)
    epoch = itertools.count().__next__
    rows = np.arange(len(images))
    loader = BatchLoader(images, rows % 10, rows, batch_size=BATCH, shuffle=True, drop_last=True, seed=0)

    def ours() -> None:
        params = augmentation.draw(0, epoch(), len(images))
        for batch, _, indices in loader:
            network.normalise(augmentation(batch, params[indices]))

    def theirs(workers: int) -> Callable[[], float]:
        made = create_loader(
            Pictures(images),
            (3, side, side),
            BATCH,
            is_training=True,
            scale=(1.0, 1.0),
            ratio=(1.0, 1.0),
            hflip=0.5,
            color_jitter=(0.2, 0.2, 0.0),
            interpolation="bilinear",
            mean=(0.5,) * 3,
            std=(0.5,) * 3,
            num_workers=workers,
            pin_memory=False,
            persistent_workers=False,
            device=torch.device("cpu"),
        )

        def exhaust() -> None:
            for _ in made:
                pass

        return clocked(exhaust)

    peers = {f"timm's loader, {workers} workers": theirs(workers) for workers in (0, 2)}
    best = fastest(peers)
    found = in_turns({"medvision": clocked(ours), best: peers[best]}, rounds)
    claim = f"{len(images):,} images of {side} x {side} colour to ready batches: mirror image, brightness, contrast"
    return speedup(claim, found, "medvision", best)


if __name__ == "__main__":
    main()
