"""Where the time of a training goes: data, augmentation, forward, backward, optimizer, validation, Lightning."""

import time
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.profilers import Profiler

# Which stage an action of Lightning belongs to, by the end of its name; what is inside it belongs to it too, unless it
# has a stage of its own. What has none is Lightning's own time and that of hooks.
_STAGES: Mapping[str, str] = {
    "train_dataloader_next": "data",
    "batch_to_device": "data",
    "on_after_batch_transfer": "augmentation",
    "training_step": "forward",
    "backward": "backward",
    "optimizer_step": "optimizer",
    "lr_scheduler_step": "optimizer",
    "save_checkpoint": "checkpoints",
}
_REST = "Lightning and callbacks"
_VALIDATION = "validation"
_OF_A_STEP = ("data", "augmentation", "forward", "backward", "optimizer", _REST)
ORDER = (*_OF_A_STEP, _VALIDATION, "checkpoints")


class StageProfiler(Profiler):
    """Gives every moment of fitting to one stage; on a GPU it waits for the device wherever the stage changes.

    Lightning calls `start` and `stop` around everything it does, nested. Waiting makes a GPU's stages true
    and their sum longer than a training without it.

    Attributes:
        seconds: spent in each stage so far.
        steps: optimizer steps so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds = dict.fromkeys(ORDER, 0.0)
        self.steps = 0
        self._open: list[str] = []
        self._validating = False
        self._since: float | None = None

    def start(self, action_name: str) -> None:
        """Begin an action."""
        action = action_name.rpartition(".")[2]
        outer = self._open[-1] if self._open else _REST
        self._move(action, outer, _STAGES.get(action, outer))
        self._open.append(_STAGES.get(action, outer))
        self.steps += action == "optimizer_step"

    def stop(self, action_name: str) -> None:
        """End the action that began last."""
        inner = self._open.pop()
        self._move(action_name.rpartition(".")[2], inner, self._open[-1] if self._open else _REST)

    def _move(self, action: str, here: str, there: str) -> None:
        spent_on = _VALIDATION if self._validating and here != "checkpoints" else here
        if action == "on_validation_start":
            self._validating = True
        elif action == "on_validation_end":
            self._validating = False
        elif here == there:
            return
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
        now = time.perf_counter()
        # Before the first and after the last action it is not Lightning that works.
        if self._since is not None:
            self.seconds[spent_on] += now - self._since
        self._since = now


def table(seconds: Mapping[str, float], steps: int) -> list[dict[str, Any]]:
    """Rows `stage`, `seconds`, `share` (of the sum) and `ms_per_step`, which only the stages of a step have.

    Args:
        seconds: of each stage, in order.
        steps: optimizer steps.
    """
    total = sum(seconds.values())
    return [
        {
            "stage": stage,
            "seconds": round(spent, 3),
            "share": round(spent / total, 4) if total else 0.0,
            "ms_per_step": round(1000 * spent / steps, 3) if steps and stage in _OF_A_STEP else "",
        }
        for stage, spent in seconds.items()
    ]
