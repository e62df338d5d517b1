"""The command `medvision prepare data=...`: decode and split the images of a data set, and count them."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from medvision.cli.entry import run_command
from medvision.data.table import ASIDE, SPLITS
from medvision.files import write_text

if TYPE_CHECKING:
    from medvision.data.datamodule import ImageDataModule

_SHOWN = 20  # files of the quarantine on the terminal


def main() -> None:
    """Prepare with the configuration of the command line."""
    run_command("prepare", prepare)


def prepare(cfg: DictConfig) -> None:
    """Decode, split and count the images of a configuration."""
    # These load torch, which --help and mistyped overrides need not wait for.
    from medvision.cli.console import logging_to
    from medvision.cli.stop_signal import StopSignal
    from medvision.pipeline.prepare import read_data

    console = Console(highlight=False, soft_wrap=True)
    with StopSignal().installed(), logging_to(None, console):
        data = read_data(cfg)
    show(console, data)
    if cfg.out is not None:
        folder = Path(cfg.out)
        folder.mkdir(parents=True, exist_ok=True)
        for name, frame in (("splits.csv", data.splits_frame()), ("quarantine.csv", data.quarantine)):
            write_text(folder / name, frame.to_csv(index=False, lineterminator="\n"))
            console.print(f"{name:15}{folder / name}", markup=False)


def show(console: Console, data: "ImageDataModule") -> None:
    """Print the images of each class in each split, and the first files of the quarantine."""
    splits = [split for split in (*SPLITS, *ASIDE) if (data.table.splits == split).any()]
    labels = [data.table.labels[data.table.splits == split] for split in splits]
    counts = np.array([np.bincount(some, minlength=data.num_classes) for some in labels])
    table = Table(
        title=f"{len(data.table):,} images, {data.image_size[0]} x {data.image_size[1]}", title_justify="left"
    )
    table.add_column("class")
    for split in splits:
        table.add_column(split, justify="right")
    for name, row in zip(data.class_names, counts.T.tolist(), strict=True):
        table.add_row(name, *(f"{n:,}" for n in row))
    table.add_row("all", *(f"{n:,}" for n in counts.sum(axis=1).tolist()), style="bold")
    console.print(table)
    for path, reason, stage in data.quarantine.head(_SHOWN).itertuples(index=False):
        console.print(f"quarantined at {stage}: {path}: {reason}", markup=False)
    if len(data.quarantine) > _SHOWN:
        console.print(f"... and {len(data.quarantine) - _SHOWN} more; out=DIR writes all of them to quarantine.csv")


if __name__ == "__main__":
    main()
