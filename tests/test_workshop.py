"""The tools around the package: the Makefile's environment, the pinned versions, the files that CI and git read."""

import os
import re
import shutil
import subprocess
import time
import tomllib
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
CONSTRAINTS = (REPOSITORY / "constraints.txt").read_text().splitlines()
TARGETS = [
    "help",
    "install",
    "train",
    "test",
    "check",
    "format",
    "docs",
    "bench",
    "bench-keras",
    "bench-recipes",
    "constraints",
    "clean",
]

FAKE_PYTHON = """#!/bin/sh
# Stands for an interpreter: notes what it is asked, and does the one thing that make builds on.
echo "$@" >> calls
case "$*" in
  "-c import sys"*) [ ! -e too_old ] ;;
  "-c import ensurepip"*) [ ! -e no_venv ] ;;
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip "*) [ ! -e offline ] ;;
esac
"""


class Workshop:
    """A folder with the Makefile and a fake Python, where make finds nothing else."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("Makefile", "pyproject.toml", "constraints.txt"):
            shutil.copy(REPOSITORY / name, folder)
        self.bin = folder / "path"
        self.bin.mkdir()
        for tool in ("sh", "mkdir", "rm", "touch", "cp", "awk"):
            (self.bin / tool).symlink_to(shutil.which(tool))
        self.python = self.bin / "python3"
        self.python.write_text(FAKE_PYTHON)
        self.python.chmod(0o755)

    def make(self, *arguments: str) -> tuple[int, str, list[str]]:
        """The exit code of make, what it said, and what it asked of Python."""
        calls = self.folder / "calls"
        calls.write_text("")
        result = subprocess.run(
            [shutil.which("make"), *arguments],
            cwd=self.folder,
            env={"PATH": str(self.bin)},
            capture_output=True,
            text=True,
            check=False,
        )
        return result.returncode, result.stdout + result.stderr, calls.read_text().splitlines()

    def change(self, name: str) -> None:
        """Make one file look changed since the installation."""
        for age, path in ((300, "pyproject.toml"), (300, "constraints.txt"), (200, ".venv/.installed"), (100, name)):
            os.utime(self.folder / path, (time.time() - age,) * 2)


@pytest.fixture
def workshop(tmp_path) -> Workshop:
    return Workshop(tmp_path)


def creates(calls: list[str]) -> bool:
    return any(call.startswith("-m venv") for call in calls)


def installs(calls: list[str]) -> bool:
    return any(call.startswith("-m pip install") for call in calls)


def test_make_installs_once(workshop):
    code, _, calls = workshop.make("install")
    assert (code, creates(calls), installs(calls)) == (0, True, True)
    assert workshop.make("install")[::2] == (0, [])


def test_a_second_make_train_only_trains(workshop):
    workshop.make("install")
    assert workshop.make("train")[::2] == (0, ["-m medvision.train experiment=digits_cnn"])
    assert workshop.make("train", "ARGS=data=mnist seed=1")[2] == ["-m medvision.train data=mnist seed=1"]
    assert workshop.make("test", 'ARGS=-m "not slow"')[2] == ["-m pytest --numprocesses 2 --dist loadfile -m not slow"]


@pytest.mark.parametrize("changed", ["pyproject.toml", "constraints.txt"])
def test_a_changed_requirement_is_installed_into_the_same_environment(workshop, changed):
    workshop.make("install")
    workshop.change(changed)
    code, _, calls = workshop.make("install")
    assert (code, creates(calls), installs(calls)) == (0, False, True)
    assert workshop.make("install")[2] == []


def test_an_unfinished_installation_is_built_anew(workshop):
    (workshop.folder / "offline").touch()
    assert workshop.make("train")[0] != 0
    half_written = workshop.folder / ".venv" / "half_written"
    half_written.touch()
    (workshop.folder / "offline").unlink()
    code, _, calls = workshop.make("train")
    assert (code, creates(calls), installs(calls)) == (0, True, True)
    assert not half_written.exists()


@pytest.mark.parametrize(
    ("fault", "message"),
    [("too_old", "needs Python 3.11 or newer"), ("no_venv", "apt install python3-venv")],
)
def test_a_python_that_will_not_do_is_named(workshop, fault, message):
    (workshop.folder / fault).touch()
    code, said, _ = workshop.make("train")
    assert code != 0
    assert message in said
    assert not (workshop.folder / ".venv").exists()


def test_the_first_python_that_will_do_is_taken(workshop):
    workshop.python.rename(workshop.bin / "python3.12")
    _, said, _ = workshop.make("install")
    assert "with python3.12" in said


def test_make_help_lists_every_target(workshop):
    said = workshop.make()[1]
    assert re.findall(r"^make ([\w-]+) ", said, re.MULTILINE) == TARGETS


def test_constraints_name_versions_and_nothing_else():
    for line in CONSTRAINTS:
        requirement = Requirement(line)
        assert requirement.url is None
        assert re.fullmatch(r"==[\w.]+", str(requirement.specifier)), line


@pytest.mark.parametrize("text", [*PROJECT["dependencies"], *chain(*PROJECT["optional-dependencies"].values())])
def test_constraints_pin_every_dependency_within_its_bounds(text):
    required = Requirement(text)
    if required.name == PROJECT["name"]:
        assert required.extras <= set(PROJECT["optional-dependencies"])
        return
    pins = [Requirement(line) for line in CONSTRAINTS]
    (pin,) = (pin for pin in pins if canonicalize_name(pin.name) == canonicalize_name(required.name))
    assert pin.marker is None
    assert all(required.specifier.contains(specifier.version) for specifier in pin.specifier)


def test_every_dependency_has_a_floor_that_the_pinned_version_reaches():
    pins = dict(re.findall(r"^([\w.-]+)==([^\s;]+)", "\n".join(CONSTRAINTS), re.MULTILINE))
    wanted = list(map(Requirement, chain(PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())))
    assert len(wanted) > len(PROJECT["dependencies"])
    for one in wanted:
        if one.name != "medvision":
            assert ">=" in str(one.specifier), one
            assert one.specifier.contains(pins[canonicalize_name(one.name)]), one


def test_ci_runs_what_a_user_runs():
    script = REPOSITORY / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    commands = [line.split()[:2] for line in script.read_text().splitlines() if line.startswith("make ")]
    assert commands == [["make", "install"], ["make", "check"], ["make", "docs"], ["make", "test"]]


@pytest.mark.skipif(not (REPOSITORY / ".git").exists() or not shutil.which("git"), reason="not a git checkout")
@pytest.mark.parametrize(
    ("path", "ignored"),
    [
        ("data/MNIST", True),
        ("outputs/digits_cnn", True),
        (".venv/bin", True),
        (".venv-keras/bin", True),
        ("medvision/data/table.py", False),
        ("conf/data/digits.yaml", False),
        ("tests/data/test_table.py", False),
        ("experiments/notebooks/quickstart.ipynb", False),
    ],
)
def test_git_ignores_results_but_no_source(path, ignored):
    result = subprocess.run(["git", "check-ignore", "--quiet", path], cwd=REPOSITORY, check=False)
    assert result.returncode == (0 if ignored else 1)
