"""What augmentation does to the pixels of a batch, each image by its own values: gather, resample, recolour, cover."""

from typing import Literal

import cv2
import numpy as np
import torch
from torch.nn.functional import grid_sample

Fill = Literal["reflect", "nearest", "zero"]
Drawn = dict[str, torch.Tensor]  # (width, B) values of each transform that is on
Matrices = list[list[torch.Tensor]]  # two rows of three factors (B,): where output pixels come from

_PADDING_MODES = {"reflect": "reflection", "nearest": "border", "zero": "zeros"}
_BORDERS = {"reflect": cv2.BORDER_REFLECT_101, "nearest": cv2.BORDER_REPLICATE, "zero": cv2.BORDER_CONSTANT}
_PIXELS_FOR_OPENCV = 96 * 96


def rearrange(images: torch.Tensor, drawn: Drawn, fill: Fill) -> torch.Tensor:
    """Flips and crop as one gather of whole pixels; one index serves all channels of an image."""
    batch, channels, height, width = images.shape
    shift_x, shift_y = _column(drawn, "crop_padding", 0.0, images, size=2)
    (mirror_x,) = _column(drawn, "horizontal_flip", 0.0, images)
    (mirror_y,) = _column(drawn, "vertical_flip", 0.0, images)
    rows, rows_inside = _source(height, shift_y, mirror_y, fill)
    columns, columns_inside = _source(width, shift_x, mirror_x, fill)
    index = (rows[:, :, None] * width + columns[:, None, :]).view(batch, 1, height * width)
    moved = images.flatten(2).gather(2, index.expand(-1, channels, -1)).view_as(images)
    if fill == "zero":
        moved = moved * (rows_inside[:, None, :, None] & columns_inside[:, None, None, :])
    return moved


def _source(size: int, shift: torch.Tensor, mirror: torch.Tensor, fill: Fill) -> tuple[torch.Tensor, torch.Tensor]:
    """Where along one axis each output pixel comes from: (B, size) int64, and whether that lies inside the image."""
    wanted = torch.arange(size, device=shift.device) + shift.long()[:, None]
    last = size - 1
    found = last - (last - wanted.abs()).abs() if fill == "reflect" else wanted.clamp(0, last)
    return torch.where(mirror[:, None] > 0, last - found, found), wanted == found


def resample(images: torch.Tensor, drawn: Drawn, fill: Fill) -> torch.Tensor:
    """All geometry in one bilinear resampling; coordinates are pixels from the image's centre.

    Source point = flip (rotation shear zoom (x, y) + translation + crop shift), as in Keras's `apply_affine_transform`.
    """
    height, width = images.shape[2:]
    (angle,) = torch.deg2rad(_column(drawn, "rotation", 0.0, images))
    (shear,) = _column(drawn, "shear", 0.0, images)
    zoom_x, zoom_y = _column(drawn, "zoom", 1.0, images, size=2)
    part_x, part_y = _column(drawn, "translation", 0.0, images, size=2)
    shift_x, shift_y = _column(drawn, "crop_padding", 0.0, images, size=2)
    sign_x, sign_y = (1 - 2 * _column(drawn, name, 0.0, images)[0] for name in ("horizontal_flip", "vertical_flip"))
    cos, sin = angle.cos(), angle.sin()
    matrix_x = (cos * zoom_x, (-cos * shear.sin() - sin * shear.cos()) * zoom_y, part_x * width + shift_x)
    matrix_y = (sin * zoom_x, (-sin * shear.sin() + cos * shear.cos()) * zoom_y, part_y * height + shift_y)
    matrices = [[sign * factor for factor in row] for sign, row in ((sign_x, matrix_x), (sign_y, matrix_y))]
    return (_warped if _are_for_opencv(images) else _sampled)(images, matrices, fill)


def _are_for_opencv(images: torch.Tensor) -> bool:
    """On a CPU large images are faster one by one in uint8, about twice at 224 x 224, than all at once in float."""
    return images.device.type == "cpu" and images.shape[2] * images.shape[3] >= _PIXELS_FOR_OPENCV


def _sampled(images: torch.Tensor, matrices: Matrices, fill: Fill) -> torch.Tensor:
    """All images at once."""
    # Not affine_grid: its matrix product may round differently for another batch size.
    height, width = images.shape[2:]
    x = torch.arange(width, device=images.device) - (width - 1) / 2
    y = torch.arange(height, device=images.device)[:, None] - (height - 1) / 2
    grid = torch.stack(
        [
            _plane(x, y, [factor * 2 / max(side - 1, 1) for factor in row])
            for row, side in zip(matrices, (width, height), strict=True)
        ],
        dim=-1,
    )
    # With align_corners -1 and 1 are the centres of the border pixels, so that "reflect" means what it means in numpy.
    moved = grid_sample(images.float(), grid, padding_mode=_PADDING_MODES[fill], align_corners=True)
    return moved.round_().to(torch.uint8)


