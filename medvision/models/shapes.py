"""Output shapes of a network for an image size, found on torch's meta device without computing anything."""

import torch
from torch import nn
from torch.func import functional_call

from medvision.errors import ModelError

_LARGEST_TRIED = 512


def check_image_size(name: str, backbone: nn.Module, in_channels: int, image_size: tuple[int, int]) -> None:
    """Refuse an image size that the network cannot take.

    Args:
        name: the network's name, for the message.
        backbone: maps (B, C, H, W) to (B, D).
        in_channels: number of channels C.
        image_size: height and width in pixels.

    Raises:
        ModelError: with the smallest square size that the network does take, if there is one.
    """
    if _fits(backbone, in_channels, image_size):
        return
    sides = (side for side in range(1, _LARGEST_TRIED + 1) if _fits(backbone, in_channels, (side, side)))
    smallest = next(sides, None)
    raise size_refused(
        name, image_size, "" if smallest is None else f"; the smallest it takes is {smallest}x{smallest}"
    )


def size_refused(name: str, image_size: tuple[int, int], remark: str) -> ModelError:
    """The error for an image size that the network cannot take."""
    return ModelError(
        f"{name} cannot take images of {image_size[0]}x{image_size[1]} pixels{remark}. "
        "Change data.image_size, or take another model."
    )


def output_shape(
    backbone: nn.Module, in_channels: int, image_size: tuple[int, int], layer: str = ""
) -> tuple[int, ...]:
    """Shape of what `layer` returns for two images, by default of what the whole backbone returns."""
    shapes: list[tuple[int, ...]] = []
    hook = backbone.get_submodule(layer).register_forward_hook(lambda _module, _inputs, out: shapes.append(out.shape))
    tensors = {**dict(backbone.named_parameters()), **dict(backbone.named_buffers())}
    was_training = backbone.training
    try:
        with torch.no_grad():
            functional_call(
                backbone.eval(),
                {name: tensor.to("meta") for name, tensor in tensors.items()},
                torch.empty(2, in_channels, *image_size, device="meta"),
            )
    finally:
        hook.remove()
        backbone.train(was_training)
    return tuple(shapes[-1])


def _fits(backbone: nn.Module, in_channels: int, image_size: tuple[int, int]) -> bool:
    try:
        output_shape(backbone, in_channels, image_size)
    except (AssertionError, RuntimeError, ValueError):  # what networks raise at sizes that do not divide or vanish
        return False
    return True
