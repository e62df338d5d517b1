"""Runs the jobs of a multirun, each in a process of its own, and finds them again when the command is repeated."""

import ctypes
import hashlib
import json
import re
import signal
import subprocess
import sys
import time
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig
from rich.console import Console

from medvision.config import LAUNCHER, check_machinery, compose, opened, parsed, quoted, session
from medvision.errors import ConfigError, Interrupted, RunError
from medvision.jobs import FINDINGS, Board, Job, exit_code, load, save, summary, varying


def multirun(config_name: str, overrides: Sequence[str], config_dir: str | None) -> int:
    """Run one job for every combination of the values in `overrides`.

    Args:
        config_name: of the command, `medvision.<config_name>`.
        overrides: as typed; `seed=0,1` stands for two values.
        config_dir: a further folder of config files, or None.

    Returns:
        The exit code: 0 if all jobs finished, 3 if some have findings, 1 if any failed.

    Raises:
        ConfigError: if any job has a config that cannot work; none is started then.
        Interrupted: if SIGINT or SIGTERM arrived; it was passed on, and all jobs have ended.
    """
    _register()
    with session(config_dir) as search_path:
        typed = [parsed(line) for line in overrides]
        for one in typed:
            if one.key_or_group in ("out", "resume"):
                raise ConfigError(f"{one.key_or_group} cannot be set with -m: each job has its own run directory.")
        fixed = opened(one for one in typed if not one.is_sweep_override())
        cfg = hydra.compose(config_name, [*search_path, *fixed], return_hydra_config=True)
        check_machinery(cfg)
        if not isinstance(cfg.hydra.launcher.n_jobs, int) or cfg.hydra.launcher.n_jobs < 1:
            raise ConfigError(f"hydra.launcher.n_jobs={cfg.hydra.launcher.n_jobs}: expected a whole number >= 1.")
        folder = Path(cfg.hydra.sweep.dir) / _name(cfg) / _fingerprint(overrides, config_dir)
        machine: Any = GlobalHydra.instance().hydra
        # Hydra writes its notes before it looks at the jobs: they go where nobody finds them when a job is refused.
        with TemporaryDirectory() as scratch:
            own = [f"hydra.sweep.dir={quoted(scratch)}", f"++hydra.launcher.folder={quoted(folder)}"]
            lines = [*search_path, *opened(typed), *own]
            # No task: the launcher starts processes instead.
            machine.multirun(config_name, lambda cfg: None, lines, with_log_configuration=False)
    jobs, console = load(folder), Console(highlight=False)
    console.print(summary(jobs))
    if config_name == "train":
        from medvision import leaderboard  # loads pandas, which the jobs need not wait for

        leaderboard.write(folder, jobs, console)
    return exit_code(jobs)


def command(config_name: str) -> list[str]:
    """The command line of a job, without its overrides."""
    return [sys.executable, "-m", f"medvision.{config_name}"]


class ProcessLauncher(Launcher):
    """Hydra's way to start jobs, here `python -m medvision.<command> <overrides> out=<folder>`.

    Args:
        n_jobs: how many run at the same time; above 1, and where the terminal shows a table of them, each writes to
            `<folder>.log` instead of the terminal.
        folder: of the multirun, for jobs.json and a run directory each.
    """

    __module__, __qualname__ = LAUNCHER.rsplit(".", 1)

    def __init__(self, n_jobs: int, folder: str) -> None:
        self.n_jobs = n_jobs
        self.folder = Path(folder)
        self.jobs: list[Job] = []

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what the jobs need from the composed config of the multirun."""
        self.config_name = config.hydra.job.config_name
        self.config_dir = next((path.removeprefix("file://") for path in config.hydra.searchpath), None)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run a batch of jobs to their end, whatever that is; jobs.json in the sweep's folder tells."""
        batch = []
        for number, overrides in enumerate(job_overrides, start=initial_job_idx):
            compose(*overrides, config_name=self.config_name, config_dir=self.config_dir)
            batch.append(Job(str(number), [line.removeprefix("++") for line in overrides]))
        for job, values in zip(batch, varying(batch), strict=True):
            slug = re.sub(r"[^\w.-]+", "-", "_".join(values))[:100]
            job.folder = str(self.folder / f"{job.folder}_{slug}".rstrip("_"))
        self.jobs += batch
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(
                f"{self.folder} cannot be made ({error.strerror}): choose another hydra.sweep.dir."
            ) from error
        self._run(batch)
        return [JobReturn(overrides=job.overrides, status=JobStatus.COMPLETED) for job in batch]

    def _run(self, batch: Sequence[Job]) -> None:
        waiting, running = list(batch), list[_Process]()
        stopped_by = None
        board = Board(self.jobs, Console())
        with _signals() as received, board:
            while running or (waiting and stopped_by is None):
                while waiting and stopped_by is None and len(running) < self.n_jobs:
                    running += self._started(waiting.pop(0), board)
                    save(self.jobs, self.folder)
                board.refresh()
                time.sleep(0.05)
                while received:
                    stopped_by = received.pop(0)
                    for process in running:
                        process.popen.terminate()
                ended = [process for process in running if process.has_ended()]
                running = [process for process in running if process not in ended]
                if ended:
                    save(self.jobs, self.folder)
        if stopped_by is not None:
            Console(highlight=False).print(summary(self.jobs))
            Console().print("Stopped. The same command goes on from here.")
            raise Interrupted(stopped_by)

    def _started(self, job: Job, board: Board) -> list["_Process"]:
        """Start a job, or go on with it where an earlier command left it; nothing if it is finished."""
        folder = Path(job.folder)
        status = _status(folder)
        label = f"[{self.jobs.index(job) + 1}/{len(self.jobs)}] {' '.join(job.overrides)}"
        if status == "finished":
            job.status = "skipped"
            board.say(f"{label}: finished already, {folder}")
            return []
        # A run that failed before its first checkpoint begins anew in its folder.
        unfinished = status is not None and (status != "failed" or (folder / "checkpoints" / "last.ckpt").exists())
        place = f"{'resume' if unfinished else 'out'}={quoted(folder)}"
        further = ["--config-dir", self.config_dir] if self.config_dir else []
        board.say(label, style="bold")
        quiet = board.is_live or self.n_jobs > 1
        return [_Process(job, [*command(self.config_name), *job.overrides, place, *further], quiet)]


