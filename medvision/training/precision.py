"""Which number format to compute in: a static table, so that the same machine always gives the same answer."""

import platform

import torch

from medvision.errors import ConfigError


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
