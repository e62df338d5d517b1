"""Progress of a training: a live bar on a terminal, one line per epoch in a file or pipe."""

import logging
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

log = logging.getLogger(__name__)

REFRESH_SECONDS = 0.2


class ProgressLine(Callback):
    """Shows epoch, speed and time left; after each epoch one line with its metrics stays.

    Args:
        console: Where to draw. The bar is drawn only on a terminal; the epoch lines go through `logging`.
    """

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            auto_refresh=False,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._drawn = 0.0
        self._epoch_start = 0.0
        self._images = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar over all steps of the run."""
        total = trainer.estimated_stepping_batches
        self._progress.start()
        self._task = self._progress.add_task("", total=total, completed=trainer.global_step, speed="")
        self._epoch_start = time.perf_counter()
        self._images = 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the speed of each epoch."""
        self._epoch_start = time.perf_counter()
        self._images = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar, a few times a second at the most."""
        self._images += len(batch[0]) * trainer.world_size
        now = time.perf_counter()
        if self._task is None or now - self._drawn < REFRESH_SECONDS:
            return
        self._drawn = now
        self._progress.update(
            self._task,
            completed=trainer.global_step,
            description=f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}",
            speed=f"{self._speed(now):,.0f} images/s",
            refresh=True,
        )

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the speed of the epoch before validation takes its time."""
        self._epoch_speed = self._speed(time.perf_counter())

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave one line with the epoch's metrics."""
        metrics = "  ".join(
            f"{name} {float(value):.4f}" for name, value in trainer.callback_metrics.items() if name.startswith("val/")
        )
        log.info(
            "epoch %d/%d  %s  %s images/s",
            trainer.current_epoch + 1,
            trainer.max_epochs,
            metrics,
            f"{self._epoch_speed:,.0f}",
        )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar."""
        self._progress.stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the bar, so that the message that follows starts on a line of its own."""
        self._progress.stop()

    def _speed(self, now: float) -> float:
        return self._images / max(now - self._epoch_start, 1e-9)
