"""torch.compile for the training step: what it needs."""

import os
import shutil
from importlib.util import find_spec

from medvision.errors import ConfigError

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
