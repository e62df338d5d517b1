"""A folder of JPEGs to arrays for the first time: medvision's cache against one epoch of torchvision's ImageFolder.

The brain MRI folder as it is (mostly 512 px), and a part of it enlarged to 1,024 px. Both sides list the folder, decode
every image and bring it to 224 x 224 as uint8; ours also hashes the pixels and writes them to disk. The DataLoader has
no worker or two, whichever is faster here.

    MEDVISION_DATA=... python experiments/speed/decode_cold.py
"""

import os
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import cv2
from measuring import Row, fastest, in_turns, parser, publish, read, speedup
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from medvision.data import cache
from medvision.data.layouts.folders import image_folder

SIDE = 224
PARTS = ("Training", "Testing")


def main(arguments: Sequence[str] | None = None) -> None:
    given = read(parser(__file__, __doc__, rounds=5), arguments)
    root = Path(os.environ.get("MEDVISION_DATA", "data")) / "brain_mri"
    with tempfile.TemporaryDirectory() as folder:
        large = enlarge(root, Path(folder), 64 if given.tiny else 400)
        parts = [("as they are", root)] if not given.tiny else []
        publish([measure(name, images, given.rounds) for name, images in [*parts, ("of 1,024 px", large)]], given)


def measure(name: str, root: Path, rounds: int) -> Row:
    theirs = {f"ImageFolder, {workers} workers": partial(data_loader, root, workers) for workers in (0, 2)}
    best = fastest(theirs)
    found = in_turns({"medvision": partial(cold, root), best: theirs[best]}, rounds)
    claim = f"{len(image_folder(root)):,} JPEG files of brain MRI, {name}, to ready arrays of {SIDE} px"
    return speedup(claim, found, "medvision", best)


def data_loader(root: Path, workers: int) -> float:
    """Seconds of one epoch as most people would write it, without the conversion to float."""
    transform = transforms.Compose([transforms.Resize((SIDE, SIDE)), transforms.PILToTensor()])
    start = time.perf_counter()
    for part in PARTS:
        for _ in DataLoader(ImageFolder(str(root / part), transform), batch_size=32, num_workers=workers):
            pass
    return time.perf_counter() - start


def cold(root: Path) -> float:
    """Seconds until all images are in an array, with an empty cache."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MEDVISION_CACHE"] = folder
        start = time.perf_counter()
        table = image_folder(root)
        cache.read([root / name for name in table.ids], SIDE, 3)
        return time.perf_counter() - start


def enlarge(root: Path, folder: Path, n: int) -> Path:
    """Write every so many-th image again, 1,024 px on its shorter side, in the same classes."""
    names = image_folder(root).ids
    for name in names[:: max(1, len(names) // n)]:
        image = cv2.imread(str(root / name))
        scale = 1024 / min(image.shape[:2])
        target = (folder / name).with_suffix(".jpg")
        target.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(target), cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC))
    return folder


if __name__ == "__main__":
    main()
