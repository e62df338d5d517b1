"""The LightningModule: a network, how it is optimised, and what is measured while it learns."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics.functional.classification import binary_auroc, multiclass_confusion_matrix

from medvision.errors import TrainingError
from medvision.randomness import key
from medvision.tasks import Kind
from medvision.training.losses import ClassificationLoss


def task_metrics(kind: Kind, logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """The metrics of one pass over a split, for (N, K) logits and the targets of a task of this kind."""
    match kind:
        case "classes":
            return classification_metrics(logits, targets)


def monitored(logits: Tensor, targets: Tensor) -> dict[str, float]:
    """The values of `monitor` for a model without epochs, from (N, K) logits and (N,) targets."""
    found = classification_metrics(logits, targets)
    return {f"val/{name}": float(value) for name, value in found.items()}


def classification_metrics(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Loss, accuracy, macro recall and macro one-vs-rest AUROC of one pass over a split.

    Args:
        logits: (N, K) float32.
        targets: (N,) int64 in [0, K).

    Returns:
        Scalars `loss` (plain cross-entropy, so that runs with other losses compare), `accuracy`, `recall` and `auroc`;
        the last two are means over the classes for which they are defined, NaN if there is none.
    """
    num_classes = logits.shape[1]
    probs = functional.softmax(logits, dim=1)
    confusion = multiclass_confusion_matrix(logits.argmax(dim=1), targets, num_classes, validate_args=False)
    support = confusion.sum(dim=1)
    present = support > 0
    recall = confusion.diagonal()[present] / support[present]
    aurocs = [
        binary_auroc(probs[:, k], (targets == k).long(), validate_args=False)
        for k in range(num_classes)
        if 0 < support[k] < len(targets)
    ]
    return {
        "loss": functional.cross_entropy(logits, targets),
        "accuracy": confusion.diagonal().sum() / len(targets),
        "recall": recall.mean(),
        "auroc": torch.stack(aurocs).mean() if aurocs else logits.new_tensor(float("nan")),
    }


Batch = tuple[Tensor, Tensor, Tensor]

# How often the device is asked whether the loss is still finite; asking every step would stall a GPU.
POLL_STEPS = 50

NEVER = 2**62  # later than any step
_STRIDE = 0x9E3779B97F4A7C15  # odd, so that no two steps share a seed


