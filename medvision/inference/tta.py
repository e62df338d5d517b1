"""Test-time augmentation: one answer from several views of an image."""

import torch
from torch import Tensor

from medvision.errors import ConfigError
from medvision.models.network import Network

VIEWS = {"none": 1, "mirror": 2, "mirror_shift": 6}  # how many each averages


def check_tta(tta: str) -> None:
    """Refuse a name that is none of `VIEWS`.

    Raises:
        ConfigError: if it is.
    """
    if tta not in VIEWS:
        raise ConfigError(f"tta={tta}: expected one of {', '.join(VIEWS)}.")


def embed_views(network: Network, images: Tensor, tta: str) -> Tensor:
    """Mean embedding of the views of each image; the head is linear, so that its logits are the mean logits.

    Args:
        network: that embeds.
        images: (B, C, H, W) uint8, at least 2 pixels high and wide.
        tta: "none" is the image alone; "mirror" adds its mirror image; "mirror_shift" adds to these two both of them
            moved by one pixel down and right, and up and left, each at half the weight (Jordan 2024, arXiv:2404.00498,
            section 3.5: six views).

    Returns:
        (B, D), in the precision of the network.
    """
    if tta == "none":
        return network.embed(images)
    embedded = _both_ways(network, images)
    if tta == "mirror":
        return embedded
    height, width = images.shape[2:]
    moved = [_both_ways(network, images[:, :, down][:, :, :, right]) for down, right in _shifts(height, width, images)]
    return embedded / 2 + (moved[0] + moved[1]) / 4


def _both_ways(network: Network, images: Tensor) -> Tensor:
    return (network.embed(images) + network.embed(images.flip(3))) / 2


def _shifts(height: int, width: int, images: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Where rows and columns come from, one pixel on and one back, the edge mirrored."""
    back = [torch.tensor([1, *range(size - 1)], device=images.device) for size in (height, width)]
    on = [torch.tensor([*range(1, size), size - 2], device=images.device) for size in (height, width)]
    return [(back[0], back[1]), (on[0], on[1])]
