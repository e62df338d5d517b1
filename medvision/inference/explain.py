"""Class activation maps (Grad-CAM): where a network looked for a class."""

import io
from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from torch import nn
from torch.nn.functional import interpolate

from medvision.errors import DataError, ModelError
from medvision.inference.prediction import ImageLike, read_image
from medvision.inference.predicts import Predicts
from medvision.models.network import Network
from medvision.models.shapes import output_shape

_PIXELS_PER_BATCH = 2**20  # a quarter of the predictor's: what the gradient needs is kept beside the activations


@dataclass(frozen=True, eq=False)
class Explanation:
    """What a model says about one image and where it looked; a notebook shows it as the image beside its map.

    Attributes:
        probs: calibrated probability of each class, the most probable first.
        of: the class that the map is of.
        activation: (H, W) float32 in [0, 1], on the image as the network saw it.
        png: that image beside the same under the map.
    """

    probs: Mapping[str, float]
    of: str
    activation: NDArray[np.float32]
    png: bytes

    def _repr_png_(self) -> bytes:
        return self.png


def explain(predictor: Predicts, image: ImageLike, of: str | None = None) -> Explanation:
    """Predict one image and show what spoke for a class.

    Args:
        predictor: from `medvision.load`.
        image: as `medvision.inference.prediction.read_image` takes it: a path, DICOM included, a PIL image, or pixels.
        of: the class to explain; by default the most probable one.

    Raises:
        BadImage: if the file cannot be used.
        DataError: if `image` is an array of another kind or `of` is not a class.
        ModelError: if there are no maps for this network; see `why_no_maps`.
    """
    if of is not None and of not in predictor.class_names:
        raise DataError(f"there is no class {of!r}; expected one of {', '.join(predictor.class_names)}.")
    images = read_image(image, predictor.decode)[np.newaxis]
    probs = dict(zip(predictor.class_names, predictor.predict_probs(images)[0].tolist(), strict=True))
    of = of or max(probs, key=lambda name: probs[name])
    (activation,) = activation_maps(predictor, images, [predictor.class_names.index(of)])
    ordered = dict(sorted(probs.items(), key=lambda item: -item[1]))
    return Explanation(ordered, of, activation, side_by_side(images[0], activation))


def why_no_maps(predictor: Predicts) -> str | None:
    """Why there are no class activation maps for this network, as half a sentence; None where there are."""
    found = _find_layer(predictor)
    return found if isinstance(found, str) else None


def activation_maps(predictor: Predicts, images: NDArray[np.uint8], classes: ArrayLike) -> NDArray[np.float32]:
    """Grad-CAM: the channels of the network's `cam_layer`, weighted by how much each raises the logit of a class.

    Each map is scaled to its own maximum: it says where in an image the evidence lies, not how strong it is.

    Args:
        predictor: stays as it was; nothing is left on its network.
        images: (N, C, H, W) uint8, in memory or memory-mapped, at the size and channels of `predictor.decode`.
        classes: (N,) int in [0, K), the class that each map is of.

    Returns:
        (N, H, W) float32 in [0, 1], stretched bilinearly to the size of the images; all zero where no channel that
        is active is evidence for the class, else with maximum 1.

    Raises:
        ModelError: if there are no maps for this network; see `why_no_maps`.

    Source: Selvaraju et al. 2017, arXiv:1610.02391, equations 1 and 2.
    """
    # Half a second, which most who load a model never need.
    from captum.attr import LayerGradCam

    found = _find_layer(predictor)
    if isinstance(found, str):
        raise ModelError(f"There are no class activation maps for this model: {found}.")
    network, layer = found
    n, _, height, width = images.shape
    maps = np.empty((n, height, width), np.float32)
    grad_cam = LayerGradCam(network, layer)
    step = max(1, min(256, _PIXELS_PER_BATCH // (height * width)))
    # What is computed in inference mode can never be differentiated, and the caller may be in it.
    with torch.inference_mode(False):
        targets = torch.as_tensor(np.array(classes, np.int64), device=network.mean.device)
        for start in range(0, n, step):
            batch = torch.from_numpy(np.array(images[start : start + step])).to(network.mean.device)
            coarse = grad_cam.attribute(batch, targets[start : start + step], relu_attributions=True)
            smooth = interpolate(coarse.detach().float(), (height, width), mode="bilinear")
            maps[start : start + step] = smooth[:, 0].cpu().numpy()
    peaks = maps.max(axis=(1, 2), keepdims=True, initial=0)
    np.divide(maps, peaks, out=maps, where=peaks > 0)
    return maps


def _find_layer(predictor: Predicts) -> tuple[Network, nn.Module] | str:
    """The network and the layer that maps are made of, or why there is none that serves."""
    network = getattr(predictor, "model", None)
    if not isinstance(network, Network):
        return "they need a network of medvision.models"
    layer = network.cam_layer
    if layer is None:
        return "this network has no layer whose output keeps the layout of the image"
    channels, (height, width) = predictor.decode["channels"], predictor.decode["size"]
    name = next(name for name, module in network.backbone.named_modules() if module is layer)
    if output_shape(network.backbone, channels, (height, width), name)[-2:] == (1, 1):
        return f"its last convolutions shrink {height} x {width} pixels to a single one, which cannot say where"
    return network, layer


# Perceptually uniform and safe for every kind of colour blindness; nothing in grey anatomy has its colours.
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
