"""README and manual do what they say: their commands are run on one batch, their Python as it stands."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from medvision.cli.entry import COMMANDS

REPOSITORY = Path(__file__).parents[1]
README = REPOSITORY / "README.md"
# docs/extending.md has a test of its own, test_extending.py.
PAGES = [README, *(page for page in sorted((REPOSITORY / "docs").glob("*.md")) if page.stem != "extending")]
FENCES = [
    fence
    for page in PAGES
    for fence in re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
]
DATA = Path(os.environ.get("MEDVISION_DATA", "data")).absolute()
ONE_BATCH = [
    "trainer.max_epochs=1",
    "trainer.limit_train_batches=1",
    "trainer.limit_val_batches=1",
    "evaluation.n_resamples=20",
    "evaluation.robustness=false",
]
FILES = ("data=image_folder", "data=manifest")
# What a data set needs below MEDVISION_DATA, by the beginning of its name and its experiments' names.
NEEDS = {"mnist": "MNIST", "fashion": "FashionMNIST", "cifar": "cifar-10-batches-py", "brain_mri": "brain_mri"}


def commands(text: str) -> list[str]:
    lines = text.replace("\\\n", " ").splitlines()
    return [line.removeprefix("$ ") for line in lines if line.strip() and not line.startswith("#")]


# Each once: pages repeat what the README shows.
SHELL = list(dict.fromkeys(c for language, text in FENCES if language == "bash" for c in commands(text)))
MEDVISION = [command for command in SHELL if command.startswith("medvision ")]
PYTHON = list(dict.fromkeys(text for language, text in FENCES if language == "python"))
LINKS = [
    (page.relative_to(REPOSITORY).as_posix(), link)
    for page in [*PAGES, REPOSITORY / "docs" / "extending.md", REPOSITORY / "CONTRIBUTING.md"]
    for link in re.findall(r"\]\((?!http)([^()#\s]+)\)", page.read_text(encoding="utf-8"))
]
ARCHITECTURE = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
MODULES = {
    file.relative_to(REPOSITORY / "medvision").as_posix(): ast.get_docstring(ast.parse(file.read_text("utf-8")))
    for file in sorted((REPOSITORY / "medvision").rglob("*.py"))
}


def test_the_readme_shows_commands_and_python():
    assert {language for language, _ in FENCES} <= {"bash", "python", "{toctree}"}
    assert SHELL[:2] == ["make train", "make test"]
    assert len(MEDVISION) >= 20
    assert len(README.read_text().splitlines()) <= 125
    assert PYTHON


@pytest.mark.parametrize("command", SHELL)
def test_every_command_names_what_exists(command):
    program, *arguments = shlex.split(command, comments=True)
    if program == "make":
        assert re.search(rf"^{arguments[0]}:", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    elif program == "medvision":
        assert arguments[0] in (*COMMANDS, "--help")
    else:
        assert (program, arguments) == ("source", [".venv/bin/activate"])


@pytest.mark.parametrize(("page", "link"), LINKS)
def test_every_link_leads_to_a_file(page, link):
    assert ((REPOSITORY / page).parent / link).exists()


def test_every_module_stands_in_the_architecture_with_its_first_line():
    shown = dict(re.findall(r"^\| `([\w/]+\.py)` \| (.*) \|$", ARCHITECTURE, re.MULTILINE))
    rooms = {name: text for name, text in MODULES.items() if not name.endswith("/__init__.py")}
    assert shown == {name: text.splitlines()[0] for name, text in rooms.items()}


def test_the_journey_of_an_image_names_what_exists():
    journey = ARCHITECTURE.split("## The journey of an image")[1].split("\n## ")[0]
    steps = [" ".join(step.split()) for step in re.split(r"^\d+\. ", journey, flags=re.MULTILINE)[1:]]
    assert 15 < len(steps) <= 25
    for step in steps:
        files = re.findall(r"`([\w/]+\.py)`", step)
        assert files, step
        text = "".join(
            (REPOSITORY / "medvision" / file.removeprefix("medvision/")).read_text("utf-8") for file in files
        )
        for name in re.findall(r"`(\w+)`", step.partition(": ")[2]):
            assert re.search(rf"\b{name}\b", text), f"{name} is not in {files}"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two finished runs on the pictures of `make_table`."""
    folder = tmp_path_factory.mktemp("runs")
    make_table(folder / "cases.csv")
    data = ["data=manifest", f"data.root={folder / 'cases.csv'}", "data.image_size=32", "data.val_fraction=0.3"]
    for seed in (0, 1):
        medvision(["train", *data, *ONE_BATCH, f"seed={seed}", f"out=run{seed}"], folder)
    return folder / "run0", folder / "run1"


