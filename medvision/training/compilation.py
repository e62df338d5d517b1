"""torch.compile for the training step, with its price: tens of seconds that a short training never earns back."""

import logging
import os
import shutil
import time
from importlib.util import find_spec
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from medvision.errors import ConfigError

log = logging.getLogger(__name__)

_COUNTED = 7  # steps that are timed; the second one may compile again
_COMPILERS = ("g++", "clang++", "c++", "cl")


def check_compiler(accelerator: str) -> None:
    """Refuse compilation where torch finds no compiler to do it with.

    Args:
        accelerator: Lightning's name of the accelerator in use.

    Raises:
        ConfigError: naming what is missing.
    """
    named = os.environ.get("CXX")
    if not any(shutil.which(one) for one in ([named] if named else _COMPILERS)):
        raise ConfigError(
            f"compile=true needs a C++ compiler; found none ({named or ', '.join(_COMPILERS)}).\n"
            "Install one (on Debian and Ubuntu: apt install g++), name it in CXX, or leave compile out."
        )
    if accelerator in {"gpu", "cuda"} and find_spec("triton") is None:
        raise ConfigError(
            "compile=true on a GPU needs the package triton, which comes with torch on Linux.\nLeave compile out."
        )


class CompileCost(Callback):
    """Says after the first steps what compiling took, and what a step takes since."""

    def __init__(self) -> None:
        self._started = 0.0
        self._steps: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Take the time."""
        self._started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take it again; on a GPU after the device is done, as long as steps are counted."""
        if len(self._steps) == _COUNTED:
            return
        float(outputs["loss"])
        self._steps.append(time.perf_counter() - self._started)
        if len(self._steps) == _COUNTED:
            later = sorted(self._steps[2:])[(_COUNTED - 2) // 2]
            log.info(
                "compiled: the first two steps took %.1f s, later ones %.3f s; compiling cost %.1f s",
                sum(self._steps[:2]),
                later,
                sum(self._steps[:2]) - 2 * later,
            )
