"""A residual network for small images: a 3x3 stem that keeps the resolution, where ImageNet's would shrink it."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import relu

from medvision.errors import ModelError
from medvision.models.network import Network


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2015, arXiv:1512.03385, figure 2)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )
        # Every block begins as its shortcut, which lets large learning rates start at once (arXiv:1706.02677).
        nn.init.zeros_(self.norm2.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to (B, C', H / stride, W / stride)."""
        residual = self.norm2(self.conv2(relu(self.norm1(self.conv1(x)))))
        return relu(residual + self.shortcut(x))


def small_resnet(
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int],
    *,
    widths: Sequence[int] = (32, 64, 128),
    depths: Sequence[int] = (2, 2, 2),
    freeze_backbone: bool = False,
) -> Network:
    """Stem, stages of residual blocks, mean over the image, classes; each stage after the first halves the resolution.

    The default is half as wide as ResNet-18 and one stage shorter: 0.7 million weights, a fifth of the operations.
    `widths=[64,128,256,512] depths=[2,2,2,2]` is ResNet-18 as it is used for CIFAR.

    Args:
        num_classes: number of classes.
        in_channels: 1 for grey, 3 for colour.
        image_size: height and width in pixels.
        widths: channels of each stage.
        depths: blocks of each stage.
        freeze_backbone: train the last layer alone.

    Raises:
        ModelError: if `widths` and `depths` do not fit together or the image is too small for so many stages.
    """
    if not widths or len(widths) != len(depths) or min(*widths, *depths) < 1:
        raise ModelError(
            "model.widths and model.depths need one value of 1 or more for each stage, "
            f"found {list(widths)} and {list(depths)}."
        )
    smallest = 2 ** (len(widths) - 1)
    if min(image_size) < smallest:
        raise ModelError(
            f"small_resnet with {len(widths)} stages needs images of {smallest}x{smallest} pixels or more, "
            f"found {image_size[0]}x{image_size[1]}. Raise data.image_size or take fewer stages."
        )
    stem = [nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()]
    blocks: list[Block] = []
    channels = widths[0]
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        for block in range(depth):
            blocks.append(Block(channels, width, stride=2 if stage and not block else 1))
            channels = width
    backbone = nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Network(backbone, channels, num_classes, in_channels, blocks[-1], freeze_backbone)
