"""What a training step may not do: wait for the device."""

from functools import partial

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from medvision.cli.stop_signal import StopSignal
from medvision.data.augment import Augmentation
from medvision.data.datamodule import ImageDataModule
from medvision.data.layouts.arrays import digits
from medvision.data.options import DataOptions
from medvision.models.fast_cnn import fast_cnn
from medvision.training.checkpoints import Checkpoints
from medvision.training.classifier import Classifier
from medvision.training.fit import fit_network
from medvision.training.muon import Muon
from medvision.training.schedules import linear
from medvision.training.trainer import build_trainer


class NoWaiting(Callback):
    """Makes CUDA raise whenever the host waits for it, from the third batch of an epoch to the last but one."""

    def __init__(self):
        self.watched = 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if 2 <= batch_idx < trainer.num_training_batches - 2:
            torch.cuda.set_sync_debug_mode("error")
            self.watched += 1

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx >= trainer.num_training_batches - 3:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("optimizer", [Muon, partial(torch.optim.AdamW, fused=True)], ids=["muon", "adamw"])
def test_no_step_waits_for_the_device(tmp_path, optimizer, compiled):
    augmentation = Augmentation(crop_padding=2, horizontal_flip="alternating", rotation=5.0)
    data = ImageDataModule(digits, DataOptions(image_size=16, batch_size=50), augmentation=augmentation)
    data.setup()
    network = fast_cnn(data.num_classes, data.in_channels, data.image_size, widths=[16, 32])
    network.set_statistics(*data.channel_statistics())
    classifier = Classifier(network, optimizer, linear, compiled=compiled)
    watching = NoWaiting()
    trainer = build_trainer(
        accelerator="gpu",
        max_epochs=2,
        callbacks=[watching, Checkpoints(tmp_path, StopSignal())],
        directory=tmp_path,
    )
    try:
        fit_network(classifier, data, trainer)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert watching.watched > 20
