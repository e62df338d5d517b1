"""Layout `image_folder`: class folders, with or without split folders above them."""

import logging
import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from medvision.data.decode import EXTENSIONS
from medvision.data.dicom.patients import grouped_by_patient, has_dicom_content
from medvision.data.table import ImageTable
from medvision.errors import DataError
from medvision.tasks import Task

log = logging.getLogger(__name__)

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "tr"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("calibration", "calib"), "calibration"),
    **dict.fromkeys(("test", "testing", "tst", "ts"), "test"),
}
_CLUTTER = {"thumbs.db", "desktop.ini", "__macosx"}  # beside hidden names such as .DS_Store and .ipynb_checkpoints


def image_folder(root: str | Path) -> ImageTable:
    """A folder of image files: `root/{train,val,test}/<class>/...` or `root/<class>/...`.

    The split folders may have the usual other names (Training, Testing, valid, validation, ...) in any case. Classes
    are matched by name and sorted. Files count by extension, in any depth below their class, and DICOM files without
    one by content; hidden files are ignored. DICOM files are grouped by patient.

    Args:
        root: the folder.

    Raises:
        DataError: if the folder is missing, empty or without class folders, has one class, a class without images,
            a class that only some splits have, names that differ only in case or unicode form, or a link out of it.
    """
    root = Path(root)
    if not root.is_dir():
        found = "is not a folder" if root.exists() else "does not exist"
        raise DataError(f"The image folder {root} {found}.\nPoint data.root at a folder of class folders with images.")
    visited = {os.path.realpath(root)}
    rows = [
        (image, name, split)
        for split, folder in _split_folders(root)
        for name, images in _class_folders(root, folder, visited)
        for image in images
    ]
    frame = pd.DataFrame(rows, columns=["image", "class", "split"])
    class_names = tuple(sorted(set(frame["class"])))
    check_names(root, class_names)
    if frame["split"].isna().all():
        frame = frame.drop(columns="split")
    else:
        _check_splits(root, frame)
    frame["label"] = frame.pop("class").map({name: label for label, name in enumerate(class_names)}).astype(np.int64)
    return grouped_by_patient(ImageTable(frame, Task.classes(class_names), root=root))


def _split_folders(root: Path) -> list[tuple[str | None, Path]]:
    """(split, folder) of each split folder of `root`, or (None, root) where its folders are the classes."""
    folders = _folders(root, root)
    if not folders:
        raise DataError(f"The image folder {root} has no class folders.\nExpected {root}/<class>/<image>.")
    found: dict[str, list[Path]] = defaultdict(list)
    for folder in folders:
        if split := SPLIT_NAMES.get(folder.name.lower()):
            found[split].append(folder)
    if not found:
        return [(None, root)]
    for split, several in found.items():
        if len(several) > 1:
            names = ", ".join(folder.name for folder in several)
            raise DataError(f"{root} has several folders for the {split} split: {names}.\nMerge or rename them.")
    if "train" not in found:
        names = ", ".join(folder.name for (folder,) in found.values())
        raise DataError(f"{root} has the split folder(s) {names} but none for training.\nAdd {root}/train/<class>.")
    beside = [folder.name for folder in folders if folder.name.lower() not in SPLIT_NAMES]
    if beside:
        log.warning("Ignored beside the split folders of %s: %s.", root, ", ".join(beside))
    return [(split, folder) for split, (folder,) in found.items()]


