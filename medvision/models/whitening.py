"""A first layer that is computed from the training images instead of learnt: their patches made uncorrelated."""

import torch
from torch import nn
from torch.nn import functional

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
