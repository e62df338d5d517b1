"""Starts jobs as processes of this machine, forked where that is safe, which saves each the time of loading torch."""

import atexit
import ctypes
import functools
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from medvision.errors import ConfigError
from medvision.sweeps.execution import SIGNALS, Started
from medvision.sweeps.jobs import Command

_PR_SET_PDEATHSIG = 1
# Threads of libraries that themselves see to it that a fork does them no harm.
_HARMLESS = {"jemalloc_bg_thd"}


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
        """Start jobs, by a fork of this process or else by a new interpreter."""
        start = _forked if self._may_fork else _spawned
        return [start(command, quiet) for command in commands]

    @functools.cached_property
    def _may_fork(self) -> bool:
        return may_fork()


def may_fork() -> bool:
    """Whether this process can be forked without harm, as far as can be seen from within.

    The fork has everything loaded that the check of the configs had to load. It must not miss threads that a library
    counts on (an OpenMP pool makes the next parallel loop wait for ever), and CUDA cannot be used in the fork of a
    process that has touched it. Neither happens by importing torch, but packages in MEDVISION_ALLOW may do more.
    """
    if sys.platform != "linux" or threading.active_count() > 1:
        return False
    if "libcuda.so" in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace"):
        return False
    # OpenBLAS ends its threads before a fork and starts them again when needed: what is there after one, stays.
    process = multiprocessing.get_context("fork").Process(target=int)
    process.start()
    process.join()
    names = [file.read_text(encoding="utf-8").strip() for file in Path("/proc/self/task").glob("*/comm")]
    return len([name for name in names if name not in _HARMLESS]) == 1


def end_with_parent() -> None:
    """Have Linux send SIGTERM to this process when its parent dies, even by SIGKILL."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _forked(command: Command, quiet: bool) -> Started:
    process = multiprocessing.get_context("fork").Process(target=_job, args=(command, quiet, os.getpid()))
    with _blocked():
        process.start()
    return Started(lambda: process.exitcode, process.terminate)


def _job(command: Command, quiet: bool, parent: int) -> None:
    """Within the fork: become what a new interpreter would be, and run the command."""
    os.setsid()
    end_with_parent()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    if os.getppid() != parent:  # it was killed before this process asked to be told
        sys.exit(128 + signal.SIGTERM)
    with command.log.open("ab") as log:
        for descriptor in (1, 2) if quiet else (2,):
            os.dup2(log.fileno(), descriptor)
    # Tests and notebooks put others in their place, which lead elsewhere.
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    # Lightning starts the further processes of a distributed run by these, as `python -m <module> <arguments>`.
    sys.argv = [command.module, *command.arguments()]
    try:
        runpy.run_module(command.module, run_name="__main__", alter_sys=True)
    finally:
        # As an interpreter ends: threads first, then atexit, which multiprocessing leaves out. Loggers that upload end
        # their work there.
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()


def _spawned(command: Command, quiet: bool) -> Started:
    arguments = [sys.executable, "-m", command.module, *command.arguments()]
    with command.log.open("ab") as log:
        process = subprocess.Popen(
            arguments,
            stdout=log if quiet else None,
            stderr=log,
            start_new_session=True,
            preexec_fn=end_with_parent,
        )
    return Started(process.poll, process.terminate)


@contextmanager
def _blocked() -> Iterator[None]:
    """Hold signals back until the fork has handlers of its own, or they would be lost in a copy of ours."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
