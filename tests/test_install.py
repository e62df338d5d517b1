"""The package as others get it: a wheel, an sdist and an editable install, each used from a foreign folder."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
COMPOSE_EVERYTHING = """
from medvision import compose
from medvision.config.compose import CONF_DIR
for file in sorted((CONF_DIR / "experiment").glob("*.yaml")):
    compose(f"experiment={file.stem}")
    print(file.stem)
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> dict[str, Path]:
    """What the build makes: `sdist`, `sdist_wheel` (the wheel made from that sdist) and `wheel` (made directly)."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir"]
    run([*build, folder / "both", REPOSITORY])
    run([*build, folder / "direct", "--wheel", REPOSITORY])
    return {
        "sdist": only(folder / "both", "*.tar.gz"),
        "sdist_wheel": only(folder / "both", "*.whl"),
        "wheel": only(folder / "direct", "*.whl"),
    }


def test_the_wheel_holds_the_package_and_its_configuration(built):
    expected = {f"medvision/{path}" for path in files_under(REPOSITORY / "medvision")}
    expected |= {f"medvision/conf/{path}" for path in files_under(REPOSITORY / "conf")}
    names = set(zipfile.ZipFile(built["wheel"]).namelist())
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_sdist_makes_the_same_wheel(built):
    direct, indirect = (zipfile.ZipFile(built[name]) for name in ("wheel", "sdist_wheel"))
    assert contents(direct) == contents(indirect)
    with tarfile.open(built["sdist"]) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "conf/train.yaml"} <= names


@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_an_installed_package_works_in_a_foreign_folder(kind, request, tmp_path):
    python = environment(tmp_path / "environment")
    what = ["--editable", REPOSITORY] if kind == "editable" else [request.getfixturevalue("built")["wheel"]]
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--ignore-installed", "--quiet"]
    run([sys.executable, "-m", "pip", f"--python={python}", "install", *offline, *what])
    foreign = tmp_path / "elsewhere"
    foreign.mkdir()

    module = Path(run([python, "-c", "import medvision; print(medvision.__file__)"], cwd=foreign).strip())
    home = REPOSITORY if kind == "editable" else tmp_path / "environment"
    assert module.is_relative_to(home)
    experiments = sorted(file.stem for file in (REPOSITORY / "conf" / "experiment").glob("*.yaml"))
    assert run([python, "-c", COMPOSE_EVERYTHING], cwd=foreign).split() == experiments
    help_text = run([python, "-m", "medvision.train", "--help"], cwd=foreign)
    assert all(name in help_text for name in experiments)
    assert list(foreign.iterdir()) == []


def environment(folder: Path) -> Path:
    """An empty virtual environment that borrows this one's libraries, but not its medvision; its interpreter.

    Lines in a .pth file put a folder on the path without following that folder's own .pth files, so an editable
    medvision in this environment stays out of the new one.
    """
    run([sys.executable, "-m", "venv", "--without-pip", folder])
    only(folder, "lib/python*/site-packages").joinpath("borrowed.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "bin" / "python"


def run(command: list[str | Path], cwd: Path | None = None) -> str:
    """The standard output of a command that has to succeed; nothing in its environment points at this checkout."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PIP_", "MEDVISION"))}
    result = subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def only(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(pattern)
    return path


def files_under(folder: Path) -> list[str]:
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return [path.relative_to(folder).as_posix() for path in files]


def contents(archive: zipfile.ZipFile) -> dict[str, bytes]:
    return {name: archive.read(name) for name in archive.namelist()}
