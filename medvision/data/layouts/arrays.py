"""Layouts that bring their pixels as arrays: scikit-learn's digits and the data sets of torchvision."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medvision.data.table import ImageTable
from medvision.errors import DataError
from medvision.tasks import Task

_DIGITS = tuple("0123456789")
_IDX_FILES = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


def digits() -> ImageTable:
    """1,797 scanned digits, 8x8 grey, from inside scikit-learn; no official split.

    Source: Alpaydin and Kaynak 1998, Optical Recognition of Handwritten Digits, UCI.
    """
    from sklearn.datasets import load_digits

    scans = load_digits()
    images = np.rint(scans.images * (255 / 16)).astype(np.uint8)[:, np.newaxis]
    frame = pd.DataFrame({"image": np.arange(len(images)), "label": scans.target.astype(np.int64)})
    return ImageTable(frame, Task.classes(_DIGITS), images)


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
    return ImageTable(frame, Task.classes(class_names or tuple(parts[0].classes)), images)


def _channels_first(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return images[:, np.newaxis] if images.ndim == 3 else np.ascontiguousarray(images.transpose(0, 3, 1, 2))