def _register() -> None:
    """Make the launcher a plugin under the only name by which Hydra accepts plugins, `hydra_plugins.<name>`.

    A real module of that name would be a second distribution, and imported by every Hydra program on the machine.
    """
    plugins = Plugins.instance()  # imports the real hydra_plugins, where other plugins are installed
    package = types.ModuleType("hydra_plugins")
    package.__path__ = []
    sys.modules.setdefault("hydra_plugins", package)
    sys.modules[ProcessLauncher.__module__] = sys.modules[__name__]
    plugins.register(ProcessLauncher)


class _Process:
    """A job while it runs. What it says on stderr passes through a file, which tells in the end why it failed."""

    def __init__(self, job: Job, arguments: list[str], quiet: bool) -> None:
        self.job = job
        self.quiet = quiet
        self.started = time.monotonic()
        self.log = Path(f"{job.folder}.log")
        with self.log.open("ab") as log:
            self.seen = self.begin = log.tell()
            # A session of its own: Ctrl-C reaches this process alone, which passes it on once.
            self.popen = subprocess.Popen(
                arguments,
                stdout=log if quiet else None,
                stderr=log,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        job.status, job.exit_code, job.reason = "running", None, None

    def has_ended(self) -> bool:
        """Pass on what was said since the last call; if the job is over, write down how."""
        code = self.popen.poll()
        said = self._said(self.seen)
        self.seen += len(said)
        if not self.quiet:
            sys.stderr.buffer.write(said)
            sys.stderr.flush()
        self.job.seconds = round(time.monotonic() - self.started, 1)
        if code is None:
            return False
        self.job.exit_code = code
        self.job.status = _ENDINGS.get(code, "failed")
        if self.job.status == "failed":
            self.job.reason = _reason(self._said(self.begin).decode(errors="replace"), code)
        if self.log.stat().st_size == 0:
            self.log.unlink()
        return True

    def _said(self, position: int) -> bytes:
        with self.log.open("rb") as log:
            log.seek(position)
            return log.read()


_STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM, -signal.SIGINT, -signal.SIGTERM)
_ENDINGS = {0: "finished", FINDINGS: "findings"} | dict.fromkeys(_STOPPED, "interrupted")
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


def _end_with_parent() -> None:
    """Have Linux send SIGTERM to this process when the multirun dies, even by SIGKILL."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """The signals that arrive within the block, instead of their effect."""
    received: list[int] = []

    def note(signum: int, frame: FrameType | None) -> None:
        received.append(signum)

    before = {signum: signal.signal(signum, note) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _name(cfg: DictConfig) -> str:
    choices = cfg.hydra.runtime.choices
    return str(choices.get("experiment") or "_".join(choices[one] for one in ("data", "model") if one in choices))


def _fingerprint(overrides: Sequence[str], config_dir: str | None) -> str:
    """The same for the same command, whatever the order, and however many jobs run at a time."""
    lines = sorted(line for line in overrides if not line.startswith("hydra.launcher."))
    return hashlib.sha256("\n".join([*lines, config_dir or ""]).encode()).hexdigest()[:8]


def _status(folder: Path) -> str | None:
    """What run.json says, or None where there is no run."""
    file = folder / "run.json"
    return str(json.loads(file.read_text(encoding="utf-8"))["status"]) if file.is_file() else None


def _reason(said: str, code: int) -> str:
    """The last complaint in what a job said: an error and what follows it, or the last line of a traceback."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [position for position, line in enumerate(lines) if line.startswith("error: ")]
    last = " ".join(lines[errors[-1] :] if errors else lines[-1:]) or f"exit code {code}"
    return last.removeprefix("error: ")
