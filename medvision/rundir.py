"""The run directory: made, locked, described by run.json, and found again."""

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from medvision.errors import Interrupted, RunError
from medvision.files import write_text

# Handed to the processes that a distributed strategy starts, which share the directory of the first.
DIRECTORY_VARIABLE = "MEDVISION_RUN_DIR"


class RunDirectory:
    """One run's folder, held under a lock while the run goes on.

    Args:
        path: The folder, which exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.model = path / "model"
        self.last = path / "checkpoints" / "last.ckpt"
        self.best = path / "checkpoints" / "best.ckpt"

    @property
    def facts(self) -> dict[str, Any]:
        """What run.json says; empty if there is none."""
        file = self.path / "run.json"
        facts: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        return facts

    def record(self, **facts: Any) -> None:
        """Add to run.json."""
        write_text(self.path / "run.json", json.dumps(self.facts | facts, indent=2, ensure_ascii=False) + "\n")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder against other runs; the lock goes with the process, however it ends.

        Raises:
            RunError: if another process holds it.
        """
        with (self.path / "run.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in {errno.EAGAIN, errno.EACCES}:
                    raise
                raise RunError(
                    f"Another run is going on in {self.path}.\nWait for it to end, or choose another out=DIR."
                ) from error
            yield

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
    """Make the folder of a new run.

    Args:
        out: The folder itself; it may exist if it holds no run, or one that failed before its first checkpoint.
        root: Where runs are gathered when `out` is None: `<root>/<name>/<date>_<time>`.
        name: Of the experiment.

    Raises:
        RunError: if the folder cannot be made, cannot be written, or holds a run.
    """
    with writable("run directory"):
        if out is not None:
            directory = RunDirectory(Path(out).absolute())
            directory.path.mkdir(parents=True, exist_ok=True)
        else:
            directory = RunDirectory(fresh(Path(root).absolute() / name))
        (directory.path / "run.lock").touch()
    status = directory.facts.get("status")
    if status is not None and (status != "failed" or directory.last.exists()):
        raise RunError(
            f"{directory.path} already holds a run (status: {status}).\n"
            f"Go on with it by resume={out}, or choose another out=DIR."
        )
    return directory


def find(resume: str, root: str, name: str) -> RunDirectory:
    """The folder of the run to go on with.

    Args:
        resume: The folder, or `auto` for the newest run below `<root>/<name>` that has something left to go on with:
            one that failed before its first checkpoint has nothing.
        root: Where runs are gathered.
        name: Of the experiment.

    Raises:
        RunError: if there is no such run.
    """
    if resume == "auto":
        runs = [RunDirectory(file.parent) for file in (Path(root).absolute() / name).glob("*/run.json")]
        unfinished = [
            run
            for run in runs
            if (status := run.facts.get("status")) != "finished" and (status != "failed" or run.last.exists())
        ]
        if not unfinished:
            raise RunError(f"No unfinished run below {Path(root) / name}.\nStart one without resume=auto.")
        return max(unfinished, key=lambda directory: str(directory.facts["started"]))
    directory = RunDirectory(Path(resume).absolute())
    if not directory.config.is_file():
        raise RunError(f"{resume} holds no run: config.yaml is missing.\nExpected the directory of an earlier run.")
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
    """Say in a command's own words that its folder cannot be made.

    Args:
        what: is to be written, such as "audit".

    Raises:
        RunError: in place of an OSError within the block.
    """
    try:
        yield
    except OSError as error:
        raise RunError(
            f"The {what} cannot be written: {error.filename} ({error.strerror}).\n"
            "Choose a place you may write to with out=DIR."
        ) from error


def fresh(parent: Path) -> Path:
    """Make a folder below `parent` that is named after the time."""
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


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
