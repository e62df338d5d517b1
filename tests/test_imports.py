"""The house rules that can be read off the source: who imports whom, what files are called, how long they are."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import pytest

import medvision

PACKAGE = Path(medvision.__file__).parent
COMMAND = "COMMAND"
"""Stands for every file at the top of the package that can be run as `python -m medvision.<verb>`."""


@dataclass(frozen=True)
class ImportRule:
    """Files that match `files` import nothing from `forbidden`; those that match `unless` may."""

    files: str
    forbidden: tuple[str, ...]
    unless: tuple[str, ...] = ()

    def applies_to(self, path: str, commands: set[str]) -> bool:
        def matches(pattern: str) -> bool:
            return path in commands if pattern == COMMAND else fnmatch(path, pattern)

        return matches(self.files) and not any(matches(pattern) for pattern in self.unless)


IMPORT_RULES = [
    # The rooms: each builds only on the ones before it.
    ImportRule("data/*", tuple(f"medvision.{room}" for room in ("models", "training", "evaluation", "inference"))),
    ImportRule("models/*", tuple(f"medvision.{room}" for room in ("data", "training", "evaluation", "inference"))),
    ImportRule("evaluation/*", tuple(f"medvision.{room}" for room in ("data", "models", "training", "inference"))),
    ImportRule("training/*", ("medvision.evaluation", "medvision.inference")),
    ImportRule("inference/*", ("medvision.training",)),
    ImportRule("*/*", ("medvision.run",)),
    # Commands stand at the end of every chain.
    ImportRule("*", (COMMAND,)),
    # Libraries and the only places that know them.
    ImportRule("*", ("hydra",), unless=(COMMAND, "command.py", "config.py", "sweeps/launcher.py")),
    ImportRule("*", ("lightning", "pytorch_lightning"), unless=("training/*", "data/datamodule.py")),
    *(
        ImportRule(files, ("torch", "torchvision", "torchmetrics", "timm"))
        for files in ("__init__.py", "evaluation/*", "data/decode.py", "data/table.py")
    ),
]
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "base"}
MAX_LINES = 300
MAX_COMMAND_LINES = 119


def test_the_package_keeps_the_house_rules():
    assert violations(PACKAGE) == []


def test_light_modules_do_not_load_torch():
    """What an import statement cannot show: a package's `__init__`, or a library, that brings torch along."""
    evaluation = [f"medvision.evaluation.{path.stem}" for path in sorted((PACKAGE / "evaluation").glob("[!_]*.py"))]
    assert evaluation
    modules = ["medvision", "medvision.data.decode", "medvision.data.table", *evaluation]
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
    "run.py": "from medvision.training.fit import fit\nfrom medvision.inference import bundle",
    "config.py": "import hydra",
    "train.py": "import hydra\nfrom medvision import run\n\nif __name__ == '__main__':\n    pass",
    "data/__init__.py": "",
    "data/decode.py": "import cv2\nfrom medvision.errors import UserError",
    "data/datamodule.py": "import lightning\nimport torch\nfrom . import decode",
    "evaluation/metrics.py": "import numpy",
    "models/network.py": "from torch import nn",
    "training/fit.py": "import lightning\nfrom medvision.data.datamodule import ImageDataModule",
    "inference/bundle.py": "from medvision.models.network import Network\nfrom medvision.evaluation import metrics",
}


def test_a_package_that_keeps_the_rules_passes(tmp_path):
    assert violations(plant(tmp_path, {})) == []


@pytest.mark.parametrize(
    ("path", "text", "found"),
    [
        ("data/decode.py", "import medvision.models.network", "data/decode.py:1 imports medvision.models.network"),
        ("data/decode.py", "from ..models import network", "data/decode.py:1 imports medvision.models"),
        ("data/decode.py", "from medvision import evaluation", "data/decode.py:1 imports medvision.evaluation"),
        ("data/decode.py", "import cv2\nimport torch", "data/decode.py:2 imports torch"),
        ("data/sources.py", "import lightning", "data/sources.py:1 imports lightning"),
        ("models/network.py", "import medvision.data", "models/network.py:1 imports medvision.data"),
        ("models/deep/net.py", "from ...data import decode", "models/deep/net.py:1 imports medvision.data"),
        ("models/network.py", "from lightning.pytorch import Trainer", "models/network.py:1 imports lightning.pytorch"),
        ("evaluation/metrics.py", "def f():\n    import torch.nn", "evaluation/metrics.py:2 imports torch.nn"),
        ("evaluation/metrics.py", "from medvision.models import a", "evaluation/metrics.py:1 imports medvision.models"),
        ("training/fit.py", "import medvision.inference", "training/fit.py:1 imports medvision.inference"),
        ("training/fit.py", "from hydra.utils import get_class", "training/fit.py:1 imports hydra.utils"),
        ("inference/bundle.py", "from medvision import training", "inference/bundle.py:1 imports medvision.training"),
        ("inference/bundle.py", "from medvision.run import fit", "inference/bundle.py:1 imports medvision.run"),
        ("run.py", "from medvision.train import main", "run.py:1 imports medvision.train"),
        ("run.py", "from . import train", "run.py:1 imports medvision.train"),
        ("run.py", "import hydra", "run.py:1 imports hydra"),
        ("__init__.py", "import torch", "__init__.py:1 imports torch"),
        ("data/utils.py", "", "data/utils.py is named utils"),
        ("common/colour.py", "", "common/colour.py is named common"),
        ("run.py", "#\n" * 301, "run.py has 301 lines, at most 300 allowed"),
        ("train.py", "if __name__ == '__main__':" + "\n    pass" * 119, "train.py has 120 lines, at most 119 allowed"),
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
    files = sorted(package.rglob("*.py"))
    commands = {path.name for path in files if path.parent == package and is_command(path)}
    command_modules = {f"medvision.{name.removesuffix('.py')}" for name in commands}
    found = []
    for file in files:
        path = file.relative_to(package).as_posix()
        for line, names in imports(file, package):
            for rule in IMPORT_RULES:
                forbidden = command_modules if rule.forbidden == (COMMAND,) else rule.forbidden
                # `from a import b` may name the module a.b: the name that breaks the rule is the one to show.
                culprits = [name for name in names if is_within(name, forbidden)]
                if culprits and rule.applies_to(path, commands):
                    found.append(f"{path}:{line} imports {culprits[0]}")
        found += [f"{path} is named {part}" for part in re.split(r"[/.]", path)[:-1] if part in FORBIDDEN_NAMES]
        length, limit = len(file.read_text().splitlines()), MAX_COMMAND_LINES if path in commands else MAX_LINES
        if length > limit:
            found.append(f"{path} has {length} lines, at most {limit} allowed")
    return found


def is_command(file: Path) -> bool:
    """Whether a file at the top of the package is meant to be run: it ends in the usual `__main__` guard."""
    return any(
        isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
        for node in ast.parse(file.read_text()).body
    )


def imports(file: Path, package: Path) -> Iterator[tuple[int, list[str]]]:
    """The line and the absolute module names of each import statement of a file, nested ones included."""
    inside = ["medvision", *file.relative_to(package).parent.parts]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, [alias.name]
        elif isinstance(node, ast.ImportFrom):
            origin = inside[: len(inside) - node.level + 1] if node.level else []
            module = ".".join([*origin, *filter(None, [node.module])])
            for alias in node.names:
                yield node.lineno, [module, f"{module}.{alias.name}"]


def is_within(module: str, packages: tuple[str, ...] | set[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)