class Classifier(LightningModule):
    """Trains a network to classify images.

    A batch is (images uint8 (B, C, H, W), targets int64 (B,) or float (B, K), indices int64 (B,)). Sums stay on the
    device and are logged once an epoch: `train/loss`, `train/accuracy`, `val/loss`, `val/accuracy`, `val/recall` and
    `val/auroc` (both macro).

    Args:
        network: Maps uint8 images (B, C, H, W) to logits (B, K).
        optimizer: Called with the trainable parameters and their names, `Muon` or any optimizer of torch.
        scheduler: Called with the optimizer and the total number of steps; None keeps the learning rate.
        loss: Called with logits (B, K) and targets; None is plain cross-entropy.
        kind: Of the task.
        seed: Key of everything random inside a step, such as dropout.
        compiled: Whether training steps go through torch.compile; validation, whose batches differ in size, does not.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Callable[[Iterable[tuple[str, nn.Parameter]]], Optimizer],
        scheduler: Callable[[Optimizer, int], LRScheduler] | None = None,
        loss: nn.Module | None = None,
        kind: Kind = "classes",
        seed: int = 0,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self.loss = loss if loss is not None else ClassificationLoss()
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._kind = kind
        self._seed = seed
        # Of the method and not the module, which would be a second name for the same weights.
        self._train_forward: Callable[[Tensor], Tensor] = (
            torch.compile(self.network.forward) if compiled else self.network
        )
        # Plain attributes, not buffers: weight averaging would average buffers.
        self._totals = torch.zeros(2)  # sum of the losses, number of correct images
        self._seen = 0
        self._recent: list[tuple[int, float, Tensor]] = []  # step, learning rate and loss since the last poll
        self._outputs: list[tuple[Tensor, Tensor]] = []

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; Lightning's note of the hook it is in, 40 a step, is spared torch's search for weights."""
        if name == "_current_fx_name":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of uint8 images (B, C, H, W)."""
        logits: Tensor = self.network(images)
        return logits

    def configure_optimizers(self) -> Any:
        """Build the optimizer over what is trainable, and its schedule per step."""
        optimizer = self._optimizer([(name, p) for name, p in self.named_parameters() if p.requires_grad])
        if self._scheduler is None:
            return optimizer
        scheduler = self._scheduler(optimizer, self._total_steps())
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Key the global generators by (seed, step, rank), so that a resumed step draws what it would have drawn."""
        _seed_generators(self.device, (self._base + self.global_step * _STRIDE) % 2**63)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch; what is wanted once an epoch is summed on the device."""
        images, targets, _ = batch
        logits = self._train_forward(images)
        loss: Tensor = self.loss(logits, targets)
        with torch.no_grad():
            hard = targets if targets.ndim == 1 else targets.argmax(dim=1)
            self._totals[0].add_(loss.detach(), alpha=len(images))
            self._totals[1].add_((logits.argmax(dim=1) == hard).sum())
        self._seen += len(images)
        self._recent.append((self.global_step, self._lr(), loss.detach()))
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Ask the device now and then whether the loss is still finite."""
        if (batch_idx + 1) % POLL_STEPS == 0:
            self.check_finite()

    def on_train_epoch_start(self) -> None:
        """Start the epoch's sums; not called when an epoch is resumed in its middle."""
        self._totals = torch.zeros(2, device=self.device)
        self._seen = 0

    def on_fit_start(self) -> None:
        """Bring the sums to the device, also those that came from a checkpoint."""
        self._totals = self._totals.to(self.device)
        self._base = key(self._seed, "step", self.global_rank)

    def on_train_epoch_end(self) -> None:
        """Log the training loss and accuracy of the epoch, over all ranks."""
        self.check_finite()
        seen = self._seen * self.trainer.world_size
        loss, correct = self.trainer.strategy.reduce(self._totals, reduce_op="sum").tolist()
        self._log({"train/loss": loss / seen, "train/accuracy": correct / seen})

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
            logits, targets = self._gathered(logits, 0), self._gathered(targets, -1)
        # Rows that only make the ranks' shares equally long have target -1.
        known = targets >= 0
        metrics = task_metrics(self._kind, logits[known], targets[known])
        self._log({f"val/{name}": value for name, value in metrics.items()})

    def check_finite(self) -> None:
        """Stop if a training loss was not finite.

        Raises:
            TrainingError: naming the first such step and its learning rate.
        """
        steps, lrs, losses = zip(*self._recent, strict=True) if self._recent else ((), (), ())
        self._recent.clear()
        bad = (~torch.isfinite(torch.stack(losses))).cpu().nonzero() if losses else torch.empty(0)
        first = steps[int(bad[0])] if len(bad) else NEVER
        if self.trainer.world_size > 1:
            first = int(self.trainer.strategy.reduce(torch.tensor(first, device=self.device), reduce_op="min"))
        if first < NEVER:
            raise TrainingError(
                f"The loss was not finite at step {first} (learning rate {lrs[steps.index(first)]:.3g}); training "
                "stopped.\nThe last finite checkpoint is kept. Try a smaller optimizer.lr, "
                "trainer.gradient_clip_val=1.0\nor trainer.precision=32-true."
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the running epoch's sums, so that a resumed epoch logs what it would have logged."""
        checkpoint["train_sums"] = {"totals": self._totals.cpu(), "seen": self._seen}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the sums of the epoch that was running."""
        self._totals = checkpoint["train_sums"]["totals"]
        self._seen = checkpoint["train_sums"]["seen"]

    def _lr(self) -> float:
        return float(self.trainer.optimizers[0].param_groups[0]["lr"])

    def _log(self, values: Mapping[str, Tensor | float]) -> None:
        # Every rank has the same values: their mean changes nothing and keeps the ranks' decisions equal.
        self.log_dict(dict(values), sync_dist=self.trainer.world_size > 1)

    def _gathered(self, rows: Tensor, fill: int) -> Tensor:
        """The rows of all ranks, those of a shorter share filled up."""
        longest = self.trainer.strategy.reduce(torch.tensor(len(rows), device=self.device), reduce_op="max")
        padding = rows.new_full((int(longest) - len(rows), *rows.shape[1:]), fill)
        return cast(Tensor, self.all_gather(torch.cat([rows, padding]))).flatten(0, 1)

    def _total_steps(self) -> int:
        trainer = self.trainer
        data: Any = getattr(trainer, "datamodule", None)
        if data is None:
            return int(trainer.estimated_stepping_batches)
        # Asking the trainer would make it set up its loader now, before a checkpoint's position is there to load.
        batches, limit = len(data.train_dataloader()), trainer.limit_train_batches
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
        return batches * (trainer.max_epochs or 1)


def _seed_generators(device: torch.device, seed: int) -> None:
    """What `torch.manual_seed` does, on the devices in use only: it takes a millisecond where no GPU is initialised."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
