"""Which images a user means: a folder, a file, a pattern, a table, or a tree of DICOM files."""

import csv
import glob
import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from medvision.data.decode import EXTENSIONS
from medvision.data.dicom.patients import has_dicom_content
from medvision.errors import DataError

log = logging.getLogger(__name__)

_CLUTTER = {"thumbs.db", "desktop.ini", "__macosx"}  # beside hidden names such as .DS_Store


@dataclass(frozen=True)
class Inputs:
    """The images to label.

    Attributes:
        paths: (N,) absolute paths, in the order of the output.
        truths: (N,) names of their true classes, "" where one is unknown; None where nobody said any.
    """

    paths: tuple[str, ...]
    truths: tuple[str, ...] | None = None

    def fingerprint(self) -> str:
        """SHA-256, in hex, over paths, sizes, times of change and truths: equal where nothing was touched since."""
        digest = hashlib.sha256()
        for index, path in enumerate(self.paths):
            try:
                status = Path(path).stat()
                state = f"{status.st_size} {status.st_mtime_ns}"
            except OSError:
                state = "missing"
            truth = self.truths[index] if self.truths else ""
            digest.update(b"\0".join((os.fsencode(path), state.encode(), os.fsencode(truth))) + b"\0\0")
        return digest.hexdigest()


def find_images(images: str | Path, class_names: Sequence[str]) -> Inputs:
    """The images that `images` names.

    Args:
        images: a folder, searched in any depth: files count by extension, DICOM files without one by content, hidden
            ones are left out; or one file; or a pattern such as `scans/**/*.png`; or a CSV file with a column `image`
            (paths relative to it) and perhaps a column `label` (class names, or the numbers 0..K-1).
        class_names: K names of the model, which the labels of a CSV must be among.

    Raises:
        DataError: if there are no images, or the CSV cannot be read or has other classes.
    """
    path = Path(images).absolute()
    if path.is_dir():
        found = sorted(_files_below(path), key=os.fsencode)
        if not found:
            raise DataError(
                f"The folder {path} holds no images.\nExpected files such as {', '.join(EXTENSIONS)}, in any depth."
            )
        return Inputs(tuple(found))
    if path.is_file():
        return _read_csv(path, class_names) if path.suffix.lower() in (".csv", ".tsv") else Inputs((str(path),))
    matches = sorted(glob.glob(str(path), recursive=True), key=os.fsencode)  # noqa: PTH207  (pathlib skips no dot files)
    found = [match for match in matches if Path(match).is_file()]
    if not found:
        raise DataError(
            f"images={images}: there is no such file or folder, and no file matches it as a pattern.\n"
            "Expected a folder, an image, a pattern such as 'scans/**/*.png', or a CSV file with a column image."
        )
    return Inputs(tuple(found))


def _files_below(root: Path) -> Iterator[str]:
    """Image files in any depth; a folder that several links lead to is entered once."""
    visited, others = set(), 0
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = [name for name in folders if not _is_clutter(name)]
        for name in files:
            path = Path(folder, name)
            if _is_clutter(name):
                continue
            if path.suffix.lower() in EXTENSIONS or has_dicom_content(path):
                yield str(path)
            else:
                others += 1
    if others:
        log.warning("Ignored %d file(s) below %s that are no images by name or content.", others, root)


def _is_clutter(name: str) -> bool:
    return name.startswith(".") or name.lower() in _CLUTTER


def _read_csv(path: Path, class_names: Sequence[str]) -> Inputs:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            separator = max(",;\t", key=file.readline().count)
            file.seek(0)
            reader = csv.DictReader(file, delimiter=separator, strict=True)
            header = {str(name).strip().lower(): name for name in reader.fieldnames or ()}
            if "image" not in header:
                raise DataError(
                    f"{path} has the columns {', '.join(map(str, reader.fieldnames or ())) or '(none)'}.\n"
                    "Expected a column image, with paths relative to the file, and perhaps a column label."
                )
            rows = [
                (reader.line_num, row[header["image"]] or "", (row[header["label"]] or "") if "label" in header else "")
                for row in reader
            ]
    except (OSError, csv.Error, UnicodeError) as error:
        raise DataError(f"{path} cannot be read as CSV: {error}.\nSave it as CSV in UTF-8.") from error
    blank = [line for line, image, _ in rows if not image]
    if blank or not rows:
        what = f"no image on {len(blank)} row(s), the first on line {blank[0]}" if rows else "no rows below its header"
        raise DataError(f"{path} has {what}.\nEvery row names an image.")
    paths = tuple(os.path.normpath(path.parent / image) for _, image, _ in rows)
    labels = [label.strip() for _, _, label in rows]
    return Inputs(paths, _truths(path, labels, class_names) if any(labels) else None)


def _truths(path: Path, labels: Sequence[str], class_names: Sequence[str]) -> tuple[str, ...]:
    """Labels as names of the model's classes."""
    known, used = set(class_names), {label for label in labels if label}
    if used <= known:
        return tuple(labels)
    numbers = {str(number): name for number, name in enumerate(class_names)}
    if used <= set(numbers):
        return tuple(numbers[label] if label else "" for label in labels)
    raise DataError(
        f"The labels of {path} are not the classes of the model.\n"
        f"Only in the file: {_some(sorted(used - known))}; the model has {_some(class_names)}.\n"
        "Rename them, or leave the column label out to predict without scores."
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f", and {len(names) - 8} more" if len(names) > 8 else "")
