"""One epoch over decoded images: medvision's batches from a warm cache against torchvision's ImageFolder + DataLoader.

Both hand out the brain MRI folder at 224 x 224 as uint8 in batches of 32; the DataLoader decodes in every epoch, with
no worker or two, whichever is faster here. What a warm start takes before the first batch, guard included, is compared
with one such epoch.

    MEDVISION_DATA=... python experiments/speed/decode_warm.py
"""

import os
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from decode_cold import SIDE, data_loader, enlarge
from measuring import fastest, in_turns, parser, publish, read, speedup

from medvision.data.datamodule import ImageDataModule
from medvision.data.layouts.folders import image_folder
from medvision.data.options import DataOptions


def main(arguments: Sequence[str] | None = None) -> None:
    given = read(parser(__file__, __doc__, rounds=5), arguments)
    root = Path(os.environ.get("MEDVISION_DATA", "data")) / "brain_mri"
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MEDVISION_CACHE"] = str(Path(folder) / "cache")
        if given.tiny:
            root = enlarge(root, Path(folder) / "images", 64)
        data = prepared(root)
        theirs = {f"ImageFolder, {workers} workers": partial(data_loader, root, workers) for workers in (0, 2)}
        best = fastest(theirs)
        ours = {"medvision": partial(epoch, data), "medvision, start": partial(start, root)}
        found = in_turns(ours | {best: theirs[best]}, given.rounds)
    what = f"{len(data.table):,} JPEG files of brain MRI at {SIDE} px"
    rows = [
        speedup(f"a later epoch of {what}", found, "medvision", best),
        speedup(f"a warm start with {what}, over one epoch of the DataLoader", found, "medvision, start", best),
    ]
    publish(rows, given)


def prepared(root: Path) -> ImageDataModule:
    """All images of the folder, none left out for being a copy of another."""
    data = ImageDataModule(
        partial(image_folder, root), DataOptions(image_size=SIDE, leakage="keep", eval_batch_size=32)
    )
    data.setup()
    return data


def epoch(data: ImageDataModule) -> float:
    """Seconds to hand out all images once."""
    begin = time.perf_counter()
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        for _ in loader:
            pass
    return time.perf_counter() - begin


def start(root: Path) -> float:
    """Seconds from nothing to a data module that is ready, guard included."""
    begin = time.perf_counter()
    prepared(root)
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
