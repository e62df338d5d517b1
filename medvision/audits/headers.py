"""What files say of themselves before any pixel is looked at: size, format, colour mode, bytes, folder."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from medvision.data.decode import EXTENSIONS
from medvision.data.dicom import read as dicom
from medvision.data.table import ImageTable

_ORIENTATION = 0x0112
_SIDEWAYS = 5  # EXIF orientations from this one on exchange height and width
_PIL_FORMATS = sorted({*EXTENSIONS.values()} - {"DICOM"})


def read_headers(paths: Sequence[Path]) -> pd.DataFrame:
    """Height and width in pixels as displayed, format, colour mode and bytes of N files that can be decoded.

    The mode of a DICOM file is its photometric interpretation.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        rows = list(pool.map(_header, paths))
    return pd.DataFrame(rows, columns=["height", "width", "format", "mode", "bytes"])


def folders(table: ImageTable, rows: NDArray[np.intp]) -> list[str]:
    """The folder of each of some images without the parts that are its class or its split, "" where none is left."""
    parents = [PurePosixPath(name).parent.parts for name in table.ids[rows]]
    splits = table.splits[rows].tolist()
    outer = {parent[0] if parent else "" for parent in parents}
    by_split = {(parent[0] if parent else "", split) for parent, split in zip(parents, splits, strict=True)}
    # As many folders as splits, one each: these are the splits.
    start = 1 if 1 < len(outer) == len(by_split) == len(set(splits)) else 0
    return ["/".join(part for part in parent[start:] if part not in table.class_names) for parent in parents]


def _header(path: Path) -> tuple[int, int, str, str, int]:
    size = path.stat().st_size
    with path.open("rb") as file:
        if dicom.is_dicom(file.read(132)):
            height, width, photometric = dicom.header(path)
            return height, width, "DICOM", photometric, size
        file.seek(0)
        with Image.open(file, formats=_PIL_FORMATS) as header:
            width, height = header.size
            if header.getexif().get(_ORIENTATION, 1) >= _SIDEWAYS:
                width, height = height, width
            kind = "JPEG" if header.format == "MPO" else str(header.format)
            return height, width, kind, header.mode, size
