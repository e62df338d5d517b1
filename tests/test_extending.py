"""docs/extending.md to the letter: its files are written, its commands run, inside the package and from outside it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import indent

import cv2
import numpy as np
import pytest

REPOSITORY = Path(__file__).parents[1]
PAGE = (REPOSITORY / "docs" / "extending.md").read_text()
FENCE = re.compile(r"(?:[Ii]n `([\w./]+)`(, in `_RECORDS`)?:\n\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ADDITIONS = ("backbone", "layout", "metric", "command")


def part(addition: str, where: str) -> str:
    """The text of a part of the page."""
    section = re.search(rf"^## A {addition}\n(.*?)^## ", PAGE, re.MULTILINE | re.DOTALL)[1]
    inside, outside = section.split("### From your own package")
    return inside.split("### Inside the package")[1] if where == "inside" else outside


@pytest.mark.slow
@pytest.mark.parametrize("where", ["inside", "outside"])
@pytest.mark.parametrize("addition", ADDITIONS)
def test_the_page_is_followed_to_the_letter(addition, where, tmp_path):
    if where == "inside":
        for name in ("medvision", "conf", "tests"):
            shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    else:
        (tmp_path / "mylab").mkdir()
        (tmp_path / "mylab" / "__init__.py").touch()
    shell = []
    for place, within, language, text in FENCE.findall(part(addition, where)):
        if language == "bash":
            shell.append(text)
        else:
            write(tmp_path / place, text, within=bool(within))
    assert len(shell) == 1
    make_lesions(tmp_path / "lesions")
    done = run("set -e\n" + shell[0], tmp_path)
    if addition == "command":
        assert re.findall(r"^[0-9] +0\.\d{3}  \(0\.\d{3} to [01]\.\d{3}\)$", done, re.MULTILINE), done
    else:
        (report,) = tmp_path.rglob("report.html")
        assert ("Informedness" in report.read_text()) == (addition == "metric")
    if where == "inside":
        run("python -m ruff check medvision && python -m pytest -q tests/test_imports.py", tmp_path)


def write(file: Path, text: str, *, within: bool) -> None:
    """Write a file of the page, or enter its records into the file that exists."""
    if within:
        content = file.read_text()
        assert content.count("_RECORDS = (\n") == 1
        file.write_text(content.replace("_RECORDS = (\n", "_RECORDS = (\n" + indent(text.rstrip() + ",\n", "    ")))
    else:
        assert not file.exists()
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def run(script: str, folder: Path) -> str:
    """Run lines of bash in a folder whose packages come before installed ones; the output."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder) if (folder / "medvision").exists() else "",
    }
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def make_lesions(root: Path) -> None:
    """120 small pictures of each of two classes, named by their class."""
    rng = np.random.default_rng(0)
    root.mkdir()
    for name, low in (("benign", 0), ("malignant", 128)):
        for number in range(120):
            cv2.imwrite(str(root / f"{name}_{number}.png"), rng.integers(low, low + 128, (32, 32, 3), dtype=np.uint8))
