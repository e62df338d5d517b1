"""Groups that nobody wrote down: the patients that DICOM files name."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from medvision.data import dicom
from medvision.data.decode import EXTENSIONS
from medvision.data.table import ImageTable


def grouped_by_patient(table: ImageTable) -> ImageTable:
    """The table with a group for each patient whose DICOM files it has, if it has no groups of its own.

    Files of other kinds, and DICOM files without a PatientID, stay alone.

    Args:
        table: of files.
    """
    if "group" in table.frame or table.root is None:
        return table
    files = [table.root / name for name in table.ids]
    if not any(map(_may_be_dicom, files)):
        return table
    # Threads: most of the time goes into waiting for the disk.
    with ThreadPoolExecutor() as pool:
        patients = list(pool.map(_patient, files, chunksize=64))
    if not any(patients):
        return table
    return dataclasses.replace(table, frame=table.frame.assign(group=pd.Series(patients, table.frame.index, object)))


def has_dicom_content(path: Path) -> bool:
    """Whether a file is DICOM whatever it is called; false where it cannot be read."""
    try:
        with path.open("rb") as file:
            return dicom.is_dicom(file.read(132))
    except OSError:
        return False


def _patient(path: Path) -> str | None:
    return dicom.group(path) if _may_be_dicom(path) else None


def _may_be_dicom(path: Path) -> bool:
    """Whether the extension leaves it open: to look into a million JPEG files would take minutes."""
    return EXTENSIONS.get(path.suffix.lower(), "DICOM") == "DICOM"
