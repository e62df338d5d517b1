import logging
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from medvision.data import cache, cache_folder
from medvision.data.decode import decode
from medvision.data.leakage import pixel_hashes
from medvision.errors import ConfigError, DataError


@pytest.fixture
def files(tmp_path):
    """40 PNG files of noise, the fifth of them empty and the last of one colour."""
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{number:02}.png" for number in range(40)]
    for path in paths[:-1]:
        cv2.imwrite(str(path), rng.integers(0, 256, (12, 9, 3), dtype=np.uint8))
    cv2.imwrite(str(paths[-1]), np.full((12, 9, 3), 90, np.uint8))
    paths[4].write_bytes(b"")
    return paths


@pytest.fixture
def decoded(monkeypatch):
    """Counts how often files are decoded."""
    calls = []
    original = cache.decode_chunks
    monkeypatch.setattr(cache, "decode_chunks", lambda *a, **k: calls.append(1) or original(*a, **k))
    return calls


def entry():
    (only,) = (path for path in cache_folder.location().iterdir() if path.is_dir())
    return only


def names():
    return {path.name for path in cache_folder.location().glob("*") if path.is_dir()}


def test_pixels_bad_files_hashes_and_plain_images_are_those_of_decode(files):
    found = cache.read(files, (8, 6), 3)
    good = [index for index in range(40) if index != 4]
    np.testing.assert_array_equal(found.pixels[good], [decode(files[index], (8, 6), 3) for index in good])
    assert (found.pixels.dtype, found.pixels.shape) == (np.uint8, (40, 3, 8, 6))
    assert not found.pixels[4].any()
    assert found.bad == [(4, "file is empty", "decode")]
    np.testing.assert_array_equal(found.hashes, pixel_hashes([np.array(found.pixels)]))
    assert found.plain.tolist() == [4, 39]


def test_a_second_run_decodes_nothing_and_finds_the_same(files, decoded):
    first, seen = cache.read(files, 8, 1), []
    second = cache.read(files, 8, 1, progress=lambda *now: seen.append(now))
    assert (decoded, seen) == ([1], [])
    for before, after in zip(first, second, strict=True):
        np.testing.assert_array_equal(before, after)


def test_progress_reaches_the_number_of_files(files):
    seen = []
    cache.read(files, 8, 1, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (40, 40)


@pytest.mark.parametrize(
    "change",
    [
        lambda files: os.utime(files[3], ns=(0, files[3].stat().st_mtime_ns + 1)),
        lambda files: files[4].write_bytes(b"x"),
        lambda files: files[4].chmod(0o400),
        lambda files: files.reverse(),
        lambda files: files.pop(),
        lambda files: files[3].unlink(),
    ],
)
def test_any_change_of_the_files_is_another_entry(files, decoded, change):
    cache.read(files, 8, 1)
    change(files)
    cache.read(files, 8, 1)
    assert len(decoded) == len(names()) == 2


@pytest.mark.parametrize(
    "settings", [{"size": 9}, {"channels": 3}, {"resize": "crop"}, {"window": (40, 80)}, {"frames": "first"}]
)
def test_any_other_setting_is_another_entry(files, decoded, settings):
    usual = {"size": 8, "channels": 1}
    cache.read(files, **usual)
    cache.read(files, **usual | settings)
    assert len(decoded) == len(names()) == 2


def test_another_decoder_is_another_entry(files, decoded, monkeypatch):
    cache.read(files, 8, 1)
    monkeypatch.setattr(cache.metadata, "version", lambda name: "99")
    cache.read(files, 8, 1)
    assert len(decoded) == 2


def test_relative_paths_mean_files_of_the_working_directory(files, decoded, tmp_path, monkeypatch):
    twin = shutil.copytree(tmp_path, tmp_path.with_name("twin"))  # the same names, sizes and times
    for folder in (tmp_path, twin):
        monkeypatch.chdir(folder)
        cache.read([path.name for path in files], 8, 1)
    assert len(decoded) == 2


def test_only_the_user_may_look(files, monkeypatch, tmp_path):
    monkeypatch.setenv("MEDVISION_CACHE", str(tmp_path / "a" / "b"))
    cache.read(files, 8, 1)
    folder = cache_folder.location()
    assert folder == tmp_path / "a" / "b" / "images"
    assert [path.stat().st_mode & 0o777 for path in (folder.parent, folder, entry())] == [0o700] * 3


def test_the_home_directory_is_where_it_lies_otherwise(monkeypatch, tmp_path):
    monkeypatch.delenv("MEDVISION_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder.location() == tmp_path / ".cache" / "medvision" / "images"


def test_a_line_says_where_it_lies_and_how_to_clear_it(files, caplog):
    with caplog.at_level(logging.INFO):
        cache.read(files, 8, 1)
    assert f"rm -r {cache_folder.location()}" in caplog.text
    assert "50.00 GB" in caplog.text
    shutil.rmtree(cache_folder.location())  # what the line says
    cache.read(files, 8, 1)


def test_pixels_cannot_be_changed_by_accident(files):
    with pytest.raises(ValueError, match="read-only"):
        cache.read(files, 8, 1).pixels[0] = 1


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        *(lambda at, name=name: truncate(at / name) for name in ("pixels", "hashes", "index.json")),
        *(lambda at, name=name: (at / name).unlink() for name in ("pixels", "hashes", "index.json")),
        *(lambda at, name=name: (at / name).write_bytes(b"") for name in ("pixels", "hashes", "index.json")),
        *(lambda at, place=place: flip(at / "index.json", place) for place in (0, 20, 63, 64, 65, 75, 90, -1)),
        *(lambda at, place=place: flip(at / "hashes", place) for place in (0, 100, -1)),
        *(lambda at, place=place: flip(at / "pixels", place) for place in (0, 1000, -1)),
    ],
)
def test_damage_is_noticed_and_mended(files, decoded, caplog, damage):
    before = cache.read(files, 8, 1)
    expected = np.array(before.pixels)
    del before
    damage(entry())
    after = cache.read(files, 8, 1)
    assert "are damaged" in caplog.text
    np.testing.assert_array_equal(after.pixels, expected)
    assert len(decoded) == 2
    cache.read(files, 8, 1)
    assert len(decoded) == 2


