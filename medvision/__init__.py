"""Train image classifiers that come with an answer one can defend."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medvision.config.compose import compose
    from medvision.inference.explain import explain
    from medvision.inference.load import load
    from medvision.pipeline.fit import fit

__version__ = "0.2.0"
__all__ = ["compose", "explain", "fit", "load"]

# Hydra and torch load with the first name that needs them, not with `import medvision`.
_HOMES = {
    "compose": ("medvision.config.compose", "compose"),
    "explain": ("medvision.inference.explain", "explain"),
    "fit": ("medvision.pipeline.fit", "fit"),
    "load": ("medvision.inference.load", "load"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)