def _class_folders(root: Path, folder: Path, visited: set[str]) -> list[tuple[str, list[str]]]:
    """(class, paths of its images relative to `root`) of each class folder in `folder`."""
    others: list[str] = []
    visited.add(os.path.realpath(folder))
    classes = [
        (entry.name, sorted(_images(root, entry.relative_to(root).as_posix(), visited, others)))
        for entry in _folders(root, folder)
    ]
    if others:
        log.warning("Ignored %d file(s) without an image extension in %s: %s ...", len(others), folder, others[0])
    empty = [name for name, images in classes if not images]
    if empty:
        raise DataError(
            f"{folder} has class folder(s) without images: {', '.join(empty)}.\n"
            f"Add images ({', '.join(EXTENSIONS)}) or remove the folder(s)."
        )
    if not classes:
        raise DataError(f"{folder} has no class folders.\nExpected {folder}/<class>/<image>.")
    if len(classes) == 1:
        raise DataError(
            f"{folder} has one class only: {classes[0][0]}.\n"
            "A classifier needs two or more; if that folder is the data set itself, point data.root at it."
        )
    return classes


def _images(root: Path, inside: str, visited: set[str], others: list[str]) -> Iterable[str]:
    """Paths below `root/inside`, which is entered once however many links lead there; other files go to `others`."""
    folder = root / inside
    real = os.path.realpath(folder)
    if real in visited:
        log.warning("Ignored %s: a link to a folder that was read already.", folder)
        return
    visited.add(real)
    # Text instead of a Path for each of a million files: 3 s where it was 12.
    for entry in _entries(root, folder):
        name = f"{inside}/{entry.name}"
        if entry.is_dir():
            yield from _images(root, name, visited, others)
        elif entry.is_file() and (_extension(entry.name) in EXTENSIONS or has_dicom_content(Path(entry.path))):
            yield name
        else:
            others.append(entry.path)


def _extension(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122


def _folders(root: Path, folder: Path) -> list[Path]:
    return sorted(Path(entry.path) for entry in _entries(root, folder) if entry.is_dir())


def _entries(root: Path, folder: Path) -> Iterable["os.DirEntry[str]"]:
    """What is in `folder`, without clutter and dead links; a link that leaves `root` is refused."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name[0] == "." or entry.name.lower() in _CLUTTER:
                log.debug("Ignored %s", entry.path)
                continue
            if not entry.name.isascii() and entry.name != os.fsencode(entry.name).decode(errors="replace"):
                raise DataError(f"The name {entry.path!a} is not valid UTF-8.\nRename it.")
            if entry.is_symlink():
                if not Path(os.path.realpath(entry.path)).is_relative_to(os.path.realpath(root)):
                    raise DataError(
                        f"{entry.path} is a link that leaves the image folder {root}.\n"
                        "Copy what it points to, or point data.root at a folder that holds everything."
                    )
                if not Path(entry.path).exists():
                    log.warning("Ignored %s: a link to nothing.", entry.path)
                    continue
            yield entry


def check_names(where: Path, class_names: Sequence[str]) -> None:
    """Refuse class names that a reader, or another file system, takes for one.

    Raises:
        DataError: if two names differ only in case or unicode form.
    """
    by_form: dict[str, list[str]] = defaultdict(list)
    for name in class_names:
        by_form[unicodedata.normalize("NFC", name).casefold()].append(name)
    for same in by_form.values():
        if len(same) > 1:
            raise DataError(
                f"Class names in {where} differ only in case or unicode form: {' and '.join(map(ascii, same))}.\n"
                "Rename them so that each class has one name."
            )


def _check_splits(root: Path, frame: pd.DataFrame) -> None:
    classes = {str(split): set(names) for split, names in frame.groupby("split")["class"]}
    for split in ("test", "val", "calibration"):
        extra = sorted(classes.get(split, set()) - classes["train"])
        if extra:
            raise DataError(
                f"The {split} folder of {root} has class(es) that train lacks: {', '.join(extra)}.\n"
                f"Classes are matched by folder name; train has {', '.join(sorted(classes['train']))}."
            )
    missing = sorted(classes["train"] - classes.get("test", classes["train"]))
    if missing:
        raise DataError(
            f"The test folder of {root} lacks class(es) that train has: {', '.join(missing)}.\n"
            "Add test images of them, or leave them out of train: a score without them would not be the task's."
        )
