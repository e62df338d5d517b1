"""The one place that knows how each kind of learner is fitted."""

from pathlib import Path

import torch
from lightning.pytorch import LightningDataModule, Trainer

from medvision.errors import TrainingError
from medvision.training.classifier import Classifier


def fit(learner: Classifier, datamodule: LightningDataModule, trainer: Trainer, checkpoint: Path | None = None) -> None:
    """Train a network, from the beginning or from a checkpoint.

    Args:
        learner: Holds the network; its weights change in place.
        datamodule: Supplies training and validation batches.
        trainer: Runs the loop on the accelerator it was built for.
        checkpoint: Where to go on from; None starts anew.

    Raises:
        TrainingError: if the device runs out of memory.
    """
    path = str(checkpoint) if checkpoint else None
    try:
        trainer.fit(learner, datamodule=datamodule, ckpt_path=path, weights_only=bool(checkpoint))
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"{trainer.strategy.root_device} ran out of memory at step {trainer.global_step}.\n"
            "Try a smaller data.batch_size or data.image_size, trainer.precision=bf16-mixed, or\n"
            "data.device_resident=false."
        ) from error
