"""Provenance: interpreter, packages, processor and source revision of a run, for run.json."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from medvision.config.redact import without_passwords

PACKAGES = (
    *("medvision", "torch", "torchvision", "lightning", "torchmetrics", "numpy", "opencv-python-headless"),
    *("scikit-learn", "skops", "captum"),
)


def environment() -> dict[str, Any]:
    """Interpreter, packages, processor and source revision, as plain values."""
    import torch

    return {
        "command": [without_passwords(part) for part in sys.argv],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": {name: _version(name) for name in PACKAGES},
        "git": _revision(Path(__file__).parent),
    }


def peak_memory() -> int | None:
    """Most bytes of memory that this process has held; None where the system does not say."""
    status = Path("/proc/self/status")
    if status.is_file():  # psutil knows the peak on Windows only
        lines = status.read_text(encoding="utf-8").splitlines()
        return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)
    peak: int | None = getattr(psutil.Process().memory_info(), "peak_wset", None)
    return peak


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _revision(folder: Path) -> dict[str, Any] | None:
    """Commit of the checkout that `folder` belongs to; None for an installed package."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, check=False)
        except FileNotFoundError:  # git is not installed
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # A package installed below somebody else's repository is not part of it.
    if git("ls-files", "--error-unmatch", __file__) is None:
        return None
    return {"commit": git("rev-parse", "HEAD"), "modified": bool(git("status", "--porcelain"))}
