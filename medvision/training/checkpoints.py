"""Callback for checkpoints, the table of metrics, and early stopping."""

import math
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, Protocol

import pandas as pd
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from medvision.errors import Interrupted, RunError, TrainingError
from medvision.files import write_text
from medvision.training.checkpoint_io import duplicate
from medvision.training.classifier import POLL_STEPS, Classifier

Monitor = Literal["val/loss", "val/accuracy", "val/recall", "val/auroc"]


class Stop(Protocol):
    """SIGINT and SIGTERM, remembered while training defers them; see `medvision.cli.stop_signal.StopSignal`."""

    signum: int | None

    def install(self) -> None:
        """Take the signals over from whoever has them."""

    def deferring(self) -> AbstractContextManager[None]:
        """Within the block the first signal only sets `signum`."""


# Called with the number of epochs that are done and the value of the monitor after the last of them.
OnEpoch = Callable[[int, float], None]


class Checkpoints(Checkpoint):
    """Saves `last.ckpt` and `best.ckpt`, writes metrics.csv, and stops early or when a signal asks for it.

    One callback does all of this because they must agree: the rows of metrics.csv and the patience live in the
    checkpoint, so that a killed and resumed run ends with the same files as one that was never killed. Being a
    `Checkpoint`, Lightning calls it after every other callback, weight averaging included.

    Args:
        directory: The run directory; checkpoints go to `checkpoints/`, rows to `metrics.csv`.
        stop: Remembers SIGINT and SIGTERM.
        monitor: The metric that chooses the best epoch; `val/loss` is minimised, the others maximised.
        every_n_steps: Save `last.ckpt` inside epochs too, every that many optimizer steps.
        patience: Stop after that many epochs without improvement; 0 never stops early.
        min_delta: The least change that counts as an improvement for the patience.
        on_epoch: Called when an epoch is saved; what it raises ends the training there.
    """

    def __init__(
        self,
        directory: Path,
        stop: Stop,
        monitor: Monitor = "val/loss",
        every_n_steps: int | None = None,
        patience: int = 0,
        min_delta: float = 0.0,
        on_epoch: OnEpoch | None = None,
    ) -> None:
        self.last = directory / "checkpoints" / "last.ckpt"
        self.best = directory / "checkpoints" / "best.ckpt"
        self._table = directory / "metrics.csv"
        self._stop = stop
        self._monitor = monitor
        self._sign = 1.0 if monitor == "val/loss" else -1.0
        self._every_n_steps = every_n_steps
        self._patience = patience
        self._min_delta = min_delta
        self._on_epoch = on_epoch
        self._rows: list[dict[str, float]] = []
        self._best_score = math.inf
        self._patience_score = math.inf
        self._waited = 0

    @property
    def rows(self) -> list[dict[str, float]]:
        """The rows of metrics.csv so far."""
        return [dict(row) for row in self._rows]

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to choose and to stop as it would have."""
        return {
            "rows": self._rows,
            "best_score": self._best_score,
            "patience_score": self._patience_score,
            "waited": self._waited,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the state of the run that was interrupted."""
        self._rows = state_dict["rows"]
        self._best_score = state_dict["best_score"]
        self._patience_score = state_dict["patience_score"]
        self._waited = state_dict["waited"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Bring metrics.csv to the state of the checkpoint; a run that had stopped early stays stopped.

        Raises:
            RunError: if the disk has no room for the checkpoints of this network.
        """
        # Weights, their average and two moments of the optimizer, in the best, the last and the file being written.
        needed = 12 * sum(p.numel() * p.element_size() for p in pl_module.parameters())
        free = shutil.disk_usage(self._table.parent).free
        if free < needed:
            raise RunError(
                f"The checkpoints need about {needed / 1e9:.1f} GB, but {free / 1e9:.1f} GB are left for "
                f"{self._table.parent}.\n"
                "Make room, or choose another place with out=DIR or output_root=DIR."
            )
        self._write_rows(trainer)
        self._stop_early(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals back from Lightning, which registers its own handlers when fitting begins."""
        self._stop.install()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save inside an epoch when it is time to, or when a signal asks to stop."""
        # After the last batch validation still has to run; the end of the epoch saves and stops.
        if batch_idx + 1 == trainer.num_training_batches:
            return
        if self._every_n_steps and trainer.global_step % self._every_n_steps == 0:
            self._save(trainer, pl_module, self.last)
        if self._asked_to_stop(trainer, poll=(batch_idx + 1) % POLL_STEPS == 0):
            self._save(trainer, pl_module, self.last)
            raise Interrupted(self._stop.signum or 0)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the epoch, save it, and stop if it was the last one wanted."""
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        lr = float(trainer.optimizers[0].param_groups[0]["lr"])
        self._rows.append({"epoch": trainer.current_epoch, "step": trainer.global_step, "lr": lr, **values})
        score = self._sign * values[self._monitor]
        if math.isnan(score) and self._monitor == "val/auroc":
            raise TrainingError(
                "monitor=val/auroc is undefined: validation holds a single class.\n"
                "Choose monitor=val/loss or monitor=val/accuracy."
            )
        improved = score < self._best_score or not self._rows[:-1]
        self._best_score = min(score, self._best_score)
        self._count_patience(score)
        # The best goes first: a run killed between the two repeats the epoch and writes the same best again.
        self._save(trainer, pl_module, self.best if improved else self.last, values["val/loss"])
        if improved and trainer.is_global_zero:
            duplicate(self.best, self.last)
        self._write_rows(trainer)
        self._stop_early(trainer)
        if self._asked_to_stop(trainer, poll=True):
            raise Interrupted(self._stop.signum or 0)
        if self._on_epoch is not None:
            self._on_epoch(trainer.current_epoch + 1, values[self._monitor])

    def _save(self, trainer: Trainer, pl_module: LightningModule, path: Path, *watched: float) -> None:
        if isinstance(pl_module, Classifier):
            pl_module.check_finite()
        # The loss may be finite while the update that followed it was not.
        finite = torch.stack([torch.isfinite(p).all() for p in pl_module.parameters()]).all()
        if not (bool(finite) and all(math.isfinite(value) for value in watched)):
            raise TrainingError(
                f"The weights were not finite after step {trainer.global_step - 1}; training stopped.\n"
                "The last finite checkpoint is kept. Try a smaller optimizer.lr or trainer.gradient_clip_val=1.0."
            )
        trainer.save_checkpoint(path)

    def _count_patience(self, score: float) -> None:
        if score < self._patience_score - self._min_delta or math.isinf(self._patience_score):
            self._patience_score = score
            self._waited = 0
        else:
            self._waited += 1

    def _stop_early(self, trainer: Trainer) -> None:
        if self._patience and self._waited >= self._patience:
            trainer.should_stop = True

    def _asked_to_stop(self, trainer: Trainer, poll: bool) -> bool:
        asked = self._stop.signum is not None
        if trainer.world_size == 1:
            return asked
        # A checkpoint is a collective act: all ranks have to hear of the signal at the same step.
        if not poll:
            return False
        flag = torch.tensor(self._stop.signum or 0, device=trainer.strategy.root_device)
        signum = int(trainer.strategy.reduce(flag, reduce_op="max"))
        # A signal that arrives while the ranks agree must not be overwritten: the next poll finds it.
        if signum > 0:
            self._stop.signum = signum
        return signum > 0

    def _write_rows(self, trainer: Trainer) -> None:
        if trainer.is_global_zero:
            # repr of a float is exact, so that a resumed run writes the same bytes.
            write_text(self._table, pd.DataFrame(self._rows).to_csv(index=False, lineterminator="\n"))
