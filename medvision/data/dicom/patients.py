"""Groups that nobody wrote down: the patients that DICOM files name."""

import dataclasses
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from medvision.data.decode import EXTENSIONS
from medvision.data.dicom import read as dicom
from medvision.data.table import ImageTable


def grouped_by_patient(table: ImageTable) -> ImageTable:
    """The table with a group for each patient whose DICOM files it has, if it has no groups of its own.

    Files of other kinds, and DICOM files without a PatientID, stay alone.

    Args:
        table: of files.
    """
    if "group" in table.frame or table.root is None:
        return table
    # By text, before any Path is made: most folders of a million files hold no DICOM at all.
    maybe = {row: name for row, name in enumerate(table.ids.tolist()) if _may_be_dicom(name)}
    # Threads: most of the time goes into waiting for the disk.
    with ThreadPoolExecutor() as pool:
        patients = list(pool.map(dicom.group, [table.root / name for name in maybe.values()], chunksize=64))
    if not any(patients):
        return table
    groups = np.full(len(table), None, object)
    groups[list(maybe)] = patients
    return dataclasses.replace(table, frame=table.frame.assign(group=pd.Series(groups, table.frame.index, object)))


def has_dicom_content(path: Path) -> bool:
    """Whether a file is DICOM, under any name; false where it cannot be read."""
    try:
        with path.open("rb") as file:
            return dicom.is_dicom(file.read(132))
    except OSError:
        return False


def _may_be_dicom(name: str) -> bool:
    """Whether the extension leaves it open: to look into a million JPEG files would take minutes."""
    return EXTENSIONS.get(os.path.splitext(name)[1].lower(), "DICOM") == "DICOM"  # noqa: PTH122
