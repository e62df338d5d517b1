"""Where images come from: plain functions that return an ImageTable, one per source."""

import logging
import os
import unicodedata
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medvision.data.decode import EXTENSIONS
from medvision.data.patients import grouped_by_patient, has_dicom_content
from medvision.data.table import ImageTable
from medvision.errors import DataError

log = logging.getLogger(__name__)

_DIGITS = tuple("0123456789")
_IDX_FILES = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "tr"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("calibration", "calib"), "calibration"),
    **dict.fromkeys(("test", "testing", "tst", "ts"), "test"),
}
_CLUTTER = {"thumbs.db", "desktop.ini", "__macosx"}  # beside hidden names such as .DS_Store and .ipynb_checkpoints


def digits() -> ImageTable:
    """1,797 scanned digits, 8x8 grey, from inside scikit-learn; no official split.

    Source: Alpaydin and Kaynak 1998, Optical Recognition of Handwritten Digits, UCI.
    """
    from sklearn.datasets import load_digits

    scans = load_digits()
    images = np.rint(scans.images * (255 / 16)).astype(np.uint8)[:, np.newaxis]
    frame = pd.DataFrame({"image": np.arange(len(images)), "label": scans.target.astype(np.int64)})
    return ImageTable(frame, _DIGITS, images)


def mnist(root: str | Path) -> ImageTable:
    """MNIST, 60,000 + 10,000 handwritten digits, 28x28 grey; `root/MNIST/raw` holds the idx files."""
    return _torchvision("MNIST", root, "MNIST/raw", _IDX_FILES, _DIGITS)


def fashion_mnist(root: str | Path) -> ImageTable:
    """Fashion-MNIST, 60,000 + 10,000 articles of clothing, 28x28 grey; `root/FashionMNIST/raw` holds the idx files."""
    return _torchvision("FashionMNIST", root, "FashionMNIST/raw", _IDX_FILES)


def cifar10(root: str | Path) -> ImageTable:
    """CIFAR-10, 50,000 + 10,000 photographs, 32x32 RGB; `root/cifar-10-batches-py` holds the pickles."""
    files = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"]
    return _torchvision("CIFAR10", root, "cifar-10-batches-py", files)


def cifar100(root: str | Path) -> ImageTable:
    """CIFAR-100 with its 100 fine classes, 50,000 + 10,000, 32x32 RGB; `root/cifar-100-python` holds the pickles."""
    return _torchvision("CIFAR100", root, "cifar-100-python", ["train", "test", "meta"])


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
    return grouped_by_patient(ImageTable(frame, class_names, root=root))


def _torchvision(
    name: str, root: str | Path, folder: str, files: Sequence[str], class_names: tuple[str, ...] | None = None
) -> ImageTable:
    """Both official parts of a torchvision data set, downloaded unless the files are there."""
    from torchvision import datasets

    try:
        with warnings.catch_warnings():
            # The CIFAR pickles of 2009 spell a dtype in a way that numpy 2.4 deprecates.
            warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
            parts = [getattr(datasets, name)(str(root), train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(
            f"{name} could neither be read from {root} nor downloaded ({reason}).\n"
            f"Put these files into {Path(root) / folder}: {', '.join(files)},\n"
            "or point data.root (the environment variable MEDVISION_DATA) at a folder that has them."
        ) from error
    images = np.concatenate([_channels_first(np.asarray(part.data)) for part in parts])
    frame = pd.DataFrame(
        {
            "image": np.arange(len(images)),
            "label": np.concatenate([np.asarray(part.targets, np.int64) for part in parts]),
            "split": np.repeat(["train", "test"], [len(part) for part in parts]),
        }
    )
    return ImageTable(frame, class_names or tuple(parts[0].classes), images)


def _channels_first(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return images[:, np.newaxis] if images.ndim == 3 else np.ascontiguousarray(images.transpose(0, 3, 1, 2))


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
