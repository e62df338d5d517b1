"""DICOM files to 8-bit pictures, and to the group that their patient is."""

import hashlib
import io
import logging
import warnings
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from medvision.data.dicom.codecs import stored_values
from medvision.data.dicom.display import shades, show_grey
from medvision.data.limits import MAX_BYTES, Frames, check_size, choose_frame
from medvision.errors import BadImage, DataError

if TYPE_CHECKING:
    from pydicom import Dataset, FileDataset

_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
# Nothing else is read: names and dates of patients never get into memory, and hostile elements are skipped unparsed.
_IMAGE = (
    *_PIXELS,
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PlanarConfiguration", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "ExtendedOffsetTable"),
    *("ExtendedOffsetTableLengths", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("ModalityLUTSequence", "RescaleSlope", "RescaleIntercept"),
    *("VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *(
        f"{colour}PaletteColorLookupTable{part}"
        for colour in ("Red", "Green", "Blue")
        for part in ("Descriptor", "Data")
    ),
)
_SHAPE = ("PhotometricInterpretation", "Rows", "Columns")
_PATIENT = ("PatientID", "IssuerOfPatientID")
_MAX_READS = 200_000  # a header of more elements than this takes seconds and describes no picture
_MAX_SEQUENCE = 8_000_000  # bytes: 2,000 frames take about 2 MB ...
_MAX_ITEMS = 50_000  # ... and 20,000 items
_ITEMS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")  # how an item begins, little and big endian
_UNDEFINED = 0xFFFFFFFF  # the length of an element that ends with a mark


def is_dicom(data: bytes) -> bool:
    """Whether a file that begins with these bytes (at least 132) is DICOM."""
    return data[128:132] == b"DICM"


def decode(data: bytes, window: tuple[float, float] | None = None, frames: Frames = "reject") -> NDArray[np.uint8]:
    """Pixels of a DICOM file as a screen would show them, by the pipeline of the standard (PS3.3 C.7.6.3, C.11).

    Grey: stored values, signed or not, go through the modality LUT or rescale; then through `window`, else through
    the file's first VOI LUT, else through its first window (its VOI LUT function included). Without any of these the
    full range of the stored bits becomes 0..255 where there are 8 or fewer, and otherwise the range from the smallest
    to the largest stored value of the frame: give a window where images must stay comparable. MONOCHROME1 is inverted
    once, at the end. Pixels of the padding value (or range) are 0 and do not count for the range.

    Colour: YBR becomes RGB, palettes are resolved, and the full range of the bits becomes 0..255. ICC profiles,
    overlays and presentation states are not applied.

    Args:
        data: the file.
        window: centre and width in units after the modality LUT (HU in CT), instead of what the file says.
        frames: which frame stands for a file of several; "reject" refuses such files.

    Returns:
        (H, W) or (H, W, 3) uint8.

    Raises:
        BadImage: if the file holds no image, is damaged, or needs a decoder that is not there.
        DataError: if pydicom is not installed.
    """
    _quiet_pydicom()
    try:
        return _decode(data, window, frames)
    except BadImage:
        raise
    except Exception as error:  # a hostile file may provoke any error in parser and decoder
        reason = (str(error) or type(error).__name__).splitlines()[-1].strip()
        raise BadImage(f"DICOM is damaged or not supported: {reason}") from error


def header(path: str | Path) -> tuple[int, int, str]:
    """Height and width in pixels and the photometric interpretation of a DICOM file that can be decoded."""
    _quiet_pydicom()
    with Path(path).open("rb") as file:
        dataset = _read(file, _SHAPE, lambda tag, vr, length: tag > 0x00280011)
    return int(dataset.Rows), int(dataset.Columns), str(dataset.PhotometricInterpretation)


def group(path: str | Path) -> str | None:
    """Name of the patient of a DICOM file that does not show who it is: 16 hex digits of a SHA-256.

    The hash is of the PatientID and its issuer, so that files of one patient share a group. It keeps the ID itself out
    of tables and reports, but it is no anonymisation: whoever can list the possible IDs can find the one that fits.

    Returns:
        None where the file is not DICOM, cannot be read (decoding it says why), or has no PatientID.

    Raises:
        DataError: if the file is DICOM and pydicom is not installed.
    """
    try:
        with Path(path).open("rb") as file:
            if not is_dicom(file.read(132)):
                return None
            _quiet_pydicom()
            file.seek(0)
            dataset = _read(file, _PATIENT, lambda tag, vr, length: tag > 0x00100021)
            patient, issuer = (str(dataset.get(keyword) or "").strip() for keyword in _PATIENT)
    except DataError as error:
        if isinstance(error, BadImage):
            return None
        raise
    except Exception:  # as in `decode`, which reports it
        return None
    return hashlib.sha256(f"{patient}\0{issuer}".encode()).hexdigest()[:16] if patient else None


@cache
def _quiet_pydicom() -> None:
    """Make sure of pydicom, and leave what it has to say about odd values to the quarantine."""
    try:
        import pydicom  # noqa: F401
    except ImportError as error:
        raise DataError("DICOM files need the package pydicom. Install it: pip install 'medvision[dicom]'.") from error
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    # Once and for all: `catch_warnings` is not safe in the threads that decode.
    warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")


class _Metered:
    """A file for pydicom to read, which gives up after `_MAX_READS` reads."""

    def __init__(self, file: BinaryIO) -> None:
        self.seek, self.tell = file.seek, file.tell
        self._read = file.read
        self._left = _MAX_READS

    def read(self, size: int | None = None) -> bytes:
        if size is None:  # asked only for a deflated data set, of which pydicom would inflate any amount
            raise _Deflated
        self._left -= 1
        if self._left < 0:
            raise BadImage("DICOM header has too many elements")
        return self._read(size)


class _Deflated(Exception):
    """The data set after the file's meta information is compressed as a whole."""


def _read(
    file: BinaryIO, keywords: tuple[str, ...], stop_when: Callable[[Any, str | None, int], bool] | None = None
) -> "FileDataset":
    """The named elements of a DICOM file; sequences among them in bounded size."""
    from pydicom.datadict import tag_for_keyword
    from pydicom.filereader import read_partial

    tags = [cast(int, tag_for_keyword(keyword)) for keyword in keywords]
    try:
        dataset = read_partial(cast(BinaryIO, _Metered(file)), stop_when, specific_tags=tags)
    except _Deflated:
        return _read(_inflate(file), keywords, stop_when)
    for keyword in filter(dataset.__contains__, keywords):
        element = dataset.get_item(keyword)
        content = element.value
        if not isinstance(content, bytes):
            continue
        if len(content) < getattr(element, "length", 0) < _UNDEFINED:
            raise BadImage(f"DICOM ends before its {keyword} does")
        if not keyword.endswith("Sequence"):
            continue
        if len(content) > _MAX_SEQUENCE or max(map(content.count, _ITEMS)) > _MAX_ITEMS:
            raise BadImage(f"DICOM has too many items in its {keyword}")
    return dataset


def _inflate(file: BinaryIO) -> BinaryIO:
    """The same file with a plain data set; `file` stands where the deflated one begins."""
    from pydicom.uid import DeflatedExplicitVRLittleEndian as Deflated
    from pydicom.uid import ExplicitVRLittleEndian as Plain

    start = file.tell()
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    body = inflater.decompress(file.read(), MAX_BYTES)
    if inflater.unconsumed_tail:
        raise BadImage(f"DICOM inflates to more than {MAX_BYTES / 1e6:.0f} MB")
    file.seek(0)
    head = file.read(start).replace(Deflated.encode(), Plain.encode().ljust(len(Deflated), b"\0"))
    return io.BytesIO(head + body)


def _decode(data: bytes, window: tuple[float, float] | None, frames: Frames) -> NDArray[np.uint8]:
    from pydicom.pixels.processing import apply_color_lut

    dataset = _read(io.BytesIO(data), _IMAGE)
    if not ("Rows" in dataset and "Columns" in dataset and any(keyword in dataset for keyword in _PIXELS)):
        raise BadImage("DICOM holds no image, or ends before it")
    check_size(int(dataset.Columns), int(dataset.Rows))
    index = choose_frame(int(dataset.get("NumberOfFrames") or 1), frames)
    pixels, photometric, bits = stored_values(dataset, index)
    if photometric == "PALETTE COLOR":
        colours = apply_color_lut(pixels, dataset)[..., :3]
        return shades(colours, 0, 2.0 ** dataset.RedPaletteColorLookupTableDescriptor[2] - 1)
    if photometric == "RGB":
        return shades(pixels, 0, 2.0**bits - 1)
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise BadImage(f"DICOM has the photometric interpretation {photometric}, which is not supported")
    _take_functional_groups(dataset, index)
    return show_grey(pixels, dataset, bits, window)


def _take_functional_groups(dataset: "Dataset", index: int) -> None:
    """Bring rescale and window of one frame of an enhanced object to where a plain object has them."""
    for keyword, item in (("SharedFunctionalGroupsSequence", 0), ("PerFrameFunctionalGroupsSequence", index)):
        if keyword not in dataset:
            continue
        if item < len(dataset[keyword].value):
            frame = dataset[keyword].value[item]
            for part in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
                if frame.get(part):
                    dataset.update(frame[part].value[0])
