"""The one place that knows how each kind of learner is fitted."""

from pathlib import Path

from lightning.pytorch import LightningDataModule, Trainer

from medvision.training.classifier import Classifier


def fit(learner: Classifier, datamodule: LightningDataModule, trainer: Trainer, checkpoint: Path | None = None) -> None:
    """Train a network, from the beginning or from a checkpoint.

    Args:
        learner: Holds the network; its weights change in place.
        datamodule: Supplies training and validation batches.
        trainer: Runs the loop on the accelerator it was built for.
        checkpoint: Where to go on from; None starts anew.
    """
    trainer.fit(
        learner, datamodule=datamodule, ckpt_path=str(checkpoint) if checkpoint else None, weights_only=bool(checkpoint)
    )
