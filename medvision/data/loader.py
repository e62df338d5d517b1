"""Whole uint8 batches in an order that is a function of (seed, epoch), resumable inside an epoch."""

import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medvision.errors import ConfigError
from medvision.randomness import generator

log = logging.getLogger(__name__)

Batch = tuple[Tensor, Tensor, Tensor]

_GATHERED = 2**19  # bytes at a time, which stay in a core's cache
_RESIDENT_SHARE = 0.3  # of the free GPU memory; the rest is for the network and its activations


class BatchLoader:
    """Iterates over one split in whole batches: one gather each, no Python per image.

    A batch is `(images uint8 (B, C, H, W), targets int64 (B,), indices int64 (B,))`, where indices are positions in
    `rows`. Under several ranks, rank r takes every `world_size`-th row of each global batch, so 1, 2 and 4 ranks
    together see the same batches.

    Training (`drop_last`) leaves out the incomplete last batch; the next epoch's order leaves out others. Evaluation
    keeps it, and every rank makes the same number of steps: where a rank's share of the last batch would be empty it
    gets one row with target -1, to be ignored.

    The loader keeps Lightning's stateful protocol: `state_dict` counts the batches handed out in the running epoch,
    and after `load_state_dict` that epoch continues at the next one. Any other epoch, or one that was complete, starts
    at its first batch.

    Args:
        images: (N, C, H, W) uint8; a tensor on any device, or a numpy array or memory map on the host.
        targets: (n,) int64 class of each image of the split.
        rows: (n,) position in `images` of each image of the split.
        batch_size: images in a global batch, over all ranks.
        shuffle: whether each epoch has an order of its own; otherwise the order of `rows`.
        drop_last: whether the incomplete last batch is left out.
        seed: seed of the order.
        epoch: number of the epoch that begins; called once when iteration begins, not at `iter()`.
        rank: which of the processes this is.
        world_size: number of processes.
        device: where batches go; the device of `images` by default. From host to CUDA they travel through pinned
            memory without blocking.

    Raises:
        ConfigError: if, in training, the batch is larger than the data or does not divide among the ranks.
    """

    def __init__(
        self,
        images: Tensor | NDArray[np.uint8],
        targets: NDArray[np.int64],
        rows: NDArray[np.int64],
        *,
        batch_size: int,
        shuffle: bool,
        drop_last: bool,
        seed: int,
        epoch: Callable[[], int] = lambda: 0,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | None = None,
    ) -> None:
        if drop_last and batch_size > len(rows):
            raise ConfigError(
                f"data.batch_size is {batch_size}, but there are only {len(rows)} training images.\n"
                f"Set data.batch_size to {len(rows)} or less."
            )
        if drop_last and batch_size % world_size:
            raise ConfigError(
                f"data.batch_size is {batch_size}, which does not divide among {world_size} processes.\n"
                f"Set it to a multiple of {world_size}; it counts the images of all processes together."
            )
        self._images = images
        self._device = device or (images.device if isinstance(images, Tensor) else torch.device("cpu"))
        self._targets = targets
        self._rows = rows
        self._batch_size = batch_size
        self._shuffle = shuffle
        self._drop_last = drop_last
        self._seed = seed
        self._epoch = epoch
        self._rank = rank
        self._world_size = world_size
        self._position = {"epoch": 0, "batch": 0}
        self._resuming = False

    def __len__(self) -> int:
        """Number of batches in a whole epoch."""
        batches, rest = divmod(len(self._rows), self._batch_size)
        return batches if self._drop_last or not rest else batches + 1

    def __iter__(self) -> Iterator[Batch]:
        # A generator: nothing below runs before the first batch is asked for. Lightning calls iter() at set-up, when
        # neither the epoch nor the state to resume from is final.
        epoch = self._epoch()
        first = self._first_batch(epoch)
        mine, stand_ins, size = self._share(self._order(epoch))
        host = self._images.device if isinstance(self._images, Tensor) else torch.device("cpu")
        labels = self._targets[mine]
        labels[stand_ins] = -1
        indices = torch.from_numpy(mine).to(self._device)
        rows = torch.from_numpy(self._rows[mine]).to(host)
        targets = torch.from_numpy(labels).to(self._device)
        # Small batches are gathered several at a time and handed out as views: at 32 MNIST images the calls would take
        # longer than the copying.
        at_once = max(1, _GATHERED // (size * self._images[:1].nbytes))
        for start in range(first, len(self), at_once):
            block = slice(start * size, (start + at_once) * size)
            parts = (self._gather(rows[block]), targets[block], indices[block])
            for batch, (images, labels, positions) in enumerate(
                zip(*(torch.split(one, size) for one in parts), strict=True)
            ):
                self._position = {"epoch": epoch, "batch": start + batch + 1}
                yield images, labels, positions

    def state_dict(self) -> dict[str, int]:
        """The running epoch and how many of its batches were handed out."""
        return dict(self._position)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Make the next iteration continue where `state` was taken."""
        self._position = {"epoch": state["epoch"], "batch": state["batch"]}
        self._resuming = True

    def _first_batch(self, epoch: int) -> int:
        resuming, self._resuming = self._resuming, False
        inside = self._position["epoch"] == epoch and self._position["batch"] < len(self)
        return self._position["batch"] if resuming and inside else 0

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if not self._shuffle:
            return np.arange(len(self._rows))
        return generator(self._seed, epoch, "order").permutation(len(self._rows))

    def _share(self, order: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.intp], int]:
        """This rank's part of an epoch: its positions, which of them only stand in, and how many make a batch."""
        whole, rest = np.split(order, [len(order) // self._batch_size * self._batch_size])
        parts = [whole.reshape(-1, self._batch_size)]
        if len(rest) and not self._drop_last:
            parts.append(rest[None])
        shares = [part[:, self._rank :: self._world_size] for part in parts]
        # Where the share of a batch is empty, one row stands in for it that is to be ignored.
        found = [share if share.shape[1] else part[:, :1] for part, share in zip(parts, shares, strict=True)]
        ignored = [np.full(one.size, not share.shape[1]) for one, share in zip(found, shares, strict=True)]
        mine = found[0].ravel() if len(found) == 1 else np.concatenate([one.ravel() for one in found])
        return mine, np.flatnonzero(np.concatenate(ignored)), found[0].shape[1]

    def _gather(self, rows: Tensor) -> Tensor:
        if isinstance(self._images, Tensor) and self._images.device == self._device:
            return self._images.index_select(0, rows)
        if isinstance(self._images, Tensor):
            images = self._images.index_select(0, rows)
        else:
            images = torch.from_numpy(self._images.take(rows.numpy(), axis=0))
        if self._device.type != "cuda":
            return images.to(self._device)
        return images.pin_memory().to(self._device, non_blocking=True)


def place(
    images: NDArray[np.uint8], device: torch.device, resident: bool | Literal["auto"]
) -> Tensor | NDArray[np.uint8]:
    """The images where batches are best cut from them: on the device when they are to be resident there.

    Args:
        images: (N, C, H, W), in memory or memory-mapped.
        device: where batches go.
        resident: whether they lie on an accelerator; "auto" where they fit in 30 % of the free memory of a GPU. Where a
            GPU has no room for them at all they stay on the host, with a warning.
    """
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        if resident == "auto":
            resident = images.nbytes <= _RESIDENT_SHARE * free
        elif resident and images.nbytes > free:
            log.warning(
                "data.device_resident: the images take %.1f GB and %s has %.1f GB free; they stay in the host's memory",
                images.nbytes / 1e9,
                device,
                free / 1e9,
            )
            resident = False
    elif resident == "auto":
        resident = False
    # Numpy gathers in one thread, at the speed of memory. Torch's threads wait for one another, 20 ms a batch of 224 px
    # instead of 0.2 ms, as soon as something else runs on one of two cores.
    if device.type == "cpu" or not resident:
        return images
    with warnings.catch_warnings():
        # Torch warns of what is mapped read-only, to which nothing here writes.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(images).to(device)
