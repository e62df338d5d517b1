"""One epoch over decoded images: medvision's batches from a warm cache against torchvision's ImageFolder + DataLoader.

Both hand out the brain MRI folder at 224 x 224 as uint8 in batches of 32; the DataLoader decodes in every epoch, with
no worker or two, whichever is faster. What a warm start takes before the first batch is reported beside it. Rounds are
interleaved; what is reported are medians.

    MEDVISION_DATA=... python experiments/speed/decode_warm.py
"""

import argparse
import logging
import os
import tempfile
import time
from functools import partial
from pathlib import Path

from decode_cold import SIZE, data_loader, interleaved
from rich.console import Console
from rich.table import Table

from medvision.data.datamodule import ImageDataModule
from medvision.data.sources import image_folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    logging.disable()  # the guard is loud about the copies in this folder
    root = Path(os.environ.get("MEDVISION_DATA", "data")) / "brain_mri"
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MEDVISION_CACHE"] = folder
        data = prepared(root)
        seconds = interleaved(
            {
                "DataLoader, 0 workers": lambda: data_loader(root, 0),
                "DataLoader, 2 workers": lambda: data_loader(root, 2),
                "medvision": lambda: epoch(data),
                "medvision, start": lambda: start(root),
            },
            arguments.rounds,
        )
    table = Table(title=f"{len(data.table):,} images, {SIZE} x {SIZE}, {os.cpu_count()} cores", title_justify="left")
    table.add_column("one epoch, warm")
    table.add_column("seconds", justify="right")
    for name, value in seconds.items():
        table.add_row(name, f"{value:.3f}")
    best = min(seconds["DataLoader, 0 workers"], seconds["DataLoader, 2 workers"])
    table.add_row("ratio", f"{best / seconds['medvision']:.1f}", style="bold")
    Console().print(table)


def prepared(root: Path) -> ImageDataModule:
    """All images of the folder, none left out for being a copy of another."""
    data = ImageDataModule(partial(image_folder, root), image_size=SIZE, leakage="keep", eval_batch_size=32)
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
