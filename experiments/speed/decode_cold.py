"""A folder of JPEGs to arrays for the first time: medvision's cache against one epoch of torchvision's ImageFolder.

The brain MRI folder as it is (mostly 512 px), and a part of it enlarged to 1,024 px. Both sides list the folder, decode
every image and bring it to 224 x 224 as uint8; ours also hashes the pixels and writes them to disk. The DataLoader has
no worker or two, whichever is faster. Rounds are interleaved; what is reported are medians.

    MEDVISION_DATA=... python experiments/speed/decode_cold.py
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from medvision.data import cache
from medvision.data.sources import image_folder

SIZE = 224
PARTS = ("Training", "Testing")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--enlarged", type=int, default=400, help="number of images of 1,024 px")
    arguments = parser.parse_args()
    table = Table(title=f"JPEG files to {SIZE} x {SIZE}, cold, {os.cpu_count()} cores", title_justify="left")
    for column in ("images", "DataLoader, 0 workers", "2 workers", "medvision", "ratio"):
        table.add_column(column, justify="right")
    root = Path(os.environ.get("MEDVISION_DATA", "data")) / "brain_mri"
    with tempfile.TemporaryDirectory() as folder:
        large = enlarge(root, Path(folder), arguments.enlarged)
        for name, images in ((f"{count(root):,}, as they are", root), (f"{count(large):,} of 1,024 px", large)):
            seconds = interleaved(
                {
                    "0": lambda root=images: data_loader(root, 0),
                    "2": lambda root=images: data_loader(root, 2),
                    "ours": lambda root=images: cold(root),
                },
                arguments.rounds,
            )
            ratio = min(seconds["0"], seconds["2"]) / seconds["ours"]
            table.add_row(name, *(f"{value:.2f} s" for value in seconds.values()), f"{ratio:.2f}")
    Console().print(table)


def interleaved(tasks: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Median seconds of each task, as the task itself measures them; the first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for round_ in range(rounds + 1):
        for name, task in tasks.items():
            elapsed = task()
            if round_:
                seconds[name].append(elapsed)
    return {name: statistics.median(values) for name, values in seconds.items()}


def data_loader(root: Path, workers: int) -> float:
    """Seconds of one epoch as most people would write it, without the conversion to float."""
    transform = transforms.Compose([transforms.Resize((SIZE, SIZE)), transforms.PILToTensor()])
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
        cache.read([root / name for name in table.ids], SIZE, 3)
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


def count(root: Path) -> int:
    return len(image_folder(root))


if __name__ == "__main__":
    main()
