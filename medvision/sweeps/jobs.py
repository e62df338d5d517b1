"""The jobs of a multirun, and what a user sees of them while they run: a live table, or plain lines."""

import json
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from medvision.config.compose import quoted
from medvision.files import write_text
from medvision.runs.saved_run import SavedRun

# Exit code of a command that did its work and found something to look at, such as an audit.
FINDINGS = 3

REFRESH_SECONDS = 0.25
_TAIL = 4096  # bytes of a log in which its last line is looked for
_STYLES = {"finished": "green", "skipped": "green", "findings": "yellow", "failed": "red", "running": "bold"}
# What a short terminal shows first.
_ORDER = ("running", "failed", "interrupted", "findings", "waiting", "finished", "skipped")


@dataclass
class Job:
    """One line of jobs.json.

    Attributes:
        folder: its run directory.
        overrides: what was typed, with one value each.
        status: waiting, running, finished, skipped (finished by an earlier command), findings (finished, and there is
            something to look at), failed or interrupted.
        reason: the last thing it said before it failed.
        submission: what a cluster's queue knows it by.
    """

    folder: str
    overrides: list[str]
    status: str = "waiting"
    exit_code: int | None = None
    seconds: float | None = None
    reason: str | None = None
    submission: str | None = None


@dataclass(frozen=True)
class Command:
    """A job: `python -m <module> <overrides> out=<folder>`, on any machine.

    Attributes:
        module: of the command, such as medvision.train.
        overrides: of the job.
        folder: its run directory.
        options: further arguments.
        submission: what a cluster's queue knew the job by in an earlier command.
    """

    module: str
    overrides: tuple[str, ...]
    folder: str
    options: tuple[str, ...] = ()
    submission: str | None = None

    def arguments(self) -> list[str]:
        """The arguments after the module; an unfinished run of an earlier command is resumed."""
        place = f"{'resume' if self.run.must_stay else 'out'}={quoted(self.folder)}"
        return [*self.overrides, place, *self.options]

    @property
    def run(self) -> SavedRun:
        """The run of the job, if it has begun."""
        return SavedRun(Path(self.folder))

    @property
    def log(self) -> Path:
        """The file for what it says."""
        return Path(f"{self.folder}.log")


def save(jobs: Sequence[Job], folder: Path) -> None:
    """Write jobs.json."""
    write_text(folder / "jobs.json", json.dumps([asdict(job) for job in jobs], indent=2) + "\n")


def load(folder: Path) -> list[Job]:
    """Read jobs.json."""
    return [Job(**job) for job in json.loads((folder / "jobs.json").read_text(encoding="utf-8"))]


def exit_code(jobs: Sequence[Job]) -> int:
    """Of the whole multirun: 0 if all jobs finished, `FINDINGS` if some found something, 1 if any did not finish."""
    if any(job.status not in ("finished", "skipped", "findings") for job in jobs):
        return 1
    return FINDINGS if any(job.status == "findings" for job in jobs) else 0


def varying(jobs: Sequence[Job]) -> list[list[str]]:
    """The overrides of each job that not all have."""
    return [[line for line in job.overrides if any(line not in other.overrides for other in jobs)] for job in jobs]


def summary(jobs: Sequence[Job]) -> Table:
    """Every job in a line, for the end."""
    table = Table("job", "status", "seconds", "run or reason", box=None, header_style="bold")
    for number, job in enumerate(jobs):
        outcome = Text(job.reason or job.folder, overflow="fold")
        table.add_row(str(number), Text(job.status, _STYLES.get(job.status, "yellow")), _seconds(job), outcome)
    return table


class Board(AbstractContextManager["Board"]):
    """Shows the jobs while they run: a live table on a terminal, a line for each start in a file or pipe.

    Args:
        jobs: all of them, which others change.
        console: where.
    """

    def __init__(self, jobs: Sequence[Job], console: Console) -> None:
        self._jobs = jobs
        self._console = console
        self._drawn = 0.0
        # Drawn by hand: a thread of rich's own, or its stand-ins for stdout and stderr, would be there in forked jobs.
        self._live = (
            Live(console=console, transient=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> "Board":
        """Open the table."""
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it, so that the summary stands in its place."""
        if self._live is not None:
            self._live.stop()

    @property
    def is_live(self) -> bool:
        """Whether there is a table, which the output of a job would tear."""
        return self._live is not None

    def say(self, line: str, style: str | None = None) -> None:
        """Leave a line, where there is no table to see it in."""
        if self._live is None:
            self._console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)

    def refresh(self) -> None:
        """Draw the table again, a few times a second at most."""
        now = time.monotonic()
        if self._live is not None and now - self._drawn >= REFRESH_SECONDS:
            self._drawn = now
            self._live.update(self._table(), refresh=True)

    def _table(self) -> Group:
        table = Table("job", "values", "status", "seconds", "last line", box=None, header_style="bold")
        for column, ratio in ((1, 2), (4, 3)):
            table.columns[column].no_wrap = True
            table.columns[column].ratio = ratio
        table.expand = True
        rows = list(zip(range(len(self._jobs)), self._jobs, varying(self._jobs), strict=True))
        rows.sort(key=lambda row: _ORDER.index(row[1].status))
        shown = rows[: max(self._console.height - 4, 1)]
        for number, job, values in sorted(shown, key=lambda row: row[0]):
            said = job.reason or (_last_line(Path(f"{job.folder}.log")) if job.status == "running" else "")
            status = Text(job.status, _STYLES.get(job.status, "dim"))
            table.add_row(str(number), Text(" ".join(values)), status, _seconds(job), Text(said))
        counts = {status: sum(job.status == status for job in self._jobs) for status in _ORDER}
        counted = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
        return Group(table, Text(counted, "dim"))


def _seconds(job: Job) -> str:
    return "" if job.seconds is None else f"{job.seconds:.1f}"


def _last_line(log: Path) -> str:
    """The last thing that a job wrote, as far as it is there."""
    if not log.is_file():
        return ""
    with log.open("rb") as file:
        file.seek(max(log.stat().st_size - _TAIL, 0))
        lines = file.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
