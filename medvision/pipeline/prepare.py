"""Read the data of a run, and write down which images there are, where each went, and what leaks."""

import logging
from functools import partial
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from medvision.config.targets import build
from medvision.data.datamodule import ImageDataModule
from medvision.data.options import DataOptions
from medvision.data.table import SPLITS
from medvision.errors import RunError
from medvision.files import write_text
from medvision.runs.directory import RunDirectory

log = logging.getLogger(__name__)


def read_data(cfg: DictConfig) -> ImageDataModule:
    """Read, decode and split the images.

    Args:
        cfg: with `data`, and for training also `augmentation` and `seed`.
    """
    values = cast(dict[str, Any], OmegaConf.to_container(cfg.data))
    data = ImageDataModule(
        partial(build, values["source"], "data.source"),
        DataOptions.of(values),
        augmentation=build(cfg.augmentation, "augmentation") if "augmentation" in cfg else None,
        seed=cfg.get("seed", 0),
    )
    data.setup()
    return data


def describe_data(data: ImageDataModule, directory: RunDirectory) -> None:
    """Write splits.csv, quarantine.csv and the node `data` of run.json, and log the numbers.

    Raises:
        RunError: if a resumed run finds other data than it began with.
    """
    splits = [split for split in SPLITS if split in data.table.splits]
    counts = {split: int(data.class_counts(split).sum()) for split in splits}
    fingerprint, options = data.fingerprint(), data.options
    known = directory.facts.get("data", {}).get("fingerprint", fingerprint)
    if known != fingerprint:
        raise RunError(
            "The images, labels or splits are not those the run began with (their fingerprint changed).\n"
            "Restore the data, or start a new run."
        )
    write_text(directory.path / "splits.csv", data.splits_frame().to_csv(index=False, lineterminator="\n"))
    write_text(directory.path / "quarantine.csv", data.quarantine.to_csv(index=False, lineterminator="\n"))
    directory.record(
        data={
            "fingerprint": fingerprint,
            **data.task.to_json(),
            "images": counts,
            "per_class": {split: data.class_counts(split).tolist() for split in splits},
            "quarantined": len(data.quarantine),
            "dropped": int((data.table.splits == "dropped").sum()),
            "unused": int((data.table.splits == "unused").sum()),
            "one_coloured": len(data.one_coloured),
            "leakage": {"policy": options.leakage, **data.findings.facts},
            "test_never_seen": int(data.never_seen().sum()),
        }
    )
    log.info(
        "%d classes, %s images of %d x %d",
        data.num_classes,
        " + ".join(f"{count:,} {split}" for split, count in counts.items()),
        *data.image_size,
    )
    if copies := data.findings.facts["duplicate_images"]:
        log.info("%d image(s) have the same pixels as another image of this data set", copies)
    if len(data.one_coloured):
        first = data.table.ids[data.one_coloured[0]]
        log.warning("%d image(s) show a single colour, such as %s", len(data.one_coloured), first)
    if options.max_train_samples is not None:
        note = f"data.max_train_samples={options.max_train_samples}: trained on {counts['train']:,} images."
        directory.record(notes=[note])
        log.info(note)
