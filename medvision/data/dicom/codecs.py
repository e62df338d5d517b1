"""Frames of DICOM files to stored values: which decoder, and in which process."""

import struct
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from medvision.data.dicom import gdcm_process
from medvision.errors import BadImage

if TYPE_CHECKING:
    from pydicom import Dataset, FileDataset

# The first that is there decodes. GDCM is the last: it has a process of its own, which costs time.
_PLUGINS = ("pylibjpeg", "pyjpegls", "pillow", "pydicom", "gdcm")
_SKIPPED_SOF = (0xC4, 0xC8, 0xCC)  # Huffman tables and other segments among the numbers of the frame headers
_END = b"\xff\xd9"  # of JPEG, JPEG-LS and JPEG 2000 alike
_PADDING = 64  # bytes that may come after it
_JP2 = b"\0\0\0\x0cjP  "  # how a JP2 file begins, which should be a bare codestream but is not always


def stored_values(dataset: "FileDataset", index: int) -> tuple[NDArray[Any], str, int]:
    """Decode one frame.

    Args:
        dataset: with its pixel data and what describes them.
        index: number of the frame.

    Returns:
        (H, W) or (H, W, 3) stored values, the photometric interpretation they have now, and how many bits count.

    Raises:
        BadImage: if the transfer syntax has no decoder here, or the frame contradicts the data set.
    """
    from pydicom.encaps import encapsulate
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import JPEGExtended12Bit

    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        raise BadImage("DICOM does not say its transfer syntax")
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        raise BadImage(f"no decoder is known for the DICOM transfer syntax {syntax.name}; convert the file") from error
    if not decoder.is_available:
        needs = " or ".join(decoder.missing_dependencies)
        raise BadImage(f"{syntax.name} needs a decoder ({needs}); pip install 'medvision[dicom]'")
    if syntax == JPEGExtended12Bit and dataset.BitsStored > 8 and "pylibjpeg" not in decoder.available_plugins:
        raise BadImage("12-bit lossy JPEG needs a decoder under the GPL; pip install pylibjpeg pylibjpeg-libjpeg")
    if not syntax.is_encapsulated:
        pixels, facts = decoder.as_array(dataset, index=index)
    else:
        frame = _one_frame(dataset, index)
        plugin = next(name for name in _PLUGINS if name in decoder.available_plugins)
        if plugin == "gdcm":
            pixels, facts = gdcm_process.decode_frame(encapsulate([frame]), syntax, _options(dataset))
        else:
            pixels, facts = decoder.as_array(encapsulate([frame]), index=0, decoding_plugin=plugin, **_options(dataset))
    return pixels, str(facts["photometric_interpretation"]), int(facts.get("bits_stored", facts["bits_allocated"]))


def _one_frame(dataset: "Dataset", index: int) -> bytes:
    """A compressed frame, refused if it has no end or another size than the data set's.

    Decoders allocate what the frame says, fill up what is missing, and CharLS looks for the end for seconds.
    """
    from pydicom.encaps import get_frame

    offsets = None
    if "ExtendedOffsetTable" in dataset:
        offsets = (dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths)
    count = int(dataset.get("NumberOfFrames") or 1)
    frame = get_frame(dataset.PixelData, index, number_of_frames=count, extended_offsets=offsets)
    size = _codestream_size(frame)
    if size is None:
        return frame
    if size != (dataset.Columns, dataset.Rows):
        raise BadImage(f"DICOM promises {dataset.Columns} x {dataset.Rows} pixels, its frame {size[0]} x {size[1]}")
    if _END not in frame[-_PADDING:]:
        raise BadImage("DICOM has a truncated frame")
    return frame


def _options(dataset: "Dataset") -> dict[str, Any]:
    """What a decoder has to know of a frame, for pydicom's `Decoder.as_array`."""
    names = {
        "rows": "Rows",
        "columns": "Columns",
        "samples_per_pixel": "SamplesPerPixel",
        "bits_allocated": "BitsAllocated",
        "bits_stored": "BitsStored",
        "pixel_representation": "PixelRepresentation",
        "photometric_interpretation": "PhotometricInterpretation",
    }
    options = {option: dataset[keyword].value for option, keyword in names.items()}
    planes = {"planar_configuration": dataset.PlanarConfiguration} if dataset.SamplesPerPixel > 1 else {}
    return options | planes | {"number_of_frames": 1, "pixel_keyword": "PixelData"}


def _codestream_size(frame: bytes) -> tuple[int, int] | None:
    """Width and height in the header of a JPEG, JPEG-LS or JPEG 2000 codestream; None for anything else."""
    if frame.startswith(_JP2):
        _check_boxes(frame)
    start = frame.find(b"\xff\x4f\xff\x51", 0, 1024)  # JPEG 2000, perhaps inside the boxes of a JP2 file
    if start >= 0:
        right, bottom, left, top = struct.unpack_from(">4I", frame, start + 8)
        return right - left, bottom - top
    position = 2
    while frame[:2] == b"\xff\xd8" and position + 9 <= len(frame):
        mark, kind, length = struct.unpack_from(">BBH", frame, position)
        if mark != 0xFF:
            break
        if kind == 0xF7 or (0xC0 <= kind <= 0xCF and kind not in _SKIPPED_SOF):
            height, width = struct.unpack_from(">HH", frame, position + 5)
            return width, height
        position += 1 if kind == 0xFF else 2 + length
    return None


def _check_boxes(frame: bytes) -> None:
    """Refuse a JP2 file in which a box has no length: pydicom looks for the end of it for ever."""
    position = 12  # the first box
    while position < len(frame) and frame[position + 4 : position + 8] != b"jp2c":
        length = int.from_bytes(frame[position : position + 4], "big")
        if length < 8:
            raise BadImage("DICOM has a damaged JPEG 2000 frame")
        position += length
