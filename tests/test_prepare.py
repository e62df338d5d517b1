import os
import signal
import subprocess
import sys

import pandas as pd
import pytest

from medvision.cli.entry import run_command
from medvision.data import cache, cache_folder
from medvision.prepare import prepare


@pytest.fixture
def command(monkeypatch, capfd):
    """Run the prepare command in this process: its exit code, and what it said on both streams."""

    def run(*overrides):
        monkeypatch.setattr(sys, "argv", ["medvision.prepare", *map(str, overrides)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ending:
            run_command("prepare", prepare)
        return ending.value.code, *capfd.readouterr()

    return run


@pytest.fixture
def images(write_folder, tmp_path):
    root = write_folder(tmp_path / "images", {"train/cat": 12, "train/dog": 10, "test/cat": 4, "test/dog": 4})
    (root / "train" / "cat" / "000.png").write_bytes(b"no picture")
    return root


def test_it_decodes_ahead_and_counts(images, command, tmp_path, monkeypatch):
    code, out, err = command(f"data.root={images}", "data.image_size=16", f"out={tmp_path / 'prepared'}")
    assert (code, err) == (0, "")
    assert "30 images, 16 x 16" in out
    rows = {line.split()[1]: line.split() for line in out.splitlines() if line.startswith("│")}
    assert [cell for cell in rows["cat"] if cell.isdigit()] == ["10", "1", "4", "1"]
    assert [cell for cell in rows["all"] if cell.isdigit()] == ["19", "2", "8", "1"]
    assert "train/cat/000.png: not a JPEG" in out
    assert str(cache_folder.location()) in out
    quarantine = pd.read_csv(tmp_path / "prepared" / "quarantine.csv")
    assert quarantine["path"].tolist() == ["train/cat/000.png"]
    assert len(pd.read_csv(tmp_path / "prepared" / "splits.csv")) == 30
    # Training finds it: nothing is decoded again.
    monkeypatch.setattr(cache, "decode_chunks", None)
    assert command("data=image_folder", f"data.root={images}", "data.image_size=16")[0] == 0


def test_a_mistake_ends_with_2_and_its_remedy(images, command):
    code, out, err = command(f"data.root={images}", "data.max_bad_fraction=0")
    assert (code, "max_bad_fraction" in err) == (2, True)
    assert "Traceback" not in out + err
    assert command()[0] == command("data.root=nowhere")[0] == 2


def test_arrays_have_nothing_to_decode(command):
    code, out, _ = command("data=digits")
    assert (code, "1,797 images" in out) == (0, True)
    assert not cache_folder.location().exists()


def test_help_names_no_experiments(command):
    code, out, _ = command("--help")
    assert (code, "Experiments" in out) == (0, False)
    assert "data.root=" in out


@pytest.mark.slow
def test_sigterm_ends_with_143_and_harms_nothing(write_folder, tmp_path, command):
    root = write_folder(tmp_path / "images", {"cat": 600, "dog": 600})
    overrides = [f"data.root={root}", "data.image_size=1024"]
    process = subprocess.Popen([sys.executable, "-m", "medvision.prepare", *overrides], env=os.environ)
    while not list(cache_folder.location().glob("*.partial")):
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    assert command(*overrides, "data.image_size=16")[0] == 0
    assert list(cache_folder.location().glob("*.partial")) == []
