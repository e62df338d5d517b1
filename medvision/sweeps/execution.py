"""Works through the jobs of a multirun: starts them, shows them, passes signals on, and writes down how each ended."""

import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Protocol

from rich.console import Console

from medvision.errors import Interrupted, RunError
from medvision.sweeps.jobs import FINDINGS, Board, Command, Job, save, summary

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Started:
    """A job that was started.

    Attributes:
        poll: the exit code, negative for a signal, or None while the job is not over.
        stop: ask it to end in order.
        begun: whether it runs by now, and does not wait in a queue.
        submission: what a queue that outlives this process knows it by.
    """

    poll: Callable[[], int | None]
    stop: Callable[[], None]
    begun: Callable[[], bool] = lambda: True
    submission: str | None = None


class Way(Protocol):
    """How jobs are started.

    Attributes:
        at_once: how many may be started and not over.
        quiet: whether all they say goes to their logs, and not to the terminal.
    """

    at_once: int
    quiet: bool

    def start(self, commands: Sequence[Command], quiet: bool) -> list[Started]:
        """Start jobs, which write to their logs: what they say on stderr, and if they are to be quiet, on stdout."""


def run(jobs: Sequence[Job], commands: Sequence[Command], way: Way, folder: Path) -> None:
    """Run jobs to their end; jobs.json has their status.

    Args:
        jobs: all of the multirun; their status is kept up to date.
        commands: one for each.
        way: how they are started.
        folder: for jobs.json.

    Raises:
        RunError: if the folder cannot be made.
        Interrupted: if SIGINT or SIGTERM arrived; it was passed on, and all jobs have ended.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder} cannot be made ({error.strerror}): choose another hydra.sweep.dir.") from error
    board = Board(jobs, Console())
    with _signals() as received, board:
        stopped_by = _work_through(jobs, commands, way, folder, board, received)
    if stopped_by is not None:
        Console(highlight=False).print(summary(jobs))
        Console().print("Stopped. The same command continues from here.")
        raise Interrupted(stopped_by)


def _work_through(
    jobs: Sequence[Job], commands: Sequence[Command], way: Way, folder: Path, board: Board, received: list[int]
) -> int | None:
    """All jobs, or until a signal is received, which is returned once those that run have ended."""
    waiting, running = list[tuple[Job, Command]](), list[_Running]()
    stopped_by = None
    quiet = way.quiet or board.is_live
    labels = {id(job): f"[{n}/{len(jobs)}] {' '.join(job.overrides)}" for n, job in enumerate(jobs, start=1)}
    for job, command in zip(jobs, commands, strict=True):
        if command.run.is_finished:
            job.status = "skipped"
            board.say(f"{labels[id(job)]}: finished already, {job.folder}")
        else:
            waiting.append((job, command))
    save(jobs, folder)
    try:
        while running or (waiting and stopped_by is None):
            batch = waiting[: way.at_once - len(running)] if stopped_by is None else []
            if batch:
                waiting = waiting[len(batch) :]
                for job, _ in batch:
                    board.say(labels[id(job)], style="bold")
                ends = [_size(command.log) for _, command in batch]
                started = way.start([command for _, command in batch], quiet)
                for (job, command), end, handle in zip(batch, ends, started, strict=True):
                    running.append(_Running(job, command.log, end, handle, quiet))
                save(jobs, folder)
            board.refresh()
            time.sleep(_POLL_SECONDS)
            while received:
                stopped_by = received.pop(0)
                for one in running:
                    one.started.stop()
            before = [job.status for job in jobs]
            running = [one for one in running if not one.has_ended()]
            if before != [job.status for job in jobs]:
                save(jobs, folder)
    except BaseException:
        for one in running:
            one.started.stop()
        raise
    return stopped_by


class _Running:
    """A job until it ends. Its stderr goes to its log, whose end says why it failed."""

    def __init__(self, job: Job, log: Path, end: int, started: Started, quiet: bool) -> None:
        self.job, self.log, self.started, self.quiet = job, log, started, quiet
        self.job.submission = started.submission
        self.seen = self.begin = end
        self.since = time.monotonic()
        self._note_beginning()

    def has_ended(self) -> bool:
        """Pass on what was said since the last call; if the job is over, write down how."""
        code = self.started.poll()
        self._note_beginning()
        if not self.quiet:
            said = self._said(self.seen)
            self.seen += len(said)
            sys.stderr.buffer.write(said)
            sys.stderr.flush()
        if self.job.status == "running":
            self.job.seconds = round(time.monotonic() - self.since, 1)
        if code is None:
            return False
        self.job.exit_code = code
        self.job.status = _ENDINGS.get(code, "failed")
        if self.job.status == "failed":
            self.job.reason = _reason(self._said(self.begin).decode(errors="replace"), code)
        if self.log.is_file() and _size(self.log) == 0:
            self.log.unlink()
        return True

    def _note_beginning(self) -> None:
        if self.job.status == "waiting" and self.started.begun():
            self.job.status = "running"
            self.since = time.monotonic()

    def _said(self, position: int) -> bytes:
        if not self.log.is_file():
            return b""
        with self.log.open("rb") as log:
            log.seek(position)
            return log.read()


_STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM, -signal.SIGINT, -signal.SIGTERM)
_ENDINGS = {0: "finished", FINDINGS: "findings"} | dict.fromkeys(_STOPPED, "interrupted")


def _size(log: Path) -> int:
    return log.stat().st_size if log.is_file() else 0


def _reason(said: str, code: int) -> str:
    """The last complaint in what a job said: an error and what follows it, or the last line of a traceback."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [position for position, line in enumerate(lines) if line.startswith("error: ")]
    last = " ".join(lines[errors[-1] :] if errors else lines[-1:]) or f"exit code {code}"
    return last.removeprefix("error: ")


@contextmanager
def _signals() -> Iterator[list[int]]:
    """The signals that arrive within the block, instead of their effect."""
    received: list[int] = []

    def note(signum: int, frame: FrameType | None) -> None:
        received.append(signum)

    before = {signum: signal.signal(signum, note) for signum in SIGNALS}
    try:
        yield received
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
