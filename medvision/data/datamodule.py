"""From a source to batches: read, decoded and split once, then handed to Lightning or to a loop by hand."""

import copy
import itertools
import os
from collections.abc import Callable
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from medvision.data import cache, leakage, splits, statistics
from medvision.data.augment import Augment
from medvision.data.cache import Decoded
from medvision.data.leakage import Findings
from medvision.data.limits import Frames
from medvision.data.loader import Batch, BatchLoader, place
from medvision.data.options import DataOptions
from medvision.data.quarantine import set_aside
from medvision.data.resize import Resize, conform_all, height_width
from medvision.data.splits import limit_train
from medvision.data.table import SPLITS, ImageTable, SplitArrays
from medvision.errors import ConfigError
from medvision.tasks import Task


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
        resize: as in `medvision.data.decode.decode`.
        window: as in `decode`.
        frames: as in `decode`.

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


class ImageDataModule(LightningDataModule):
    """All images of a source as one uint8 array at one size, in splits, as whole batches.

    Without a Trainer: `setup()`, then iterate `train_dataloader()`; each pass is the next epoch.

    Args:
        source: returns the table, such as `medvision.data.layouts.arrays.digits` or a partial of a layout with a root.
        options: how images are read, split and batched.
        augmentation: changes training batches on the device; None trains on the images as they are.
        seed: seed of the order and the augmentation.

    Attributes (after `setup`):
        table: all images, each with its split, or with why it is set aside.
        task: what is asked of an image, with the K class names in the order of the labels.
        in_channels: 1 or 3.
        image_size: (height, width) in pixels.
        quarantine: path, reason and stage of each file that could not be used.
        findings: what leaks and contradicts itself, before the policy on leaks was applied.
        one_coloured: rows of `table` that are pictures of one colour.
    """

    table: ImageTable
    task: Task
    in_channels: int
    image_size: tuple[int, int]
    quarantine: pd.DataFrame
    findings: Findings
    one_coloured: NDArray[np.intp]
    _pixels: NDArray[np.uint8]  # (N, C, H, W); zeros where a file is bad
    _positions: NDArray[np.int64]  # row in `_pixels` of each image of `table`
    _hashes: NDArray[np.void]  # of the pixels of each image of `table`
    _moments: NDArray[np.int64]  # of each image of `_pixels`

    def __init__(
        self,
        source: Callable[[], ImageTable],
        options: DataOptions | None = None,
        *,
        augmentation: Augment | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self._source = source
        self.options = options or DataOptions()
        self.augmentation = augmentation
        self.seed = seed
        self._source_table: ImageTable | None = None
        self._placed: tuple[torch.device, Tensor | NDArray[np.uint8]] | None = None
        self._drawn: tuple[int, Tensor] | None = None

    def prepare_data(self) -> None:
        """Read the source once in one process, so that a download does not race."""
        if self._source_table is None and not hasattr(self, "_pixels"):
            self._source_table = self._source()

    def setup(self, stage: str | None = None) -> None:
        """Read, decode and split the images; a second call does nothing.

        Raises:
            DataError: if the source, its files or its classes cannot be used.
            ConfigError: if files are to be read and `image_size` is not set.
        """
        if hasattr(self, "_pixels"):
            return
        self.prepare_data()
        (table, self._source_table), options = (self._source_table, None), self.options
        assert table is not None
        pixels, bad, hashes, plain, self._moments = read_pixels(
            table,
            options.image_size,
            options.channels,
            options.resize,
            window=options.window,
            frames=options.frames,
        )
        table, self.quarantine = set_aside(table, bad, options.on_bad_image, options.max_bad_fraction)
        positions = np.arange(len(table)) if table.images is None else table.frame["image"].to_numpy(np.int64)
        table = splits.complete(
            table,
            val_fraction=options.val_fraction,
            test_fraction=options.test_fraction,
            split_seed=options.split_seed,
            n_folds=options.n_folds,
            fold=options.fold,
            hashes=hashes,
        )
        self.findings = leakage.inspect(table, hashes)
        table = leakage.apply(table, self.findings, options.leakage)
        splits.check_classes(table)
        table = limit_train(table, options.max_train_samples, options.split_seed)
        self.table = splits.set_calibration_apart(table, options.calibration_fraction, options.split_seed, hashes)
        self.one_coloured = plain[np.isin(self.table.splits[plain], SPLITS)]
        self._pixels, self._positions, self._hashes = pixels, positions, hashes
        self.task = table.task
        self.in_channels, self.image_size = pixels.shape[1], (pixels.shape[2], pixels.shape[3])

    @property
    def class_names(self) -> tuple[str, ...]:
        """K names in the order of the labels."""
        return self.task.class_names

    @property
    def decode(self) -> dict[str, Any]:
        """How its images were read, as `medvision.data.decode.decode` takes it."""
        options = self.options
        return {
            "size": list(self.image_size),
            "channels": self.in_channels,
            "resize": options.resize,
            "window": options.window and list(options.window),
            "frames": options.frames,
        }

    @property
    def num_classes(self) -> int:
        """K."""
        return self.task.num_classes

    def altered(self, *, table: ImageTable | None = None, pixels: NDArray[np.uint8] | None = None) -> Self:
        """A copy, set up, with other labels or other pixels: (N, C, H, W), one for each row of the table."""
        other = copy.copy(self)
        other._placed = other._drawn = None
        if table is not None:
            other.table = table
        if pixels is not None:
            other._pixels, other._positions = pixels, np.arange(len(pixels))
            rows = [statistics.moments(some) for some in statistics.chunks(pixels, other._positions)]
            other._moments = np.concatenate(rows)
        return other

    def train_dataloader(self) -> BatchLoader:
        """Shuffled whole batches of the training images."""
        return self._loader("train", self.options.batch_size, training=True)

    def val_dataloader(self) -> BatchLoader:
        """The validation images in order."""
        return self._loader("val", self.options.eval_batch_size, training=False)

    def test_dataloader(self) -> BatchLoader:
        """The test images in order."""
        return self._loader("test", self.options.eval_batch_size, training=False)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Augment a training batch on its device; parameters depend on (seed, epoch, index) and (seed, step, rank)."""
        trainer = self.trainer
        if self.augmentation is None or trainer is None or not trainer.training:
            return batch
        images, targets, indices = batch
        params = self._params(self.augmentation, trainer.current_epoch, images.device)
        images = self.augmentation(images, params[indices])
        step = trainer.global_step * trainer.world_size + trainer.global_rank
        return (*self.augmentation.mix(images, targets, self.num_classes, self.seed, step), indices)

    def pixels(self, rows: NDArray[np.intp]) -> NDArray[np.uint8]:
        """(n, C, H, W) uint8 pixels of some rows (n,) of `table`; zeros where a file is bad."""
        return self._pixels[self._positions[rows]]

    def split(self, name: str) -> SplitArrays:
        """One split ("train", "val", "calibration" or "test") as plain arrays, in the order of its batches' indices."""
        here = self._rows(name)
        return SplitArrays(
            images=self.pixels(here),
            targets=self.table.labels[here],
            ids=self.table.ids[here],
            groups=self.table.groups[here],
            meta={key: values[here] for key, values in self.table.metadata.items()},
        )

    def never_seen(self) -> NDArray[np.bool_]:
        """(n,) which images of the test split share neither pixels nor group with what trains or validates."""
        return ~np.isin(self._rows("test"), leakage.inspect(self.table, self._hashes).seen)

    def splits_frame(self) -> pd.DataFrame:
        """Who is where: id, label (the class name), group, split and hash of the pixels of every image."""
        return pd.DataFrame(
            {
                "id": self.table.ids,
                "label": np.array(self.class_names)[self.table.labels],
                "group": self.table.groups,
                "split": self.table.splits,
                "pixels": [one.hex() for one in self._hashes.tolist()],
            }
        )

    def class_counts(self, split: str) -> NDArray[np.int64]:
        """(K,) number of images of each class in a split."""
        return np.bincount(self.table.labels[self._rows(split)], minlength=self.num_classes)

    def channel_statistics(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean (C,) and standard deviation (C,) of the training pixels, in units of 0..255."""
        here = self._moments[self._positions[self._rows("train")]]
        return statistics.channel_statistics(here, self.image_size[0] * self.image_size[1])

    def fingerprint(self) -> str:
        """SHA-256, in hex, over ids, labels, splits and pixels: equal where a run would see the same data."""
        return statistics.fingerprint(self.table, self._hashes, self._pixels.shape[1:])

    def _loader(self, split: str, batch_size: int, *, training: bool) -> BatchLoader:
        here = self._rows(split)
        trainer = self.trainer
        device = torch.device("cpu") if trainer is None else trainer.strategy.root_device
        return BatchLoader(
            self._images_for(device),
            self.table.labels[here],
            self._positions[here],
            batch_size=batch_size,
            shuffle=training,
            drop_last=training,
            seed=self.seed,
            epoch=itertools.count().__next__ if trainer is None else lambda: trainer.current_epoch,
            rank=0 if trainer is None else trainer.global_rank,
            world_size=1 if trainer is None else trainer.world_size,
            device=device,
        )

    def _images_for(self, device: torch.device) -> Tensor | NDArray[np.uint8]:
        if self._placed is None or self._placed[0] != device:
            self._placed = (device, place(self._pixels, device, self.options.device_resident))
        return self._placed[1]

    def _params(self, augmentation: Augment, epoch: int, device: torch.device) -> Tensor:
        """The epoch's parameters of all training images, on the device."""
        if self._drawn is None or self._drawn[0] != epoch or self._drawn[1].device != device:
            self._drawn = (epoch, augmentation.draw(self.seed, epoch, len(self._rows("train"))).to(device))
        return self._drawn[1]

    def _rows(self, split: str) -> NDArray[np.int64]:
        """Rows of `table` that are in a split, in order."""
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
        return np.flatnonzero(self.table.splits == split)
