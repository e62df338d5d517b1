"""The network that every builder returns: normalisation, backbone and head in one module that takes raw images."""

from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from medvision.errors import ModelError


class Fitting(Protocol):
    """What fits a network; see `medvision.training.fit.Fitting`."""

    def network(self, network: "Network") -> Any:
        """Fit it in place."""


@runtime_checkable
class FittedLayer(Protocol):
    """A layer whose weights are computed from training images, not learnt; see `medvision.models.fast_cnn`."""

    def fit(self, images: torch.Tensor) -> None:
        """Compute them from normalised images (N, C, H, W)."""


class Network(nn.Module):
    """Classifies raw images; normalisation is inside, so that a trained network cannot be fed wrongly scaled ones.

    Args:
        backbone: maps normalised float (B, C, H, W) to embeddings (B, D).
        embed_dim: length D of an embedding.
        num_classes: number of classes K.
        in_channels: number of image channels C.
        cam_layer: the layer inside `backbone` whose (B, C', H', W') output class activation maps are made of, or None
            where there is no such layer.
        freeze_backbone: train the head alone; the backbone keeps its weights and its batch statistics.
    """

    mean: torch.Tensor
    std: torch.Tensor
    has_embeddings = True

    def __init__(
        self,
        backbone: nn.Module,
        embed_dim: int,
        num_classes: int,
        in_channels: int,
        cam_layer: nn.Module | None = None,
        freeze_backbone: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(embed_dim, num_classes)
        self.register_buffer("mean", torch.zeros(in_channels))
        self.register_buffer("std", torch.full((in_channels,), 255.0))
        self.freeze_backbone = freeze_backbone
        # The name and not the layer: a second reference would save its weights twice.
        names = {module: name for name, module in backbone.named_modules()}
        self._cam_layer = None if cam_layer is None else names[cam_layer]
        if freeze_backbone:
            backbone.requires_grad_(False)

    @property
    def cam_layer(self) -> nn.Module | None:
        """The layer that class activation maps are made of, or None."""
        return None if self._cam_layer is None else self.backbone.get_submodule(self._cam_layer)

    def set_statistics(self, mean: ArrayLike, std: ArrayLike) -> None:
        """Normalise by these values from now on.

        Args:
            mean: (C,) channel means of the training images, in 0-255 units.
            std: (C,) channel standard deviations, in 0-255 units.

        Raises:
            ModelError: if a standard deviation is not above 0 or the number of channels is another.
        """
        means, stds = np.asarray(mean, np.float64), np.asarray(std, np.float64)
        if not means.shape == stds.shape == tuple(self.mean.shape):
            raise ModelError(
                f"Statistics for {len(self.mean)} channels expected, found shapes {means.shape} and {stds.shape}."
            )
        if not (stds > 0).all():
            raise ModelError(
                f"The training images must vary in every channel, found standard deviations {stds.tolist()}. "
                "Look at the images; data.channels=1 reads colour images as grey."
            )
        self.mean.copy_(torch.from_numpy(means))
        self.std.copy_(torch.from_numpy(stds))

    @torch.no_grad()
    def fit_layers(self, images: NDArray[np.uint8]) -> None:
        """Compute the layers that are computed from training images instead of learnt; most networks have none.

        Args:
            images: (N, C, H, W) uint8, some thousand of the training images; the statistics are set.
        """
        for layer in self.backbone.modules():
            if isinstance(layer, FittedLayer):
                layer.fit(self.normalise(torch.from_numpy(images).to(self.mean.device)))

    def fit(self, fitting: Fitting) -> Any:
        """Have the network trained."""
        return fitting.network(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, K) of images (B, C, H, W), uint8 or float in 0 to 255."""
        logits: torch.Tensor = self.head(self.embed(images))
        return logits

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Embeddings (B, D) of images (B, C, H, W), uint8 or float in 0 to 255: what the head sees."""
        embeddings: torch.Tensor = self.backbone(self.normalise(images))
        return embeddings

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """(images - mean) / std, channel by channel, in the precision of the statistics."""
        return (images.to(self.mean.dtype) - self.mean[:, None, None]) / self.std[:, None, None]

    def train(self, mode: bool = True) -> Self:
        """Switch between training and evaluation; a frozen backbone stays in evaluation."""
        super().train(mode)
        if self.freeze_backbone:
            self.backbone.eval()
        return self
