import multiprocessing
import os
import subprocess
from pathlib import Path

import pytest
import torch

from medvision.errors import CheckpointError
from medvision.training import checkpoint_io
from medvision.training.checkpoint_io import AtomicCheckpointIO, duplicate

needs_fork = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system has no fork")
io = AtomicCheckpointIO()


def test_round_trip(tmp_path):
    io.save_checkpoint({"weights": torch.arange(3), "epoch": 2}, tmp_path / "a.ckpt")
    loaded = io.load_checkpoint(tmp_path / "a.ckpt")
    assert loaded["epoch"] == 2
    assert torch.equal(loaded["weights"], torch.arange(3))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.ckpt", "a.ckpt.sha256"]


def test_the_digest_is_that_of_the_file(tmp_path):
    io.save_checkpoint({"epoch": 1}, tmp_path / "a.ckpt")
    expected = subprocess.run(["sha256sum", tmp_path / "a.ckpt"], capture_output=True, text=True, check=True)
    assert (tmp_path / "a.ckpt.sha256").read_text().split() == expected.stdout.split()[:1]


def test_one_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "a.ckpt"
    io.save_checkpoint({"weights": torch.arange(100)}, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.ckpt is damaged"):
        io.load_checkpoint(path)


def test_a_truncated_file_without_digest_is_refused(tmp_path):
    path = tmp_path / "a.ckpt"
    io.save_checkpoint({"weights": torch.arange(100)}, path)
    path.write_bytes(path.read_bytes()[:200])
    (tmp_path / "a.ckpt.sha256").unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        io.load_checkpoint(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="No checkpoint at"):
        io.load_checkpoint(tmp_path / "none.ckpt")


class Evil:
    def __reduce__(self):
        return os.system, ("touch " + os.environ["MARKER"],)


def test_code_in_a_checkpoint_never_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("MARKER", str(tmp_path / "marker"))
    torch.save({"weights": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        io.load_checkpoint(tmp_path / "evil.ckpt")
    assert not (tmp_path / "marker").exists()


def in_a_fork(function, *arguments):
    """The exit code of a process that ends within `function`; a fork, because a new one would load torch first."""
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    process.start()
    process.join()
    return process.exitcode


def crash(path, moment):
    if moment == "before the digest":
        checkpoint_io._announce = lambda *_: os._exit(9)
    else:
        replace = Path.replace
        Path.replace = lambda self, target: os._exit(9) if Path(target) == path else replace(self, target)
    io.save_checkpoint({"epoch": 2}, path)


@needs_fork
@pytest.mark.parametrize("moment", ["before the digest", "before the rename"])
def test_a_crash_while_saving_leaves_the_previous_checkpoint(tmp_path, moment):
    path = tmp_path / "last.ckpt"
    io.save_checkpoint({"epoch": 1}, path)
    for _ in range(2):  # twice: the second crash meets what the first left behind
        assert in_a_fork(crash, path, moment) == 9
        assert io.load_checkpoint(path)["epoch"] == 1
    io.save_checkpoint({"epoch": 3}, path)
    assert io.load_checkpoint(path)["epoch"] == 3


@pytest.mark.parametrize("links", [True, False])
def test_a_duplicate_outlives_its_source(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr("medvision.files.os.link", lambda *_: (_ for _ in ()).throw(OSError("no hard links")))
    io.save_checkpoint({"epoch": 1}, tmp_path / "best.ckpt")
    duplicate(tmp_path / "best.ckpt", tmp_path / "last.ckpt")
    io.save_checkpoint({"epoch": 2}, tmp_path / "best.ckpt")
    assert io.load_checkpoint(tmp_path / "last.ckpt")["epoch"] == 1


def fill(path):
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # stands for a full disk
    try:
        io.save_checkpoint({"weights": torch.zeros(100_000)}, path)
    except CheckpointError as error:
        os._exit(3 if "make room" in str(error) else 4)


@needs_fork
def test_a_full_disk_leaves_the_previous_checkpoint_and_no_litter(tmp_path):
    path = tmp_path / "last.ckpt"
    io.save_checkpoint({"epoch": 1}, path)
    assert in_a_fork(fill, path) == 3
    assert io.load_checkpoint(path)["epoch"] == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.ckpt", "last.ckpt.sha256"]
