"""The house rules that can be read off the source: which room imports which, and what files are called."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import medvision

PACKAGE = Path(medvision.__file__).parent

COMMANDS = "(commands)"
"""Stands for every file at the top of the package that can be run as `python -m medvision.<verb>`, and their entry."""
TOP = "(package)"
"""Stands for medvision/__init__.py, which names the public functions and loads them on demand."""

# Arrows go down only: a room imports rooms of later rows, and of its own row only what EDGES lists.
LAYERS = (
    (TOP, COMMANDS),
    ("sweeps", "search"),
    ("pipeline",),
    ("reports", "comparison", "labelling", "audits"),
    ("runs", "cli"),
    ("inference", "training"),
    ("config",),
    ("models", "data", "metrics"),
    ("errors", "files", "randomness", "tasks"),
)
EDGES = {
    TOP: {COMMANDS},
    "reports": {"comparison"},
    "audits": {"reports"},
    "labelling": {"reports"},
    "files": {"errors"},
    "tasks": {"errors"},
}
ROOMS = [room for layer in LAYERS for room in layer]
LEVEL = {room: level for level, layer in enumerate(LAYERS) for room in layer}
# Files that belong to another row than the folder they lie in.
PLACES = {"__init__.py": TOP, "cli/entry.py": COMMANDS, "__main__.py": COMMANDS}

_TORCH = ("torch", "torchvision", "torchmetrics", "timm", "lightning")
# Libraries, and the only rooms or files that may import them.
LIBRARIES = {
    "hydra": ("config", "cli/entry.py", "sweeps/multirun.py"),
    "omegaconf": ("config", "cli", COMMANDS, "pipeline", "sweeps", "search", "runs/resume.py", "runs/saved_run.py"),
    "lightning": ("training", "data/datamodule.py"),
    "fcntl": (),
    "resource": (),
}
WITHOUT_TORCH = (TOP, "errors", "files", "tasks", "metrics", "comparison", "reports", "data/decode.py", "data/table.py")
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "base"}


def test_the_package_keeps_the_house_rules():
    assert violations(PACKAGE) == []


def test_light_rooms_do_not_load_torch():
    """What an import statement cannot show: a package's `__init__`, or a library, that brings torch along."""
    rooms = [
        f"medvision.{room}.{path.stem}"
        for room in ("metrics", "comparison", "reports")
        for path in sorted((PACKAGE / room).glob("[!_]*.py"))
    ]
    assert len(rooms) > 20
    modules = ["medvision", "medvision.data.decode", "medvision.data.table", "medvision.tasks", *rooms]
    script = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    print(name, {'torch', 'lightning', 'hydra'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", script, *modules], capture_output=True, text=True, check=False)
    assert result.stdout.splitlines() == [f"{name} set()" for name in modules], result.stderr


CLEAN = {
    "__init__.py": "",
    "errors.py": "class UserError(Exception): ...",
    "files.py": "from medvision.errors import UserError",
    "train.py": "from medvision.pipeline import fit\n\nif __name__ == '__main__':\n    pass",
    "cli/entry.py": "from medvision.sweeps import multirun",
    "config/compose.py": "import hydra",
    "pipeline/fit.py": "from medvision.training.fit import fit\nfrom medvision.inference import bundle",
    "data/decode.py": "import cv2\nfrom medvision.errors import UserError",
    "data/datamodule.py": "import lightning\nimport torch\nfrom . import decode",
    "metrics/definitions.py": "import numpy",
    "models/network.py": "from torch import nn",
    "sweeps/multirun.py": "import hydra",
    "training/fit.py": "import lightning\nfrom medvision.data.datamodule import ImageDataModule",
    "inference/bundle.py": "from medvision.models.network import Network\nfrom medvision.metrics import predictions",
}


def test_a_package_that_keeps_the_rules_passes(tmp_path):
    assert violations(plant(tmp_path, {})) == []


@pytest.mark.parametrize(
    ("path", "text", "found"),
    [
        ("data/decode.py", "import medvision.models.network", "data/decode.py:1 imports medvision.models.network"),
        ("data/decode.py", "from ..models import network", "data/decode.py:1 imports medvision.models"),
        ("data/decode.py", "from medvision import metrics", "data/decode.py:1 imports medvision.metrics"),
        ("data/decode.py", "import cv2\nimport torch", "data/decode.py:2 imports torch"),
        ("data/sources.py", "import lightning", "data/sources.py:1 imports lightning"),
        ("models/deep/net.py", "from ...data import decode", "models/deep/net.py:1 imports medvision.data"),
        ("models/network.py", "from lightning.pytorch import Trainer", "models/network.py:1 imports lightning.pytorch"),
        ("metrics/ranks.py", "def f():\n    import torch.nn", "metrics/ranks.py:2 imports torch.nn"),
        ("metrics/ranks.py", "from medvision.models import a", "metrics/ranks.py:1 imports medvision.models"),
        ("training/fit.py", "import medvision.inference", "training/fit.py:1 imports medvision.inference"),
        ("training/fit.py", "from hydra.utils import get_class", "training/fit.py:1 imports hydra.utils"),
        ("training/fit.py", "from omegaconf import DictConfig", "training/fit.py:1 imports omegaconf"),
        ("inference/ood.py", "from medvision import training", "inference/ood.py:1 imports medvision.training"),
        ("inference/ood.py", "from medvision.pipeline import fit", "inference/ood.py:1 imports medvision.pipeline"),
        ("inference/ood.py", "from medvision.reports import pages", "inference/ood.py:1 imports medvision.reports"),
        ("reports/pages.py", "from medvision.audits import a", "reports/pages.py:1 imports medvision.audits"),
        ("pipeline/fit.py", "from medvision.search import trials", "pipeline/fit.py:1 imports medvision.search"),
        ("pipeline/fit.py", "from medvision.train import main", "pipeline/fit.py:1 imports medvision.train"),
        ("pipeline/fit.py", "from .. import train", "pipeline/fit.py:1 imports medvision.train"),
        ("pipeline/fit.py", "import hydra", "pipeline/fit.py:1 imports hydra"),
        ("runs/directory.py", "import fcntl", "runs/directory.py:1 imports fcntl"),
        ("errors.py", "import medvision.files", "errors.py:1 imports medvision.files"),
        ("__init__.py", "import torch", "__init__.py:1 imports torch"),
        ("data/utils.py", "", "data/utils.py is named utils"),
        ("data/common/colour.py", "", "data/common/colour.py is named common"),
        ("kitchen/sink.py", "", "kitchen is in no layer"),
        ("loose.py", "", "loose is in no layer"),
    ],
)
def test_each_rule_can_fail(tmp_path, path, text, found):
    assert violations(plant(tmp_path, {path: text})) == [found]


def plant(folder: Path, changes: dict[str, str]) -> Path:
    package = folder / "medvision"
    for path, text in (CLEAN | changes).items():
        file = package / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return package


def violations(package: Path) -> list[str]:
    """One line for each breach of a rule in the package, empty when it keeps them all."""
    files = {file.relative_to(package).as_posix(): file for file in sorted(package.rglob("*.py"))}
    commands = {path.removesuffix(".py") for path, file in files.items() if "/" not in path and is_command(file)}

    def room(path: str) -> str:
        first = path.partition("/")[0].removesuffix(".py")
        return PLACES.get(path, COMMANDS if first in commands else first)

    found = [f"{name} is in no layer" for name in sorted({room(path) for path in files} - set(ROOMS))]
    for path, file in files.items():
        own = room(path)
        found += [f"{path} is named {part}" for part in re.split(r"[/.]", path)[:-1] if part in FORBIDDEN_NAMES]
        for line, names in imports(file, package):
            # `from a import b` may name the module a.b: the name that breaks the rule is the one to show.
            culprits = [name for name in names if own in LEVEL and not may_import(path, own, name, commands)]
            if culprits:
                found.append(f"{path}:{line} imports {culprits[0]}")
    return found


def may_import(path: str, own: str, name: str, commands: set[str]) -> bool:
    """Whether the file at `path`, in the room `own`, may import the module `name`."""
    library, _, rest = name.partition(".")
    if library != "medvision":
        allowed = LIBRARIES.get(library)
        banned = library in _TORCH and bool({path, own} & set(WITHOUT_TORCH))
        return not banned and (allowed is None or bool({path, own, path.partition("/")[0]} & set(allowed)))
    first = rest.partition(".")[0]
    if rest.startswith("cli.entry") or first in commands:
        return own in (COMMANDS, TOP) and (path != "cli/entry.py" or first not in commands)
    if first not in LEVEL or own == first:
        return True
    return LEVEL[first] > LEVEL[own] or first in EDGES.get(own, ())


def is_command(file: Path) -> bool:
    """Whether a file at the top of the package is meant to be run: it ends in the usual `__main__` guard."""
    return any(
        isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
        for node in ast.parse(file.read_text(encoding="utf-8")).body
    )


def imports(file: Path, package: Path) -> Iterator[tuple[int, list[str]]]:
    """The line and the absolute module names of each import statement of a file, nested ones included."""
    inside = ["medvision", *file.relative_to(package).parent.parts]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, [alias.name]
        elif isinstance(node, ast.ImportFrom):
            origin = inside[: len(inside) - node.level + 1] if node.level else []
            module = ".".join([*origin, *filter(None, [node.module])])
            for alias in node.names:
                yield node.lineno, [module, f"{module}.{alias.name}"]
