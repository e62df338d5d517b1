"""The directory of a run, made, locked and updated during the run. `saved_run` reads it."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from medvision.errors import Interrupted, RunError
from medvision.files import Locked, lock, write_text
from medvision.runs.saved_run import SavedRun

# Passed to the processes that a distributed strategy starts, which share the directory of the first.
DIRECTORY_VARIABLE = "MEDVISION_RUN_DIR"


class RunDirectory(SavedRun):
    """A run that is being made: what `SavedRun` reads, and the writing of it."""

    def record(self, **facts: Any) -> None:
        """Add to run.json."""
        write_text(self.path / "run.json", json.dumps(self.facts | facts, indent=2, ensure_ascii=False) + "\n")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory against other runs; the lock ends with the process, however that ends.

        Raises:
            RunError: if another process holds it.
        """
        try:
            with lock(self.path / "run.lock", wait=False):
                yield
        except Locked as error:
            raise RunError(
                f"Another process is using {self.path}.\nWait until it has ended, or choose another out=DIR."
            ) from error

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Keep the status in run.json true: running, then finished, interrupted or failed."""
        started = self.facts.get("started") or _now()
        self.record(status="running", reason=None, started=started, ended=None)
        try:
            yield
        except (Interrupted, KeyboardInterrupt) as stop:
            self.record(status="interrupted", reason=str(stop), ended=_now())
            raise
        except BaseException as error:
            self.record(status="failed", reason=str(error) or type(error).__name__, ended=_now())
            raise
        self.record(status="finished", ended=_now())


def create(out: str | None, root: str, name: str) -> RunDirectory:
    """Make the directory of a new run.

    Args:
        out: The directory itself; it may exist if it holds no run, or one that failed before its first checkpoint.
        root: Where runs are collected when `out` is None: `<root>/<name>/<date>_<time>`.
        name: Of the experiment.

    Raises:
        RunError: if the directory cannot be made, cannot be written, or holds a run.
    """
    with writable("run directory"):
        if out is not None:
            directory = RunDirectory(Path(out).absolute())
            directory.path.mkdir(parents=True, exist_ok=True)
        else:
            directory = RunDirectory(fresh(Path(root).absolute() / name))
        (directory.path / "run.lock").touch()
    if directory.must_stay:
        raise RunError(
            f"{directory.path} already holds a run (status: {directory.status}).\n"
            f"Continue it with resume={out}, or choose another out=DIR."
        )
    return directory


def shared() -> RunDirectory | None:
    """The directory of the first process, in a process that a distributed strategy started; else None."""
    rank = int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or os.environ.get("LOCAL_RANK") or 0)
    if rank == 0:
        return None
    if DIRECTORY_VARIABLE not in os.environ:
        raise RunError(
            "Several processes were started from outside, and each would choose a run directory of its own.\n"
            f"Name one for all of them: set the environment variable {DIRECTORY_VARIABLE} and out to the same folder."
        )
    return RunDirectory(Path(os.environ[DIRECTORY_VARIABLE]))


@contextmanager
def writable(what: str) -> Iterator[None]:
    """Turn an OSError within the block into the message that a directory cannot be made.

    Args:
        what: is to be written, such as "audit".

    Raises:
        RunError: in place of the OSError.
    """
    try:
        yield
    except OSError as error:
        raise RunError(
            f"The {what} cannot be written: {error.filename} ({error.strerror}).\n"
            "Choose a place you may write to with out=DIR."
        ) from error


def fresh(parent: Path) -> Path:
    """Make a directory below `parent` that is named after the time."""
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    parent.mkdir(parents=True, exist_ok=True)
    suffix = 1
    while True:
        path = parent / (stamp if suffix == 1 else f"{stamp}_{suffix}")
        try:
            path.mkdir()
        except FileExistsError:
            suffix += 1
        else:
            return path


def output_directory(out: str | None, parent: Path, what: str) -> Path:
    """The directory of a command's results, made before the long part begins.

    Args:
        out: the directory itself; None for a new one below `parent`, named after the time.
        parent: where results are collected.
        what: they are, such as "audit".

    Raises:
        RunError: if it cannot be made, or `out` holds a run.
    """
    with writable(what):
        if out is None:
            return fresh(parent)
        folder = Path(out).absolute()
        if (folder / "run.json").exists():
            raise RunError(f"{folder} holds a run.\nChoose another out=DIR for the {what}.")
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
