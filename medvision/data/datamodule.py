"""From a source to batches: read, decoded and split once, then handed to Lightning or to a loop by hand."""

import itertools
import logging
from collections.abc import Callable
from typing import Literal, Protocol

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from medvision.data import splits, statistics
from medvision.data.decode import RESIZE_RULES, Resize, conform_all, decode_all
from medvision.data.loader import Batch, BatchLoader
from medvision.data.table import SPLITS, ImageTable, SplitArrays
from medvision.errors import ConfigError, DataError

log = logging.getLogger(__name__)

_RESIDENT_SHARE = 0.3  # of the free GPU memory; the rest is for the network and its activations


class Augment(Protocol):
    """What the data module asks of an augmentation; see `medvision.data.augment`."""

    def draw(self, seed: int, epoch: int, n: int) -> Tensor:
        """(n, P) float32 parameters of an epoch on the CPU."""

    def __call__(self, images: Tensor, params: Tensor) -> Tensor:
        """(B, C, H, W) uint8 images changed by their (B, P) parameters."""

    def mix(self, images: Tensor, targets: Tensor, num_classes: int, seed: int, step: int) -> tuple[Tensor, Tensor]:
        """Images and targets of a batch blended with one another, or as they are."""


class ImageDataModule(LightningDataModule):
    """All images of a source as one uint8 array at one size, in splits, as whole batches.

    Without a Trainer: call `setup()`, then iterate `train_dataloader()`, each pass of which is the next epoch.

    Args:
        source: returns the table, such as `medvision.data.sources.digits` or a partial of one that needs a root.
        image_size: height and width in pixels; None keeps the size of a source that brings arrays.
        channels: 1 for grey, 3 for RGB; None keeps that of the arrays, and is 3 for files.
        resize: "letterbox", "stretch" or "crop"; see `medvision.data.decode`.
        batch_size: training images in a step, over all processes.
        eval_batch_size: validation or test images in a step, over all processes.
        val_fraction: share of the training images that validate where the source has no validation split.
        test_fraction: share of the images that test where the source has no test split.
        split_seed: seed of those shares; they do not depend on `seed`.
        device_resident: whether all images lie on the accelerator; "auto" where they fit in 30 % of its free memory.
        max_bad_fraction: share of files that may be unusable before the data counts as broken.
        augmentation: changes training batches on the device; None trains on the images as they are.
        seed: seed of the order and the augmentation.

    Attributes (after `setup`):
        table: the usable images, each with its split.
        class_names: K names in the order of the labels.
        num_classes: K.
        in_channels: 1 or 3.
        image_size: (height, width) in pixels.
        quarantine: path, reason and stage of each file that could not be used.
    """

    table: ImageTable
    class_names: tuple[str, ...]
    num_classes: int
    in_channels: int
    image_size: tuple[int, int]
    quarantine: pd.DataFrame
    _pixels: NDArray[np.uint8]  # (N, C, H, W); the rows of bad files stay and belong to no split
    _positions: NDArray[np.int64]  # row in `_pixels` of each image of `table`

    def __init__(
        self,
        source: Callable[[], ImageTable],
        *,
        image_size: int | None = None,
        channels: Literal[1, 3] | None = None,
        resize: Resize = "letterbox",
        batch_size: int = 32,
        eval_batch_size: int = 512,
        val_fraction: float = 0.1,
        test_fraction: float = 0.2,
        split_seed: int = 0,
        device_resident: bool | Literal["auto"] = "auto",
        max_bad_fraction: float = 0.1,
        augmentation: Augment | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        _check("image_size", image_size, "a positive number of pixels or null", image_size is None or image_size > 0)
        _check("channels", channels, "1, 3 or null", channels in (1, 3, None))
        _check("resize", resize, f"one of {', '.join(RESIZE_RULES)}", resize in RESIZE_RULES)
        _check("batch_size", batch_size, "at least 1", batch_size >= 1)
        _check("eval_batch_size", eval_batch_size, "at least 1", eval_batch_size >= 1)
        _check("val_fraction", val_fraction, "between 0 and 1", 0 < val_fraction < 1)
        _check("test_fraction", test_fraction, "between 0 and 1", 0 < test_fraction < 1)
        _check("max_bad_fraction", max_bad_fraction, "from 0 to 1", 0 <= max_bad_fraction <= 1)
        _check("split_seed", split_seed, "0 or more", split_seed >= 0)
        _check("device_resident", device_resident, "auto, true or false", device_resident in (True, False, "auto"))
        self._source = source
        self._asked_size = image_size
        self._asked_channels = channels
        self._resize = resize
        self._batch_size = batch_size
        self._eval_batch_size = eval_batch_size
        self._val_fraction = val_fraction
        self._test_fraction = test_fraction
        self._split_seed = split_seed
        self._device_resident = device_resident
        self._max_bad_fraction = max_bad_fraction
        self.augmentation = augmentation
        self.seed = seed
        self._source_table: ImageTable | None = None
        self._resident: Tensor | None = None
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
        table, self._source_table = self._source_table, None
        assert table is not None
        pixels, bad = self._read(table)
        ids = table.ids
        self.quarantine = pd.DataFrame(
            [(ids[index], reason, stage) for index, reason, stage in bad], columns=["path", "reason", "stage"]
        )
        good = np.setdiff1d(np.arange(len(table)), [index for index, _, _ in bad])
        self._check_quarantine(table, good)
        kept = ImageTable(table.frame.iloc[good].reset_index(drop=True), table.class_names, table.images, table.root)
        self.table = splits.complete(
            kept, val_fraction=self._val_fraction, test_fraction=self._test_fraction, split_seed=self._split_seed
        )
        self._positions = good if table.images is None else self.table.frame["image"].to_numpy(np.int64)
        self.class_names = table.class_names
        self.num_classes = len(table.class_names)
        self.in_channels = pixels.shape[1]
        self.image_size = (pixels.shape[2], pixels.shape[3])
        self._pixels = pixels

    def train_dataloader(self) -> BatchLoader:
        """Shuffled whole batches of the training images."""
        return self._loader("train", self._batch_size, training=True)

    def val_dataloader(self) -> BatchLoader:
        """The validation images in order."""
        return self._loader("val", self._eval_batch_size, training=False)

    def test_dataloader(self) -> BatchLoader:
        """The test images in order."""
        return self._loader("test", self._eval_batch_size, training=False)

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

    def split(self, name: str) -> SplitArrays:
        """One split ("train", "val" or "test") as plain arrays, in the order of its batches' indices."""
        here = self._rows(name)
        return SplitArrays(
            images=self._pixels[self._positions[here]],
            targets=self.table.labels[here],
            ids=self.table.ids[here],
            groups=self.table.groups[here],
            meta={key: values[here] for key, values in self.table.metadata.items()},
        )

    def splits_frame(self) -> pd.DataFrame:
        """Who is where: id, label (the class name), group and split of each image."""
        return pd.DataFrame(
            {
                "id": self.table.ids,
                "label": np.array(self.class_names)[self.table.labels],
                "group": self.table.groups,
                "split": self.table.frame["split"],
            }
        )

    def class_counts(self, split: str) -> NDArray[np.int64]:
        """(K,) number of images of each class in a split."""
        return np.bincount(self.table.labels[self._rows(split)], minlength=self.num_classes)

    def channel_statistics(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean (C,) and standard deviation (C,) of the training pixels, in units of 0..255."""
        return statistics.channel_statistics(self._pixels, self._positions[self._rows("train")])

    def fingerprint(self) -> str:
        """SHA-256, in hex, over ids, labels, splits and pixels: equal where a run would see the same data."""
        return statistics.fingerprint(self.table, self._pixels, self._positions)

    def _read(self, table: ImageTable) -> tuple[NDArray[np.uint8], list[tuple[int, str, str]]]:
        if table.images is not None:
            size = self._asked_size or (table.images.shape[2], table.images.shape[3])
            channels = self._asked_channels or (1 if table.images.shape[1] == 1 else 3)
            return conform_all(table.images, size, channels, self._resize), []
        if self._asked_size is None:
            raise ConfigError("Image files come in many sizes: set data.image_size, for instance to 224.")
        assert table.root is not None
        paths = [table.root / name for name in table.ids]
        console = Console(stderr=True)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("Decoding images", total=len(paths))
            return decode_all(
                paths,
                self._asked_size,
                self._asked_channels or 3,
                self._resize,
                progress=lambda done, _: bar.update(task, completed=done),
            )

    def _check_quarantine(self, table: ImageTable, good: NDArray[np.int64]) -> None:
        if self.quarantine.empty:
            return
        first = "; ".join(f"{path}: {reason}" for path, reason, _ in self.quarantine.head(3).itertuples(index=False))
        count = f"{len(self.quarantine)} of {len(table)} files cannot be used ({first})"
        if len(self.quarantine) > self._max_bad_fraction * len(table):
            raise DataError(
                f"{count}.\nAt most data.max_bad_fraction={self._max_bad_fraction} may be bad: "
                "repair or remove the files, or raise that limit."
            )
        left = set(table.labels[good].tolist())
        emptied = [name for label, name in enumerate(table.class_names) if label not in left]
        if emptied:
            raise DataError(f"{count}, which leaves no image of class(es) {', '.join(emptied)}.\nRepair the files.")
        log.warning("%s; they are in the quarantine and the run goes on without them.", count)

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
        if device.type == "cpu":
            return torch.from_numpy(self._pixels)  # the same memory
        if self._resident is None or self._resident.device.type != device.type:
            self._resident = torch.from_numpy(self._pixels).to(device) if self._fits(device) else None
        return self._pixels if self._resident is None else self._resident

    def _fits(self, device: torch.device) -> bool:
        if self._device_resident != "auto":
            return self._device_resident
        return device.type == "cuda" and self._pixels.nbytes <= _RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]

    def _params(self, augmentation: Augment, epoch: int, device: torch.device) -> Tensor:
        """The epoch's parameters of all training images, on the device; drawn when the epoch changes."""
        if self._drawn is None or self._drawn[0] != epoch or self._drawn[1].device != device:
            self._drawn = (epoch, augmentation.draw(self.seed, epoch, len(self._rows("train"))).to(device))
        return self._drawn[1]

    def _rows(self, split: str) -> NDArray[np.int64]:
        """Rows of `table` that are in a split, in order."""
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
        return np.flatnonzero(self.table.frame["split"] == split)


def _check(key: str, value: object, expected: str, holds: bool) -> None:
    if not holds:
        raise ConfigError(f"data.{key} must be {expected}, not {value!r}.")
