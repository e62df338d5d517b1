"""Stored values of a DICOM frame to the shades that a screen would show.

Our own because `pydicom.pixels.processing` refuses LUTs of 12 bits and windows of width 0, which real files have, and
looks up every pixel where the values are few.
"""

from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from medvision.errors import BadImage

if TYPE_CHECKING:
    from pydicom import Dataset


def show_grey(
    pixels: NDArray[Any], dataset: "Dataset", bits: int, window: tuple[float, float] | None
) -> NDArray[np.uint8]:
    """Stored values as shades of grey by the modality LUT and the window of the file, or by a given window.

    Args:
        pixels: (H, W) stored values.
        dataset: holds the file's LUTs, rescale, window and padding values.
        bits: number of bits that count in a stored value.
        window: centre and width instead of the file's LUT or window, in units after the modality LUT.

    Returns:
        (H, W) uint8; `medvision.data.dicom.read.decode` says which rule applies when.

    Raises:
        BadImage: if a pixel is not finite.
    """
    padding = _padding(pixels, dataset)
    inside = pixels if padding is None else pixels[~padding]
    if not inside.size:
        return np.zeros(pixels.shape, np.uint8)
    low, high = inside.min().item(), inside.max().item()
    if not np.isfinite([low, high]).all():
        raise BadImage("DICOM has pixels that are not finite")
    integer = np.issubdtype(pixels.dtype, np.integer)
    ends = (low, high)
    if integer and bits <= 8:
        ends = (-(1 << bits - 1), (1 << bits - 1) - 1) if pixels.dtype.kind == "i" else (0, (1 << bits) - 1)
    if integer and high - low < 1 << 16:
        # Stored values are few and pixels many: three times faster in a third of the memory.
        table = _display(np.arange(low, high + 1), ends, dataset, window)
        shown: NDArray[np.uint8] = np.take(table, np.subtract(pixels, low, dtype=np.int64), mode="clip")
    else:
        shown = _display(pixels, ends, dataset, window)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        np.subtract(255, shown, out=shown)
    if padding is not None:
        shown[padding] = 0
    return shown


def shades(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Values from `low` to `high` as 0..255, rounded to uint8; what lies outside is clipped."""
    if high <= low:  # a window of width 1, or a constant image
        return np.where(values > low, 255, 0).astype(np.uint8)
    return np.rint(np.clip((values - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def _padding(pixels: NDArray[Any], dataset: "Dataset") -> NDArray[np.bool_] | None:
    """Where pixels were never measured; None where the file does not mark that."""
    if dataset.get("PixelPaddingValue") is None or not np.issubdtype(pixels.dtype, np.integer):
        return None
    first = dataset.PixelPaddingValue
    last = dataset.get("PixelPaddingRangeLimit")
    # Some files write a negative value as unsigned: 63536 for -2000.
    ends = np.array([first, first if last is None else last], np.int64).astype(pixels.dtype)
    return cast(NDArray[np.bool_], (pixels >= ends.min()) & (pixels <= ends.max()))


def _display(
    values: NDArray[Any], ends: tuple[float, float], dataset: "Dataset", window: tuple[float, float] | None
) -> NDArray[np.uint8]:
    """Stored values to 0..255, before the inversion of MONOCHROME1; `ends` is the stored range without a window."""
    values, limits = _modality(values, dataset), _modality(np.array(ends), dataset)
    luts = dataset.get("VOILUTSequence")
    if window is None and luts:
        return shades(_look_up(values, luts[0], dataset), 0, 2.0 ** luts[0].LUTDescriptor[2] - 1)
    function = "LINEAR" if window else str(dataset.get("VOILUTFunction") or "LINEAR")
    centre, width = window or (_first(dataset, "WindowCenter"), _first(dataset, "WindowWidth"))
    # Files say 0 or nothing where they mean no window.
    if centre is None or width is None or not width >= (1 if function == "LINEAR" else np.finfo(float).eps):
        return shades(values, limits.min(), limits.max())
    if function == "SIGMOID":
        return shades(1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -50, 50))), 0, 1)
    if function == "LINEAR":
        return shades(values, centre - width / 2, centre + width / 2 - 1)
    return shades(values, centre - width / 2, centre + width / 2)


def _modality(values: NDArray[Any], dataset: "Dataset") -> NDArray[Any]:
    """Stored values in the units that the modality measures, such as HU."""
    if dataset.get("ModalityLUTSequence"):
        return _look_up(values, dataset.ModalityLUTSequence[0], dataset)
    slope, intercept = _first(dataset, "RescaleSlope"), _first(dataset, "RescaleIntercept")
    return values * (1.0 if slope is None else slope) + (intercept or 0.0)


def _look_up(values: NDArray[Any], item: "Dataset", dataset: "Dataset") -> NDArray[Any]:
    """Values through a LUT, whose first and last entries are used outside it."""
    table = item.LUTData
    if isinstance(table, bytes):
        table = np.frombuffer(table, "<u2" if dataset.original_encoding[1] else ">u2")
    entries = np.atleast_1d(np.asarray(table))[: item.LUTDescriptor[0] or 1 << 16]
    positions = np.rint(values).astype(np.int64) - item.LUTDescriptor[1]
    return cast(NDArray[Any], entries[np.clip(positions, 0, len(entries) - 1)])


def _first(dataset: "Dataset", keyword: str) -> float | None:
    """An element's first number, None where there is none."""
    value = dataset.get(keyword)
    values = np.atleast_1d(np.array([] if value is None or value == "" else value, np.float64))
    return float(values[0]) if values.size and np.isfinite(values[0]) else None
