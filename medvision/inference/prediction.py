"""What a model says of the images one has at hand, in a notebook or a script. Knows no torch."""

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medvision.data.decode import decode
from medvision.data.resize import conform
from medvision.errors import BadImage, DataError
from medvision.inference.predicts import Model
from medvision.inference.triage import Annotation, Status, label, unreadable

ImageLike = str | Path | Image.Image | NDArray[np.uint8]


def read_image(image: ImageLike, settings: Mapping[str, Any]) -> NDArray[np.uint8]:
    """The pixels of one image at the size and channels of a model.

    Args:
        image: a file as `medvision.data.decode.decode` reads it, DICOM included; a PIL image; or uint8 pixels, grey
            (H, W) or RGB (H, W, 3), or (C, H, W) as the model takes them.
        settings: `decode` of the model.

    Returns:
        (C, H, W) uint8.

    Raises:
        BadImage: if the file cannot be used.
        DataError: if `image` is an array of another kind.
    """
    if isinstance(image, str | Path):
        return decode(image, **settings)
    if isinstance(image, Image.Image):  # by way of a file, so that palettes, alpha and 16 bits have their one rule
        file = io.BytesIO()
        image.save(file, "TIFF" if image.mode == "CMYK" else "PNG")
        return decode(file.getvalue(), **settings)
    channels, size = settings["channels"], tuple(settings["size"])
    if image.dtype == np.uint8 and image.shape == (channels, *size):
        return image
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        raise DataError(
            f"expected uint8 pixels, grey (H, W), RGB (H, W, 3) or {(channels, *size)}; "
            f"found {image.dtype} {image.shape}."
        )
    return conform(np.ascontiguousarray(image), size, channels, settings["resize"])


MIN_CONFIDENCE = 0.8  # as in conf/predict.yaml


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image, and whether it may say so alone.

    Attributes:
        label: the class; None where the image could not be read.
        probs: calibrated probability of each class, the most probable first; empty where it could not be read.
        set: the classes that cannot be ruled out (the conformal set), the most probable first; None where the model has
            no conformal quantile.
        status: auto (the label can stand), review (a human should look), rejected (the model has no say on it).
        reason: why it is not auto; "" where it is.
    """

    label: str | None
    probs: Mapping[str, float]
    set: tuple[str, ...] | None
    status: Status
    reason: str


def predict(
    model: Model, images: ImageLike | Iterable[ImageLike], min_confidence: float = MIN_CONFIDENCE
) -> Prediction | list[Prediction]:
    """Predict one image or several, by the same rules as `medvision predict`.

    Args:
        model: from `medvision.load`.
        images: one image as `medvision.inference.prediction.read_image` takes it; or a list of such; or uint8 pixels
            (N, C, H, W) as the model takes them.
        min_confidence: probability of the label below which a human should look.

    Returns:
        A prediction, or a list of them for a list or (N, C, H, W). In a list an unreadable file is `rejected`, so that
        it does not cost the others.

    Raises:
        BadImage: if a single file cannot be used.
        DataError: if an array is no image.
    """
    if not isinstance(images, str | Path | Image.Image | np.ndarray):
        return _predict_list(model, list(images), min_confidence)
    if isinstance(images, np.ndarray) and images.ndim == 4:
        return [_named(model, one) for one in label(model, images, min_confidence)[0]]
    (found,), _ = label(model, read_image(images, model.decode)[np.newaxis], min_confidence)
    return _named(model, found)


def _predict_list(model: Model, images: list[ImageLike], min_confidence: float) -> list[Prediction]:
    pixels: list[NDArray[np.uint8]] = []
    failed: dict[int, str] = {}
    for row, image in enumerate(images):
        try:
            pixels.append(read_image(image, model.decode))
        except BadImage as error:
            failed[row] = error.reason
    found = iter(label(model, np.stack(pixels), min_confidence)[0] if pixels else [])
    return [_named(model, unreadable(failed[row]) if row in failed else next(found)) for row in range(len(images))]


def _named(model: Model, found: Annotation) -> Prediction:
    probs = {} if found.probs is None else dict(zip(model.class_names, found.probs, strict=True))
    ordered = dict(sorted(probs.items(), key=lambda item: -item[1]))
    return Prediction(found.label, ordered, found.classes, found.status, found.reason)
