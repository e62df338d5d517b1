"""The article's network: convolutions with pooling, then one hidden dense layer."""

from collections.abc import Sequence

from torch import nn

from medvision.errors import ModelError
from medvision.models.network import Network


def small_cnn(
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int],
    *,
    channels: Sequence[int] = (32, 64),
    hidden: int = 64,
    dropout: float = 0.0,
    freeze_backbone: bool = False,
) -> Network:
    """Blocks of 3x3 convolution, 2x2 maximum pooling and ReLU; a dense layer with ReLU; the classes.

    Convolutions are not padded, as in Keras by default: each block takes a side s to (s - 2) // 2. Pooling comes before
    the ReLU: the result is the same and a quarter of the values is left to rectify.

    Args:
        num_classes: number of classes.
        in_channels: 1 for grey, 3 for colour.
        image_size: height and width in pixels; the number of weights depends on it.
        channels: filters of each convolution, one block each.
        hidden: width of the dense layer, whose output is the embedding.
        dropout: share of the embedding set to 0 in training.
        freeze_backbone: train the last layer alone.

    Raises:
        ModelError: if a width is below 1, `dropout` is no share, or the image is too small for so many blocks.
    """
    if min([*channels, hidden]) < 1 or not 0 <= dropout < 1:
        raise ModelError(
            "model.channels and model.hidden must be 1 or more and model.dropout in [0, 1), "
            f"found {list(channels)}, {hidden} and {dropout}."
        )
    height, width = image_size
    layers: list[nn.Module] = []
    inputs = in_channels
    for outputs in channels:
        layers += [nn.Conv2d(inputs, outputs, kernel_size=3), nn.MaxPool2d(2), nn.ReLU()]
        inputs = outputs
        height, width = (height - 2) // 2, (width - 2) // 2
    if min(height, width) < 1:
        smallest = 3 * 2 ** len(channels) - 2
        raise ModelError(
            f"small_cnn with {len(channels)} convolutions needs images of {smallest}x{smallest} pixels or more, "
            f"found {image_size[0]}x{image_size[1]}. Raise data.image_size or shorten model.channels."
        )
    # The ReLU and not the convolution, whose negative values left 87 % of MNIST's activation maps empty (now 0.7 %).
    cam_layer = layers[-1] if layers else None
    layers += [nn.Flatten(), nn.Linear(inputs * height * width, hidden), nn.ReLU(), nn.Dropout(dropout)]
    return Network(nn.Sequential(*layers), hidden, num_classes, in_channels, cam_layer, freeze_backbone)
