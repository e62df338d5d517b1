"""The commands where Linux's own modules and functions are missing: what Windows and macOS lack is taken away here.

This shows that no command needs them; it does not show that libraries behave alike there.
"""

import os
import subprocess
import sys

import cv2
import numpy as np
import pytest

# Runs first in every Python process that finds it, jobs of a multirun included.
WITHOUT_POSIX = """
import builtins, multiprocessing, os, signal

MISSING = {"fcntl", "resource", "termios", "tty", "pty", "pwd", "grp", "syslog"}
original = builtins.__import__


def without(name, globals=None, *rest, **named):
    # Libraries choose by the name of the system, and need their modules for this one.
    if name in MISSING and (globals or {}).get("__name__", "").partition(".")[0] in ("medvision", "__main__"):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return original(name, globals, *rest, **named)


builtins.__import__ = without
for name in ("fork", "forkpty", "setsid", "getsid", "killpg", "getpgid", "mkfifo", "sched_getaffinity", "chown",
             "pread", "posix_fadvise", "wait4", "sync"):
    if hasattr(os, name):
        delattr(os, name)
# SIGKILL, SIGUSR1 and SIGCHLD stay: Lightning and subprocess choose them by the name of the system.
for name in ("SIGUSR2", "SIGHUP", "SIGALRM", "pthread_sigmask", "alarm", "setitimer"):
    if hasattr(signal, name):
        delattr(signal, name)
multiprocessing.get_all_start_methods = lambda: ["spawn"]
"""
QUICK = (
    *("trainer.max_epochs=1", "trainer.limit_train_batches=4", "evaluation.n_resamples=20"),
    *("evaluation.robustness=false", "evaluation.pictures=1"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working folder, in which Python starts without what is missing."""
    folder = tmp_path_factory.mktemp("portable")
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(WITHOUT_POSIX)
    (folder / "images").mkdir()
    for number in range(4):
        image = np.random.default_rng(number).integers(0, 256, (16, 16), dtype=np.uint8)
        cv2.imwrite(str(folder / "images" / f"{number}.png"), image)
    return folder


def medvision(folder, *arguments):
    environment = os.environ | {"PYTHONPATH": str(folder / "site"), "MEDVISION_CACHE": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, "-m", "medvision", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def run(folder):
    for name, model in (("run", "small_cnn"), ("other", "majority")):
        medvision(folder, "train", "experiment=digits_cnn", f"model={model}", *QUICK, f"out={name}")
    return "run"


@pytest.mark.slow
def test_what_is_missing_is_missing(folder):
    script = (
        "try:\n import fcntl\nexcept ImportError:\n"
        " import os, signal\n print(hasattr(os, 'fork'), hasattr(signal, 'SIGHUP'))"
    )
    environment = os.environ | {"PYTHONPATH": str(folder / "site")}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "left"),
    [
        (("evaluate", "run={run}", "evaluation.pictures=0"), "run/report.html"),
        (("compare", "runs=[run,other]", "out=compared", "evaluation.n_resamples=20"), "compared/comparison.html"),
        (("predict", "run={run}", "images=images", "out=labelled"), "labelled/review.html"),
        (("prepare", "data=image_folder", "data.root=classes", "out=prepared"), "prepared/splits.csv"),
        (("train", "-m", "experiment=digits_cnn", "seed=0,1", "hydra.launcher.n_jobs=2", *QUICK), "multirun"),
        (("tune", "experiment=digits_cnn", "n_trials=2", *QUICK[:2], "out=search"), "search/tune.html"),
        (("train", "resume={run}"), "run/metrics.json"),
        (
            ("audit", "data=image_folder", "data.root=classes", "data.image_size=16", "out=audited"),
            "audited/audit.html",
        ),
        (("export", "run={run}", "format=torch"), "run/model.pt2"),
    ],
    ids=lambda one: one[0] if isinstance(one, tuple) else "",
)
def test_a_command_needs_nothing_of_posix(folder, run, command, left):
    if "data.root=classes" in command and not (folder / "classes").exists():
        for split, count in (("train", 12), ("test", 6)):
            for name in ("a", "b"):
                (folder / "classes" / split / name).mkdir(parents=True)
                for number in range(count):
                    image = np.random.default_rng([number, len(split), ord(name)]).integers(0, 256, (16, 16, 3))
                    cv2.imwrite(str(folder / "classes" / split / name / f"{number}.png"), image.astype(np.uint8))
    medvision(folder, *(one.format(run=run) for one in command))
    assert (folder / left).exists()
