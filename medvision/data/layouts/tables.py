"""A table of images as a source: CSV or Parquet, with labels, patients, splits and subgroups in columns."""

import os
from collections.abc import Sequence
from csv import Error as CsvError
from csv import reader as read_rows
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medvision.data.dicom.patients import grouped_by_patient
from medvision.data.layouts.folders import SPLIT_NAMES, check_names
from medvision.data.table import ImageTable
from medvision.errors import DataError
from medvision.tasks import Task

_MISSING = {"", "nan", "na", "n/a", "null", "<na>"}
_COLUMNS = ("image", "label", "group", "split")


def manifest(root: str | Path, class_names: Sequence[str] | None = None) -> ImageTable:
    """A CSV or Parquet file with a row for each image: image,label[,group][,split][, subgroup columns].

    Paths are relative to the folder of the file. Labels are names, which are sorted, or the numbers 0..K-1. Splits are
    train, val and test under their usual names. Where there is no group column, DICOM files are grouped by patient.

    Args:
        root: the file; Parquet by the extension .parquet, otherwise CSV in UTF-8, separated by commas, semicolons or
            tabs.
        class_names: names of the classes 0..K-1, for labels that are numbers.

    Raises:
        DataError: if the file cannot be read, lacks a column, or has rows without image or label, with files that do
            not exist, or with an image that was there before; all these rows are listed.
    """
    path = Path(root)
    if not path.is_file():
        raise DataError(f"The manifest {path} does not exist.\nPoint data.root at a CSV or Parquet file.")
    is_parquet = path.suffix.lower() == ".parquet"
    frame, numbers = _read_parquet(path) if is_parquet else _read_csv(path)
    tidy = [str(name).strip() for name in frame]
    frame.columns = [name.lower() if name.lower() in _COLUMNS else name for name in tidy]
    _check_columns(path, frame)
    for name in frame.columns.drop("image"):
        frame[name] = frame[name].str.strip()
    blank = {name: frame[name].str.lower().isin(_MISSING) for name in frame}
    frame["image"] = [os.path.normpath(name) if name else name for name in frame["image"]]
    has_splits = "split" in frame and not blank["split"].all()
    split = frame["split"].str.lower().map(SPLIT_NAMES) if has_splits else pd.Series("train", index=frame.index)
    several = frame["image"].duplicated(keep=False) & ~blank["image"]
    contradictory = several & (frame.groupby("image")["label"].transform("nunique") > 1)
    faults = {
        "no image": blank["image"],
        "no label": blank["label"],
        f"a split that is none of {', '.join(sorted(set(SPLIT_NAMES.values())))}": split.isna(),
        "an image that has another label in another row": contradictory,
        "an image that has several rows": several & ~contradictory,
        "a file that does not exist": ~_exists(path.parent, frame["image"]) & ~blank["image"],
    }
    _refuse(path, frame, numbers, faults)
    labels, names = _labels(path, frame["label"], numbers, class_names)
    result = frame.drop(columns=[name for name in ("label", "group", "split") if name in frame])
    result = result.mask(pd.DataFrame({name: blank[name] for name in result}), "").assign(label=labels)
    if "group" in frame and not blank["group"].all():
        result["group"] = frame["group"].astype(object).mask(blank["group"], None)
    if has_splits:
        result["split"] = split
    return grouped_by_patient(ImageTable(result, Task.classes(names), root=path.parent))