def test_fault_24_a_file_that_changes_while_it_is_read(files, decoded, caplog):
    def meddle(done, total):
        cv2.imwrite(str(files[0]), np.zeros((9, 12, 3), np.uint8))
        files[7].unlink(missing_ok=True)

    found = cache.read(files, 8, 1, progress=meddle)
    reason = "changed while it was read"
    assert found.bad == [(0, reason, "decode"), (4, "file is empty", "decode"), (7, reason, "decode")]
    assert "2 file(s) changed" in caplog.text
    assert names() == set()  # nothing is kept, and yet the pixels are there
    np.testing.assert_array_equal(found.pixels[1], decode(files[1], 8, 1))
    again = cache.read(files, 8, 1)
    assert [index for index, _, _ in again.bad] == [4, 7]
    assert not again.pixels[0].any()


READER = """
    import logging, sys, time
    from pathlib import Path
    from medvision.data import cache
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
    def progress(done, total):
        print("decoding", flush=True)
        time.sleep(float(sys.argv[2]))
    found = cache.read(sorted(Path(sys.argv[1]).glob("*.png")), 8, 1, progress=progress)
    print("sum", int(found.pixels.sum()), flush=True)
    time.sleep(float(sys.argv[3]))
"""


@pytest.fixture
def reader(tmp_path):
    """Start a process that reads the files: reader(seconds each chunk takes, seconds it uses the pixels)."""
    running = []

    def start(slow=0.0, use=0.0):
        command = [sys.executable, "-c", textwrap.dedent(READER), str(tmp_path), str(slow), str(use)]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


def until(process, word):
    for line in process.stdout:
        if word in line:
            return line
    raise AssertionError(f"the process ended without {word!r}")


def test_two_runs_at_once_decode_once(files, reader):
    first = reader(slow=1.0)
    until(first, "decoding")
    second = reader()
    said, _ = second.communicate(timeout=60)
    assert "waiting for it" in said
    assert "decoding" not in said.splitlines()
    assert until(first, "sum") in said
    assert len(names()) == 1