def _plane(x: torch.Tensor, y: torch.Tensor, factors: list[torch.Tensor]) -> torch.Tensor:
    along_x, along_y, offset = (factor[:, None, None] for factor in factors)
    return along_x * x + (along_y * y + offset)


def _warped(images: torch.Tensor, matrices: Matrices, fill: Fill) -> torch.Tensor:
    """Image by image; the same to within the rounding of halves."""
    height, width = images.shape[2:]
    matrix = torch.stack([torch.stack(row, dim=-1) for row in matrices], dim=1).double().numpy()  # (B, 2, 3)
    centre = (np.array([width, height]) - 1) / 2
    matrix[:, :, 2] += centre - matrix[:, :, :2] @ centre  # pixels from the first one, as OpenCV counts them
    moved = np.empty((len(images), height, width, images.shape[1]), np.uint8)  # all channels of a pixel at once
    flags, border = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, _BORDERS[fill]
    for image, one, result in zip(images.numpy(), matrix, moved, strict=True):
        cv2.warpAffine(cv2.merge(list(image)), one, (width, height), dst=result, flags=flags, borderMode=border)
    return torch.from_numpy(moved).permute(0, 3, 1, 2)


def recolour(images: torch.Tensor, drawn: Drawn) -> torch.Tensor:
    """Contrast, then brightness, each rounded and clipped to what uint8 holds."""
    grey = _mean_grey(images) if "contrast" in drawn else None
    if not _are_for_opencv(images):
        return _recoloured(images.float(), grey, drawn)
    # All pixels of one value change alike: 256 values an image are computed, the rest is looked up.
    levels = torch.arange(256.0).expand(len(images), 1, 1, 256)
    tables = _recoloured(levels, grey, drawn).view(-1, 256).numpy()
    changed = np.empty(images.shape, np.uint8)
    source = images.numpy().reshape(len(images), -1)
    for values, table, result in zip(source, tables, changed.reshape(source.shape), strict=True):
        cv2.LUT(values, table, dst=result)
    return torch.from_numpy(changed)


def _recoloured(values: torch.Tensor, grey: torch.Tensor | None, drawn: Drawn) -> torch.Tensor:
    """(B, ...) float values of B images changed, in uint8; `grey` is the mean of each, (B, 1, 1, 1)."""
    if grey is not None:
        values = ((values - grey) * drawn["contrast"].view(-1, 1, 1, 1) + grey).clamp_(0, 255)
    if "brightness" in drawn:
        values = (values * drawn["brightness"].view(-1, 1, 1, 1)).clamp_(0, 255)
    return values.round_().to(torch.uint8)


def _mean_grey(images: torch.Tensor) -> torch.Tensor:
    sums = _sums(images)
    if images.shape[1] == 3:
        sums = 0.2989 * sums[:, :1] + 0.587 * sums[:, 1:2] + 0.114 * sums[:, 2:]
    return sums / (images.shape[2] * images.shape[3])


def cut_out(images: torch.Tensor, centre: torch.Tensor, side: int) -> torch.Tensor:
    """Cover a square of `side` pixels around `centre`, (2, B) fractions of the axes, with the image's mean colour."""
    pixels = images.shape[2] * images.shape[3]
    mean = ((_sums(images) + pixels // 2) // pixels).to(torch.uint8)
    x, y = centre
    columns, rows = _stretch(x, images.shape[3], side), _stretch(y, images.shape[2], side)
    return torch.where(rows[:, None, :, None] & columns[:, None, None, :], mean, images)


def _stretch(place: torch.Tensor, size: int, side: int) -> torch.Tensor:
    """(B, size) bool: the `side` pixels around `place`, a fraction of the axis."""
    distance = torch.arange(size, device=place.device) - ((place * size).floor() - side // 2)[:, None]
    return (distance >= 0) & (distance < side)


def _sums(images: torch.Tensor) -> torch.Tensor:
    """(B, C, 1, 1) int32; whole numbers, so that no order of summation can change them. int64 is 30 times slower."""
    return images.sum((2, 3), keepdim=True, dtype=torch.int32)


def _column(drawn: Drawn, name: str, default: float, images: torch.Tensor, size: int = 1) -> torch.Tensor:
    """(size, B) drawn values, or the value that changes nothing."""
    found = drawn.get(name)
    return torch.full((size, len(images)), default, device=images.device) if found is None else found
