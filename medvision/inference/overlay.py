"""Small PNG pictures of images and of the class activation maps over them."""

import io

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Perceptually uniform and told apart with every kind of colour blindness; nothing in grey anatomy has its colours.
_COLOURS = cv2.COLORMAP_INFERNO
_STRONGEST = 0.65  # opacity where the map is 1, so that anatomy shows through even there
_SMALLEST, _LARGEST = 112, 224  # pixels on the longer side
_BYTES = 25_000  # of one picture, about: 70 pairs stay under 5 MB with base64's third on top


def picture(image: NDArray[np.uint8]) -> bytes:
    """PNG of an image, large enough to see and small enough to send.

    Args:
        image: (C, H, W) with C 1 (grey) or 3 (RGB).
    """
    return _encode(_visible(image))


def overlay(image: NDArray[np.uint8], activation: NDArray[np.float32]) -> bytes:
    """PNG of an image under its class activation map, which is the more opaque the higher it is.

    Args:
        image: (C, H, W) with C 1 (grey) or 3 (RGB).
        activation: (H, W) in [0, 1]; where it is 0 the image is as it was.
    """
    return _encode(blend(_visible(image), activation))


def side_by_side(image: NDArray[np.uint8], activation: NDArray[np.float32]) -> bytes:
    """PNG of an image beside the same under its class activation map; see `overlay`."""
    original = _visible(image)
    gap = np.full((original.shape[0], 8, 3), 255, np.uint8)
    return _png(Image.fromarray(np.concatenate([original, gap, blend(original, activation)], axis=1)))


def blend(pixels: NDArray[np.uint8], activation: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Colour pixels by a map.

    Args:
        pixels: (H, W, 3) RGB.
        activation: (h, w) in [0, 1], of any size; stretched over the pixels.
    """
    height, width = pixels.shape[:2]
    smooth = cv2.resize(activation, (width, height), interpolation=cv2.INTER_LINEAR)
    levels = np.rint(255 * smooth).astype(np.uint8)
    colours = cv2.cvtColor(cv2.applyColorMap(levels, _COLOURS), cv2.COLOR_BGR2RGB)
    opacity = _STRONGEST * smooth[..., None]
    return np.asarray(np.rint(pixels + opacity * (colours.astype(np.float32) - pixels)), np.uint8)


def _visible(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 3) RGB at a size to look at; enlarged pixels stay squares, because that is what the network saw."""
    pixels = np.ascontiguousarray(image.transpose(1, 2, 0))
    if pixels.shape[2] == 1:
        pixels = pixels.repeat(3, axis=2)
    height, width = pixels.shape[:2]
    longer = max(height, width)
    if longer < _SMALLEST:
        times = -(-_SMALLEST // longer)
        pixels = pixels.repeat(times, axis=0).repeat(times, axis=1)
    elif longer > _LARGEST:
        ratio = _LARGEST / longer
        size = max(1, round(width * ratio)), max(1, round(height * ratio))
        pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
    return pixels


def _encode(pixels: NDArray[np.uint8]) -> bytes:
    """PNG of (H, W, 3) RGB: exact where the budget allows, in fewer colours where it does not."""
    is_grey = bool((pixels == pixels[..., :1]).all())
    exact = Image.fromarray(pixels).convert("L" if is_grey else "RGB")
    png = _png(exact)
    for colours in (128, 64, 32, 16):
        if len(png) <= _BYTES:
            break
        # Dithering would put speckles where there is nothing, and does not compress.
        png = _png(exact.quantize(colours, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE))
    return png


def _png(drawn: Image.Image) -> bytes:
    file = io.BytesIO()
    drawn.save(file, "PNG", optimize=True)
    return file.getvalue()