@pytest.mark.slow
@pytest.mark.parametrize("command", MEDVISION)
def test_every_medvision_command_runs(command, tmp_path, runs):
    arguments = shlex.split(command, comments=True)[1:]
    skip_without_means(arguments)
    for argument in arguments:
        key, _, place = argument.partition("=")
        if key in ("data.root", "images"):
            make = {".csv": make_table, ".npz": make_npz}.get(Path(place).suffix, make_images)
            make(tmp_path / place)
    if "--help" in arguments:
        assert ("experiment" if "train" in arguments else "evaluate") in medvision(arguments, tmp_path)
        assert list(tmp_path.iterdir()) == []
        return
    if "resume=auto" in arguments:
        medvision([argument for argument in arguments if argument != "resume=auto"] + ONE_BATCH, tmp_path)
        interrupt(tmp_path)
    arguments = [one.replace("OTHER_RUN", str(runs[1])).replace("RUN", str(runs[0])) for one in arguments]
    if "experiment=digits_cnn" in arguments and arguments[0] in ("compare", "tune"):
        arguments += ONE_BATCH
    if arguments[0] != "train":
        # The made images are dark or bright by class, which the audit calls a shortcut.
        medvision(arguments, tmp_path, code=3 if arguments[0] == "audit" else 0)
        return
    # The made images are of 32 pixels; enlarged to the default, their evaluation takes minutes.
    small = ["data.image_size=32"] if any(key in one for one in arguments for key in FILES) else []
    medvision(arguments + ONE_BATCH + small, tmp_path)
    jobs = np.prod([argument.count(",") + 1 for argument in arguments]) if "-m" in arguments else 1
    assert statuses(tmp_path) == ["finished"] * jobs


@pytest.mark.slow
@pytest.mark.parametrize("text", PYTHON)
def test_the_python_runs(text, tmp_path):
    assert len([line for line in text.splitlines() if line]) < 10
    python(["-c", text], tmp_path)
    assert statuses(tmp_path) == ["finished"]


def skip_without_means(arguments: list[str]) -> None:
    """Skip a command whose data or GPU this machine does not have."""
    if "trainer.accelerator=gpu" in arguments:
        torch = pytest.importorskip("torch")
        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
    for argument in arguments:
        group, _, choice = argument.partition("=")
        for prefix, place in NEEDS.items():
            if group in {"data", "experiment"} and choice.startswith(prefix) and not (DATA / place).exists():
                pytest.skip(f"needs {place} below MEDVISION_DATA")


def make_images(root: Path) -> None:
    """Write 120 small pictures of each of two classes, enough for a batch: dark and bright."""
    rng = np.random.default_rng(0)
    for name, low in (("dark", 0), ("bright", 128)):
        (root / name).mkdir(parents=True)
        for number in range(120):
            cv2.imwrite(str(root / name / f"{number}.png"), rng.integers(low, low + 128, (32, 32, 3), dtype=np.uint8))


def make_table(path: Path) -> None:
    """Write the pictures of `make_images` and a table of them, with a subgroup."""
    make_images(path.parent / "images")
    names = sorted(file.relative_to(path.parent).as_posix() for file in path.parent.rglob("*.png"))
    path.write_text("image,label,site\n" + "".join(f"{name},{name.split('/')[1]},here\n" for name in names))


def make_npz(path: Path) -> None:
    """Write a set in the layout of MedMNIST: 28 x 28 grey noise of two classes."""
    path.parent.mkdir(parents=True)
    rng = np.random.default_rng(0)
    counts = {"train": 80, "val": 20, "test": 20}
    images = {f"{split}_images": rng.integers(0, 256, (n, 28, 28), dtype=np.uint8) for split, n in counts.items()}
    np.savez(path, **images, **{f"{split}_labels": np.arange(n)[:, None] % 2 for split, n in counts.items()})


def medvision(arguments: list[str], folder: Path, code: int = 0) -> str:
    return python(["-m", "medvision", *arguments], folder, code)


def python(arguments: list[str], folder: Path, code: int = 0) -> str:
    env = os.environ | {"MEDVISION_DATA": str(DATA)}
    result = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    assert result.returncode == code, f"{arguments}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def run_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("run.json"))


def statuses(folder: Path) -> list[str]:
    return [json.loads(file.read_text())["status"] for file in run_files(folder)]


def interrupt(folder: Path) -> None:
    """Make the only run in the folder look as if it had been stopped after its last checkpoint."""
    (file,) = run_files(folder)
    file.write_text(json.dumps(json.loads(file.read_text()) | {"status": "interrupted"}))
