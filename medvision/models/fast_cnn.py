"""A network made to be trained in seconds: whitened input, convolutions that begin as the identity, few weights."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional
from torch.nn.functional import conv2d, gelu

from medvision.errors import ModelError
from medvision.models.network import Network


class Group(nn.Module):
    """Convolution, pooling, convolution, each normalised and activated; pooling comes before what it makes cheaper."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = _convolution(in_channels, out_channels)
        self.norm1 = _normalisation(out_channels)
        self.conv2 = _convolution(out_channels, out_channels)
        self.norm2 = _normalisation(out_channels)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to (B, C', H // 2, W // 2)."""
        if self.training:
            x = gelu(self.norm1(self.pool(self.conv1(x))))
            return gelu(self.norm2(self.conv2(x)))
        # The convolutions normalise, which spares a CPU almost a third of the time. The first does it before the
        # pooling: the scale is positive, so that a maximum stays one.
        x = gelu(self.pool(_normalised(self.conv1, self.norm1, x)))
        return gelu(_normalised(self.conv2, self.norm2, x))


def _normalised(conv: nn.Conv2d, norm: nn.BatchNorm2d, x: torch.Tensor) -> torch.Tensor:
    """What `norm` makes of `conv` in evaluation, in one convolution."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return conv2d(x, conv.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale, padding=1)


def fast_cnn(
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int],
    *,
    widths: Sequence[int] = (64, 256, 256),
    freeze_backbone: bool = False,
) -> Network:
    """Whitening, groups of two convolutions that each halve the side, maximum over what is left of it, classes.

    The first filters of a convolution begin as the identity, the scale of batch normalisation stays 1, and the logits
    begin small, so that a large learning rate can begin at once. Made for `optimizer=muon`.

    Args:
        num_classes: number of classes.
        in_channels: 1 for grey, 3 for colour.
        image_size: height and width in pixels.
        widths: channels of each group.
        freeze_backbone: train the last layer alone.

    Raises:
        ModelError: if a width is below 1 or the image is too small for so many groups.
    Source: Jordan 2024, arXiv:2404.00498, section 3; https://github.com/KellerJordan/cifar10-airbench.
    """
    if not widths or min(widths) < 1:
        raise ModelError(f"model.widths needs one value of 1 or more for each group, found {list(widths)}.")
    smallest = 2 ** len(widths) + 1
    if min(image_size) < smallest:
        raise ModelError(
            f"fast_cnn with {len(widths)} groups needs images of {smallest}x{smallest} pixels or more, "
            f"found {image_size[0]}x{image_size[1]}. Raise data.image_size or shorten model.widths."
        )
    whitening = Whitening(in_channels)
    channels = [whitening.out_channels, *widths]
    groups = [Group(*pair) for pair in pairwise(channels)]
    backbone = nn.Sequential(whitening, nn.GELU(), *groups, nn.AdaptiveMaxPool2d(1), nn.Flatten())
    network = Network(backbone, widths[-1], num_classes, in_channels, groups[-1], freeze_backbone)
    nn.init.normal_(network.head.weight, std=1 / widths[-1])
    nn.init.zeros_(network.head.bias)
    return network


def _convolution(in_channels: int, out_channels: int) -> nn.Conv2d:
    layer = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    nn.init.dirac_(layer.weight.data[:in_channels])
    return layer


def _normalisation(channels: int) -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(channels)
    layer.weight.requires_grad_(False)
    return layer


_EPS = 5e-4  # added to the eigenvalues: directions that hardly vary are noise, and must not be blown up


class Whitening(nn.Module):
    """Convolution with the eigenvectors of the images' patches, each scaled to unit variance, and their negatives.

    The filters are fixed by `fit`, before which they are random. Both signs are there so that an activation after it
    loses nothing. There is no bias to learn, as the source has in its first epochs: it alone would need the gradient of
    the largest activations of the network, a fifth of a step on a CPU.

    Args:
        in_channels: number of channels C.
        kernel: side k of a patch in pixels; there are 2 C k^2 filters.

    Source: https://github.com/tysam-code/hlb-CIFAR10; Jordan 2024, arXiv:2404.00498, section 3.2.
    """

    def __init__(self, in_channels: int, kernel: int = 2) -> None:
        super().__init__()
        self.out_channels = 2 * in_channels * kernel**2
        filters = torch.empty(self.out_channels, in_channels, kernel, kernel)
        nn.init.orthogonal_(filters)
        self.weight = nn.Parameter(filters, requires_grad=False)

    @torch.no_grad()
    def fit(self, images: torch.Tensor) -> None:
        """Compute the filters.

        Args:
            images: (N, C, H, W) float, normalised as the network normalises.
        """
        _, channels, kernel, _ = self.weight.shape
        size = channels * kernel**2
        # Patch by patch would be k^2 times the images; their second moments are sums over shifted images.
        shifted = [
            images[:, channel, y : images.shape[2] - kernel + 1 + y, x : images.shape[3] - kernel + 1 + x].flatten()
            for channel in range(channels)
            for y in range(kernel)
            for x in range(kernel)
        ]
        patches = torch.stack(shifted)
        values, vectors = torch.linalg.eigh((patches @ patches.T / patches.shape[1]).double())
        filters = (vectors / (values.clamp(min=0) + _EPS).sqrt()).T.reshape(size, channels, kernel, kernel)
        self.weight.copy_(torch.cat([filters, -filters]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to (B, 2 C k^2, H - k + 1, W - k + 1)."""
        return functional.conv2d(images, self.weight)
