"""Lightning's Trainer as medvision uses it: few options, checked ones, and nothing that costs time per step."""

import os
import platform
import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, WeightAveraging
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import Profiler
from torch.optim.swa_utils import get_ema_multi_avg_fn

from medvision.errors import ConfigError
from medvision.training.checkpoint_io import AtomicCheckpointIO


def choose_precision(accelerator: str, batch_size: int) -> str:
    """The precision that `trainer.precision=auto` stands for.

    Args:
        accelerator: Lightning's name of the accelerator in use: cpu, gpu, cuda, mps.
        batch_size: Images a step on all devices together.

    Returns:
        `bf16-mixed` on CUDA devices that have it, and on CPUs with AVX512-BF16 for batches of at least 128, where it
        measured 1.3 to 1.7 times as fast on convolutional networks (it is slower for small batches); else `32-true`.
    """
    if accelerator in {"gpu", "cuda"} and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    if accelerator == "cpu" and batch_size >= 128 and torch.cpu._is_avx512_bf16_supported():
        return "bf16-mixed"
    return "32-true"


def check_precision(precision: str, accelerator: str) -> None:
    """Refuse bfloat16 on a device that could only imitate it, several times slower than float32.

    Args:
        precision: as in `trainer.precision`.
        accelerator: Lightning's name of the accelerator in use.

    Raises:
        ConfigError: if it is asked for there.
    """
    if not precision.startswith("bf16"):
        return
    lacking = None
    if accelerator in {"gpu", "cuda"} and torch.cuda.is_available():
        if not torch.cuda.is_bf16_supported(including_emulation=False):
            lacking = torch.cuda.get_device_name()
    elif accelerator == "cpu" and platform.machine().lower() in {"x86_64", "amd64"}:
        lacking = None if torch.cpu._is_avx512_bf16_supported() else "this processor (no AVX512-BF16)"
    if lacking:
        raise ConfigError(
            f"trainer.precision={precision} was asked for, but {lacking} has no bfloat16 arithmetic.\n"
            "Use trainer.precision=32-true, or auto, which picks what the device has."
        )


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


def build_trainer(
    *,
    accelerator: str = "auto",
    devices: int | str | list[int] = 1,
    num_nodes: int = 1,
    strategy: str = "auto",
    precision: str = "auto",
    max_epochs: int = 10,
    gradient_clip_val: float | None = None,
    deterministic: bool = False,
    limit_train_batches: int | float = 1.0,
    limit_val_batches: int | float = 1.0,
    batch_size: int = 32,
    callbacks: Sequence[Callback] = (),
    logger: Logger | None = None,
    profiler: Profiler | None = None,
    directory: Path | None = None,
) -> Trainer:
    """A Trainer that keeps medvision's promises.

    Args:
        accelerator: auto, cpu, gpu, mps, or any name Lightning knows.
        devices: How many, which ones, or auto for all; with more than one, `data.batch_size` is shared between them.
        num_nodes: Machines in the training.
        strategy: auto, ddp, or any name Lightning knows.
        precision: auto (see `choose_precision`), 32-true, bf16-mixed, 16-mixed, 64-true.
        max_epochs: Passes over the training split, at least 1.
        gradient_clip_val: Largest norm of the gradient; None does not clip.
        deterministic: Refuse operations without a deterministic implementation; needed for bit-exact runs on a GPU.
        limit_train_batches: Batches an epoch, as a number or a share; for trying things out.
        limit_val_batches: the same for validation.
        batch_size: Images a step, for the choice of precision.
        callbacks: In addition to the Trainer's own.
        logger: Where the metrics go besides metrics.csv.
        profiler: Of Lightning's interface, such as `StageProfiler`.
        directory: Root directory of Lightning's files.

    Raises:
        ConfigError: if it names a device that is not there, or arithmetic that the device lacks.
    """
    if not torch.cuda.is_available():
        # Torch's optimizers look for a GPU at every step, and where there is none they load the driver library again
        # each time: 0.4 ms of a 5 ms step. An empty list of visible devices is an answer at once.
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    if precision == "auto":
        precision = choose_precision(accelerator_in_use(accelerator), batch_size)
    check_precision(precision, accelerator_in_use(accelerator))
    try:
        return Trainer(
            accelerator=accelerator,
            devices=devices,
            num_nodes=num_nodes,
            strategy=strategy,
            precision=precision,  # type: ignore[arg-type]
            max_epochs=max_epochs,
            gradient_clip_val=gradient_clip_val,
            deterministic=deterministic,
            limit_train_batches=limit_train_batches,
            limit_val_batches=limit_val_batches,
            callbacks=list(callbacks),
            logger=logger or False,
            profiler=profiler,
            default_root_dir=directory,
            plugins=[AtomicCheckpointIO()],
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            log_every_n_steps=0,  # nothing is logged in a step; looking for it takes a seventh of Lightning's calls
        )
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        raise ConfigError(_explain(error, accelerator, devices)) from error


def accelerator_in_use(accelerator: str) -> str:
    """The accelerator that `auto` stands for on this machine."""
    if accelerator != "auto":
        return accelerator
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def weight_averaging(decay: float) -> WeightAveraging:
    """Exponential moving average of the weights, used for validation and for what is kept.

    Args:
        decay: Share of the average that stays at each step, in (0, 1).

    """
    return WeightAveraging(multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]


def _explain(error: Exception, accelerator: str, devices: int | str | list[int]) -> str:
    if accelerator in {"gpu", "cuda"} and not torch.cuda.is_available():
        return "trainer.accelerator=gpu was asked for, but no GPU is available.\nUse trainer.accelerator=auto or cpu."
    return f"The trainer cannot be set up with accelerator={accelerator}, devices={devices}:\n{str(error).strip()}"