def _read_csv(path: Path) -> tuple[pd.DataFrame, NDArray[np.int64]]:
    """All columns as text, and the line on which each row begins; every field is where the header says."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            separator = max(",;\t", key=file.readline().count)
            file.seek(0)
            reader = read_rows(file, delimiter=separator, strict=True)
            header = next(reader, [])
            rows, numbers = [], []
            begin = reader.line_num + 1
            for row in reader:
                if row:
                    rows.append(row)
                    numbers.append(begin)
                begin = reader.line_num + 1
    except (OSError, CsvError, UnicodeError) as error:
        reason = "it is not UTF-8" if isinstance(error, UnicodeError) else error
        raise DataError(f"The manifest {path} cannot be read: {reason}.\nSave it as CSV in UTF-8.") from error
    ragged = [number for row, number in zip(rows, numbers, strict=True) if len(row) != len(header)]
    if ragged:
        raise DataError(
            f"{len(ragged)} row(s) of {path} have more or fewer fields than the {len(header)} of the header: "
            f"line {_ranges(ragged)}.\nQuote fields that hold the separator {separator!r}."
        )
    frame = pd.DataFrame(rows, columns=header, dtype=str)
    # Software that writes row numbers leaves their column without a name.
    return frame.loc[:, [bool(name.strip()) for name in header]], np.array(numbers, np.int64)


def _read_parquet(path: Path) -> tuple[pd.DataFrame, NDArray[np.int64]]:
    """All columns as text, missing values empty, and the number of each row, from 1."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(
            "A manifest in Parquet needs the package pyarrow. Install it: pip install 'medvision[parquet]'."
        ) from error
    try:
        table = pyarrow.parquet.read_table(path)
        columns = {name: column.to_pylist() for name, column in zip(table.column_names, table.columns, strict=True)}
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"The manifest {path} cannot be read: {str(error).splitlines()[0]}.") from error
    frame = pd.DataFrame(
        {name: ["" if value is None else str(value) for value in values] for name, values in columns.items()}, dtype=str
    )
    return frame, np.arange(1, len(frame) + 1)


def _check_columns(path: Path, frame: pd.DataFrame) -> None:
    names = list(frame.columns)
    if not {"image", "label"} <= set(names):
        raise DataError(
            f"The manifest {path} has the columns {', '.join(names) or '(none)'}.\n"
            "Expected image,label and, if you have them, group, split and subgroups such as sex or site."
        )
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(f"The manifest {path} has column(s) of the same name: {', '.join(repeated)}.\nRename them.")
    if frame.empty:
        raise DataError(f"The manifest {path} has no rows below its header.")


def _exists(root: Path, names: "pd.Series[str]") -> NDArray[np.bool_]:
    return np.array([Path(root, name).is_file() for name in names], np.bool_)


def _refuse(path: Path, frame: pd.DataFrame, numbers: NDArray[np.int64], faults: dict[str, Any]) -> None:
    """Raise an error that lists every bad row, with the first image of each kind."""
    kinds = [
        f"{fault}: {_ranges(numbers[bad].tolist())} ({str(frame['image'].to_numpy()[bad][0]) or 'empty'})"
        for fault, rows in faults.items()
        if (bad := np.asarray(rows, np.bool_)).any()
    ]
    if kinds:
        count = int(np.any([np.asarray(rows, np.bool_) for rows in faults.values()], axis=0).sum())
        unit = "rows" if path.suffix.lower() == ".parquet" else "lines"
        raise DataError(
            f"{count} of {len(frame)} rows of {path} cannot be used (numbers are {unit} of the file).\n"
            f"{'; '.join(kinds)}.\nCorrect or remove these rows."
        )


def _labels(
    path: Path, labels: "pd.Series[str]", numbers: NDArray[np.int64], class_names: Sequence[str] | None
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """(N,) class of each row, and the names of the classes."""
    values = pd.to_numeric(labels, errors="coerce")
    if values.notna().all() and np.isfinite(values).all():
        found = sorted(set(values.tolist()))
        if found != list(range(len(found))):
            raise DataError(
                f"The labels of {path} are numbers, but not 0..K-1: {', '.join(f'{one:g}' for one in found[:10])}"
                f"{', ...' if len(found) > 10 else ''}.\nNumber the classes from 0 without gaps, or write their names."
            )
        names = tuple(map(str, class_names or range(len(found))))
        if len(names) != len(found):
            raise DataError(f"data.class_names has {len(names)} names, but {path} has {len(found)} classes.")
        codes = values.to_numpy(np.int64)
    elif class_names is not None:
        line = numbers[values.isna().to_numpy().argmax()]
        raise DataError(
            f"data.class_names is for labels 0..K-1, but line {line} of {path} has another label.\n"
            "Leave data.class_names out: the labels are the names."
        )
    else:
        names = tuple(sorted(set(labels)))
        check_names(path, names)
        codes = labels.map({name: code for code, name in enumerate(names)}).to_numpy(np.int64)
    if len(names) < 2:
        raise DataError(f"{path} has one class only: {names[0]}.\nA classifier needs two or more.")
    return codes, names


def _ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers, runs of them joined: "2, 5-9"."""
    runs = [[one for _, one in run] for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])]
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
