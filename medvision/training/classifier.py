"""The LightningModule: a network, how it is optimised, and what is measured while it learns."""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from medvision.errors import TrainingError
from medvision.randomness import key
from medvision.training.epoch_metrics import classification_metrics
from medvision.training.losses import ClassificationLoss

Batch = tuple[Tensor, Tensor, Tensor]

# How often the device is asked whether the loss is still finite; asking every step would stall a GPU.
POLL_STEPS = 50


class Classifier(LightningModule):
    """Trains a network to classify images.

    A batch is (images uint8 (B, C, H, W), targets int64 (B,) or float (B, K), indices int64 (B,)). Sums stay on the
    device and are logged once an epoch: `train/loss`, `train/accuracy`, `val/loss`, `val/accuracy`, `val/recall` and
    `val/auroc` (both macro).

    Args:
        network: Maps uint8 images (B, C, H, W) to logits (B, K).
        optimizer: Called with the trainable parameters.
        scheduler: Called with the optimizer and the total number of steps; None keeps the learning rate.
        loss: Called with logits (B, K) and targets; None is plain cross-entropy.
        seed: Key of everything random inside a step, such as dropout.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        scheduler: Callable[[Optimizer, int], LRScheduler] | None = None,
        loss: ClassificationLoss | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self.loss = loss if loss is not None else ClassificationLoss()
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._seed = seed
        # Plain attributes, not buffers: weight averaging would average buffers.
        self._totals = torch.zeros(3)
        self._first_bad_step = torch.tensor(-1)
        self._recent_lrs: deque[tuple[int, float]] = deque(maxlen=2 * POLL_STEPS)
        self._outputs: list[tuple[Tensor, Tensor]] = []

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of uint8 images (B, C, H, W)."""
        logits: Tensor = self.network(images)
        return logits

    def configure_optimizers(self) -> Any:
        """Build the optimizer over what is trainable, and its schedule per step."""
        optimizer = self._optimizer([p for p in self.parameters() if p.requires_grad])
        if self._scheduler is None:
            return optimizer
        scheduler = self._scheduler(optimizer, self._total_steps())
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Key the global generators by (seed, step, rank), so that a resumed step draws what it would have drawn."""
        torch.manual_seed(key(self._seed, "step", self.global_step, self.global_rank))
        self._recent_lrs.append((self.global_step, self.optimizers().param_groups[0]["lr"]))  # type: ignore[union-attr]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch; sums for the epoch are kept on the device."""
        images, targets, _ = batch
        logits = self(images)
        loss: Tensor = self.loss(logits, targets)
        with torch.no_grad():
            hard = targets if targets.ndim == 1 else targets.argmax(dim=1)
            correct = (logits.argmax(dim=1) == hard).sum()
            count = len(images)
            self._totals += torch.stack([loss.detach() * count, correct, correct.new_tensor(count)]).float()
            bad = ~torch.isfinite(loss.detach()) & (self._first_bad_step < 0)
            self._first_bad_step = torch.where(bad, self.global_step, self._first_bad_step)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Ask the device now and then whether the loss is still finite."""
        if (batch_idx + 1) % POLL_STEPS == 0:
            self.check_finite()

    def on_train_epoch_start(self) -> None:
        """Start the epoch's sums; not called when an epoch is resumed in its middle."""
        self._totals = torch.zeros(3, device=self.device)

    def on_fit_start(self) -> None:
        """Bring the sums to the device, also those that came from a checkpoint."""
        self._totals = self._totals.to(self.device)
        self._first_bad_step = self._first_bad_step.to(self.device)

    def on_train_epoch_end(self) -> None:
        """Log the training loss and accuracy of the epoch, over all ranks."""
        self.check_finite()
        loss, correct, count = self.trainer.strategy.reduce(self._totals.double().cpu(), reduce_op="sum").tolist()
        self.log_dict({"train/loss": loss / count, "train/accuracy": correct / count}, rank_zero_only=True)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep the logits of one batch."""
        images, targets, _ = batch
        self._outputs.append((self(images).float(), targets))

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics over all batches and ranks."""
        logits = torch.cat([logits for logits, _ in self._outputs])
        targets = torch.cat([targets for _, targets in self._outputs])
        self._outputs.clear()
        if self.trainer.world_size > 1:
            logits, targets = (cast(Tensor, self.all_gather(part)).flatten(0, 1) for part in (logits, targets))
        # Ranks whose share of a batch was empty send a row with target -1.
        known = targets >= 0
        metrics = classification_metrics(logits[known], targets[known])
        self.log_dict({f"val/{name}": value for name, value in metrics.items()}, rank_zero_only=True)

    def check_finite(self) -> None:
        """Stop if a training loss was not finite.

        Raises:
            TrainingError: naming the first such step and its learning rate.
        """
        step = self._first_bad_step
        if self.trainer.world_size > 1:
            step = self.trainer.strategy.reduce(step, reduce_op="max")
        if int(step) >= 0:
            lr = dict(self._recent_lrs).get(int(step))
            raise TrainingError(
                f"The loss was not finite at step {int(step)} (learning rate {lr:.3g}); training stopped.\n"
                "The last finite checkpoint is kept. Try a smaller optimizer.lr, trainer.gradient_clip_val=1.0 or\n"
                "trainer.precision=32-true."
            )

    def _total_steps(self) -> int:
        trainer = self.trainer
        data: Any = getattr(trainer, "datamodule", None)
        if data is None:
            return int(trainer.estimated_stepping_batches)
        # Asking the trainer would make it set up its loader now, before a checkpoint's position is there to load.
        batches, limit = len(data.train_dataloader()), trainer.limit_train_batches
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
        return batches * (trainer.max_epochs or 1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the running epoch's sums, so that a resumed epoch logs what it would have logged."""
        checkpoint["train_totals"] = self._totals.cpu()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the sums of the epoch that was running."""
        self._totals = checkpoint["train_totals"]
