"""Starts jobs as processes of this machine, by a fork server where there is one: torch is then loaded once for all."""

import atexit
import ctypes
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from multiprocessing import connection
from pathlib import Path
from typing import Any

from medvision.errors import ConfigError
from medvision.sweeps.execution import Started
from medvision.sweeps.jobs import Command

_PR_SET_PDEATHSIG = 1
# What takes a training seconds to load; packages that a user allows are loaded by each job.
_PRELOADED = ["medvision.pipeline.fit", "medvision.config.compose"]


class Processes:
    """One process for each job. Each has a session of its own: Ctrl-C reaches the multirun alone, which passes it on.

    Args:
        n_jobs: how many run at the same time.
    """

    def __init__(self, n_jobs: int) -> None:
        if n_jobs < 1:
            raise ConfigError(f"hydra.launcher.n_jobs={n_jobs}: expected a whole number >= 1.")
        self.at_once = n_jobs
        self.quiet = n_jobs > 1

    def start(self, commands: Sequence[Command], quiet: bool) -> list[Started]:
        """Start jobs, by the fork server or else by a new interpreter each."""
        start = _forked if "forkserver" in multiprocessing.get_all_start_methods() else _spawned
        return [start(command, quiet) for command in commands]


def end_with_parent() -> None:
    """Have Linux send SIGTERM to this process when its parent dies, even by SIGKILL."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _forked(command: Command, quiet: bool) -> Started:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    # The server has the environment that it was started with.
    surroundings = dict(os.environ), str(Path.cwd()), list(sys.path)
    process = context.Process(target=_job, args=(command, quiet, *surroundings))
    process.start()
    return Started(lambda: process.exitcode, process.terminate)


def _job(command: Command, quiet: bool, environment: dict[str, str], folder: str, path: list[str]) -> None:
    """In the forked process: become what a new interpreter would be, and run the command."""
    os.setsid()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[:] = path
    with command.log.open("ab") as log:
        for descriptor in (1, 2) if quiet else (2,):
            os.dup2(log.fileno(), descriptor)
    # Lightning starts the further processes of a distributed run by these, as `python -m <module> <arguments>`.
    sys.argv = [command.module, *command.arguments()]
    try:
        runpy.run_module(command.module, run_name="__main__", alter_sys=True)
    finally:
        # As an interpreter ends: threads first, then atexit, which multiprocessing leaves out. Loggers that upload end
        # their work there.
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()


def _end_with_parent() -> None:
    """SIGTERM to this process when the multirun is gone, even by SIGKILL: the fork server, its parent, lives on."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)


def _spawned(command: Command, quiet: bool) -> Started:
    arguments = [sys.executable, "-m", command.module, *command.arguments()]
    options: dict[str, Any] = {} if sys.platform == "win32" else {"preexec_fn": end_with_parent}
    with command.log.open("ab") as log:
        process = subprocess.Popen(
            arguments, stdout=log if quiet else None, stderr=log, start_new_session=True, **options
        )
    return Started(process.poll, process.terminate)