def test_a_killed_run_leaves_nothing_that_harms(files, reader):
    killed = reader(slow=60)
    until(killed, "decoding")
    assert [name.endswith(".partial") for name in names()] == [True]
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    found = cache.read(files, 8, 1)
    np.testing.assert_array_equal(found.pixels[1], decode(files[1], 8, 1))
    assert [name.endswith(".partial") for name in names()] == [False]


def test_what_a_killed_run_of_other_data_left_goes_too(files, reader):
    killed = reader(slow=60)
    until(killed, "decoding")
    killed.kill()
    killed.wait()
    cache.read(files[:7], 8, 1)
    assert [name.endswith(".partial") for name in names()] == [False]


def read_one_after_the_other(files, monkeypatch, limit):
    """Three entries of 9 images and about 4 kB each, of which the first is used last."""
    monkeypatch.setenv("MEDVISION_CACHE_LIMIT", str(limit))
    keys = []
    for start in (10, 20):
        before = names()
        cache.read(files[start : start + 9], 20, 1)
        keys += names() - before
        time.sleep(0.02)
    cache.read(files[10:19], 20, 1)
    cache.read(files[30:39], 20, 1)
    return keys


def test_the_entry_that_was_unused_for_longest_leaves(files, monkeypatch):
    first, second = read_one_after_the_other(files, monkeypatch, 9e-6)
    assert first in names()
    assert second not in names()
    assert len(names()) == 2


def test_nothing_leaves_below_the_limit(files, monkeypatch):
    read_one_after_the_other(files, monkeypatch, 1)
    assert len(names()) == 3


def test_a_removed_entry_keeps_its_pixels_for_who_uses_it(files, monkeypatch):
    monkeypatch.setenv("MEDVISION_CACHE_LIMIT", "5e-6")
    used = cache.read(files[10:19], 20, 1).pixels
    (first,) = names()
    cache.read(files[20:29], 20, 1)
    assert first not in names()
    np.testing.assert_array_equal(used, [decode(file, 20, 1) for file in files[10:19]])


def test_an_entry_that_cannot_be_removed_stays_whole(files, monkeypatch, caplog):
    monkeypatch.setenv("MEDVISION_CACHE_LIMIT", "5e-6")
    cache.read(files[10:19], 20, 1)
    (first,) = names()

    def refuse(self, target):  # as Windows does while a run has the pixels mapped
        if self.suffix:
            return original(self, target)
        raise PermissionError(13, "used by another process")

    original = Path.rename
    monkeypatch.setattr(Path, "rename", refuse)
    cache.read(files[20:29], 20, 1)
    assert first in names()
    assert "over the limit" in caplog.text
    assert "damaged" not in caplog.text
    monkeypatch.undo()
    cache.read(files[10:19], 20, 1)


def test_what_another_process_is_opening_never_leaves(files, monkeypatch):
    cache.read(files[10:19], 20, 1)
    (first,) = names()
    monkeypatch.setenv("MEDVISION_CACHE_LIMIT", "1e-6")
    with cache_folder.locked(cache_folder.location() / first):
        cache.read(files[20:29], 20, 1)
    assert first in names()


@pytest.mark.parametrize("text", ["0", "-1", "much", "nan"])
def test_a_limit_that_is_none(files, monkeypatch, text):
    monkeypatch.setenv("MEDVISION_CACHE_LIMIT", text)
    with pytest.raises(ConfigError, match="a number of GB above 0"):
        cache.read(files, 8, 1)


def test_a_disk_that_is_full(files, monkeypatch):
    monkeypatch.setattr(cache_folder.shutil, "disk_usage", lambda path: type("Disk", (), {"free": 10}))
    with pytest.raises(DataError, match="MEDVISION_CACHE at a larger disk"):
        cache.read(files, 8, 1)


def test_a_place_that_is_no_folder(files, monkeypatch):
    monkeypatch.setenv("MEDVISION_CACHE", str(files[0]))
    with pytest.raises(DataError, match="MEDVISION_CACHE at a folder"):
        cache.read(files, 8, 1)


def test_only_what_the_cache_wrote_is_removed(files, monkeypatch):
    cache.read(files, 8, 1)
    mine = cache_folder.location().parent / "notes.txt"
    mine.write_text("mine")
    monkeypatch.setenv("MEDVISION_CACHE_LIMIT", "1e-9")
    cache.read(files[:9], 8, 1)
    assert mine.read_text() == "mine"
