"""What a classical model sees of an image: its pixels, its oriented gradients, or what a network makes of it."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from medvision.errors import ConfigError, ModelError
from medvision.models.network import Network

# Images at a time, so that intermediate results stay small beside the features themselves.
_CHUNK = 512


class Features(Protocol):
    """Turns images into rows of numbers; nothing in it is learnt from labels."""

    def prepare(self, images: NDArray[np.uint8]) -> None:
        """Look at the training images (N, C, H, W) once, before any features are made.

        Raises:
            ModelError: if no features can be made of images of this shape.
        """

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features (N, D) of images (N, C, H, W)."""

    def to(self, device: Any) -> None:
        """Compute on this torch device from now on, where a network computes."""


class Pixels:
    """The pixels themselves, scaled to [0, 1], channel after channel.

    Args:
        size: side of the square that larger images are shrunk to first; None takes them as they are.
    """

    def __init__(self, size: int | None = None) -> None:
        self.size = size

    def prepare(self, images: NDArray[np.uint8]) -> None:
        """Nothing to prepare."""

    def to(self, device: Any) -> None:
        """Pixels need no device."""

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Pixels (N, C * H * W) in [0, 1]."""
        return _in_chunks(self._scaled, images)

    def _scaled(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        rows = _shrunk(images, self.size).reshape(len(images), -1).astype(np.float32)
        rows /= 255
        return rows


class HOG:
    """Histograms of oriented gradients: how strong the edges of each direction are in each cell of the image.

    Of colour images each pixel counts with the channel whose gradient is largest. A gradient is shared between the two
    nearest directions, not between cells. Rows and columns beyond the last whole cell are left out.

    Args:
        cell: side of a cell in pixels.
        directions: of edges, dark to bright or bright to dark alike, evenly over 180 degrees.
        size: as of `Pixels`.

    Source: Dalal & Triggs 2005, doi:10.1109/CVPR.2005.177: blocks of 2x2 cells, L2-Hys.
    """

    def __init__(self, cell: int = 4, directions: int = 9, size: int | None = None) -> None:
        self.cell = cell
        self.directions = directions
        self.size = size

    def to(self, device: Any) -> None:
        """Histograms need no device."""

    def prepare(self, images: NDArray[np.uint8]) -> None:
        """Refuse images of fewer than two cells a side."""
        height, width = _shrunk(images[:1], self.size).shape[2:]
        if min(height, width) < 2 * self.cell:
            raise ModelError(
                f"model.features.cell={self.cell} needs images of {2 * self.cell}x{2 * self.cell} pixels or more, "
                f"found {height}x{width}."
            )

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Block-normalised histograms (N, blocks * 4 * directions), each in [0, 1]."""
        return _in_chunks(lambda few: self._blocks(self._histograms(_shrunk(few, self.size))), images)

    def _histograms(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(n, rows, columns, directions) gradient magnitude in each cell."""
        values = images.astype(np.float32)
        across, down = np.zeros_like(values), np.zeros_like(values)
        across[..., 1:-1] = values[..., 2:] - values[..., :-2]
        down[..., 1:-1, :] = values[..., 2:, :] - values[..., :-2, :]
        strongest = np.hypot(across, down).argmax(axis=1, keepdims=True)
        across, down = (np.take_along_axis(one, strongest, axis=1)[:, 0] for one in (across, down))
        magnitude = np.hypot(across, down)
        direction = np.arctan2(down, across) * np.float32(self.directions / np.pi) % self.directions
        rows, columns = magnitude.shape[1] // self.cell, magnitude.shape[2] // self.cell
        histograms = np.empty((len(images), rows, columns, self.directions), np.float32)
        for number in range(self.directions):
            distance = np.abs(direction - number)
            share = np.maximum(1 - np.minimum(distance, self.directions - distance), 0)
            cells = (magnitude * share)[:, : rows * self.cell, : columns * self.cell]
            histograms[..., number] = cells.reshape(-1, rows, self.cell, columns, self.cell).sum(axis=(2, 4))
        return histograms

    def _blocks(self, cells: NDArray[np.float32]) -> NDArray[np.float32]:
        blocks = np.concatenate([cells[:, :-1, :-1], cells[:, :-1, 1:], cells[:, 1:, :-1], cells[:, 1:, 1:]], axis=-1)
        blocks = np.minimum(_normalised(blocks), np.float32(0.2))
        return _normalised(blocks).reshape(len(cells), -1)


class Embedding:
    """What a frozen network hands to its head.

    Args:
        name: of a torchvision network, as `medvision.models.pretrained.pretrained` takes it; None for
            the network of the bundle that `init_from` names.
        weights: of that torchvision network; None as for `name`.

    Attributes:
        network: frozen; None until `use` or `prepare`.
        architecture: the config node that builds it.
    """

    def __init__(self, name: str | None = None, weights: str | None = None) -> None:
        self.name = name
        self.weights = weights
        self.network: Network | None = None
        self.architecture: dict[str, Any] = {}

    def use(self, network: Network, architecture: Mapping[str, Any]) -> None:
        """Embed by this network, which `architecture` builds, from now on."""
        self.network = network.eval().requires_grad_(False)
        self.architecture = dict(architecture)

    def to(self, device: Any) -> None:
        """Compute on this torch device from now on."""
        if self.network is not None:
            self.network.to(device)

    def prepare(self, images: NDArray[np.uint8]) -> None:
        """Build the torchvision network for images like these, or see that the bundle's takes them.

        Raises:
            ConfigError: if there is no network, because neither `name` nor `init_from` says which.
            ModelError: if the network was trained on images of another shape.
        """
        if self.network is None:
            self._build(images)
        expected = (self.architecture["in_channels"], *self.architecture["image_size"])
        if images.shape[1:] != expected:
            raise ModelError(
                f"The network that embeds takes images of shape {expected}, found {images.shape[1:]}.\n"
                f"Set data.channels={expected[0]} data.image_size={expected[1]}."
            )

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embeddings (N, D)."""
        return _in_chunks(self._embed, images)

    @torch.inference_mode()
    def _embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert self.network is not None
        # A copy, because torch wants memory it could write to and a memory map may not offer it.
        batch = torch.from_numpy(np.array(images)).to(self.network.mean.device)
        return np.asarray(self.network.embed(batch).float().cpu().numpy())

    def _build(self, images: NDArray[np.uint8]) -> None:
        from medvision.models.pretrained import pretrained  # torchvision takes a second to load

        if self.name is None:
            raise ConfigError(
                "model/features=embedding needs a network: name a bundle with init_from=RUN/model, or one of\n"
                "torchvision's with model.features.name=resnet18 model.features.weights=default."
            )
        channels, height, width = images.shape[1:]
        network = pretrained(2, channels, (height, width), name=self.name, weights=self.weights)
        # As of a network that is trained: by the training images, in units of 0..255.
        network.set_statistics(images.mean(axis=(0, 2, 3)), images.std(axis=(0, 2, 3)))
        self.use(
            network,
            {
                "_target_": "medvision.models.pretrained.pretrained",
                "name": self.name,
                "num_classes": 2,
                "in_channels": channels,
                "image_size": [height, width],
            },
        )


def _in_chunks(
    transform: Callable[[NDArray[np.uint8]], NDArray[np.float32]], images: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """`transform` of a few images after another, in one array."""
    first = transform(images[:_CHUNK])
    rows = np.empty((len(images), first.shape[1]), np.float32)
    rows[:_CHUNK] = first
    for start in range(_CHUNK, len(images), _CHUNK):
        rows[start : start + _CHUNK] = transform(images[start : start + _CHUNK])
    return rows


def _shrunk(images: NDArray[np.uint8], size: int | None) -> NDArray[np.uint8]:
    """The images (n, C, H, W) at `size` x `size`, unless they are that small already."""
    if size is None or max(images.shape[2:]) <= size:
        return images
    shrunk = np.empty((*images.shape[:2], size, size), np.uint8)
    for index in np.ndindex(images.shape[:2]):
        shrunk[index] = cv2.resize(images[index], (size, size), interpolation=cv2.INTER_AREA)
    return shrunk


def _normalised(blocks: NDArray[np.float32]) -> NDArray[np.float32]:
    """Blocks (..., n) of length 1; those without an edge stay 0."""
    length = np.sqrt(np.square(blocks).sum(axis=-1, keepdims=True))
    return np.asarray(np.divide(blocks, length, out=np.zeros_like(blocks), where=length > 0))
