"""Gives jobs to Slurm, or to processes that stand for it, by submitit; each is what it is on this machine."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from medvision.errors import ConfigError
from medvision.sweeps.execution import Started
from medvision.sweeps.jobs import Command
from medvision.sweeps.processes import end_with_parent

# Slurm's states of a job that was ended from outside, and that the same command continues.
_INTERRUPTED = ("CANCELLED", "TIMEOUT", "PREEMPTED", "NODE_FAIL", "DEADLINE", "REVOKED", "INTERRUPTED")
_POLL_SECONDS = 1.0
# Between the warning of the time limit and the end: what a job has for its last checkpoint.
_GRACE_SECONDS = 90


class SubmititLocal:
    """Jobs as Slurm would run them, as processes of this machine: to try a multirun out before it goes to a cluster.

    Args:
        folder: of the multirun, for submitit's files.
        n_jobs: how many run at the same time.
        timeout_min: minutes after which a job is stopped, half a minute of them for its last checkpoint.
        gpus_per_node: GPUs that each job sees, the first ones of the machine; 0 for none.
    """

    quiet = True

    def __init__(self, folder: Path, n_jobs: int, timeout_min: int, gpus_per_node: int) -> None:
        _check_limits(1, n_jobs=n_jobs, timeout_min=timeout_min)
        _check_limits(0, gpus_per_node=gpus_per_node)
        self.at_once = n_jobs
        self._executor = _executor("local", folder)
        self._executor.update_parameters(timeout_min=timeout_min, gpus_per_node=gpus_per_node)

    def start(self, commands: Sequence[Command], quiet: bool) -> list[Started]:
        """Start a process for each job that sees to its time limit."""
        # Ctrl-C is for the multirun alone, which passes it on; the processes inherit that they ignore it.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            submitted = _submitted(self._executor, commands)
        finally:
            signal.signal(signal.SIGINT, before)
        return [_Submitted(job, command, _terminate, insist=True).started() for job, command in submitted]


class SubmititSlurm:
    """Jobs of Slurm, all submitted at once as a job array; each runs on one node, as it would on this machine.

    Args:
        folder: of the multirun, for submitit's files; nodes must see it under the same path.
        n_jobs: how many of the array run at the same time.
        timeout_min: minutes after which a job is stopped, with a checkpoint.
        cpus_per_task: CPU cores of each job.
        gpus_per_node: GPUs of each job; 0 asks for none.
        mem_gb: memory of each job in GB; None leaves it to Slurm.
        partition: where jobs run; None leaves it to Slurm.
        account: whom they are charged to; None leaves it to Slurm.
        qos: their quality of service; None leaves it to Slurm.
        constraint: features that nodes must have; None for any.
        setup: lines of shell before each job, such as `module load cuda`.
        additional_parameters: further options of sbatch, by their long names.
    """

    quiet = True
    at_once = sys.maxsize  # Slurm has the queue

    def __init__(
        self,
        folder: Path,
        n_jobs: int,
        timeout_min: int,
        cpus_per_task: int,
        gpus_per_node: int,
        mem_gb: float | None,
        partition: str | None,
        account: str | None,
        qos: str | None,
        constraint: str | None,
        setup: list[str],
        additional_parameters: Mapping[str, Any],
    ) -> None:
        _check_limits(1, n_jobs=n_jobs, timeout_min=timeout_min, cpus_per_task=cpus_per_task)
        _check_limits(0, gpus_per_node=gpus_per_node)
        if mem_gb is not None and mem_gb <= 0:
            raise ConfigError(f"hydra.launcher.mem_gb={mem_gb}: expected a number > 0, or null.")
        self._executor = _executor("slurm", folder)
        # submitit leaves out what is None.
        self._executor.update_parameters(
            name=folder.parent.name,
            timeout_min=timeout_min,
            cpus_per_task=cpus_per_task,
            gpus_per_node=gpus_per_node or None,
            mem_gb=mem_gb,
            slurm_array_parallelism=n_jobs,
            slurm_partition=partition,
            slurm_account=account,
            slurm_qos=qos,
            slurm_constraint=constraint,
            slurm_setup=list(setup) or None,
            slurm_signal_delay_s=min(_GRACE_SECONDS, 30 * timeout_min),
            slurm_additional_parameters=dict(additional_parameters) or None,
        )

    def start(self, commands: Sequence[Command], quiet: bool) -> list[Started]:
        """Submit all jobs as one array, but for those that an earlier command submitted and Slurm still has."""
        from submitit import SlurmJob

        earlier: dict[str, SlurmJob[int]] = {
            one.folder: SlurmJob(self._executor.folder, one.submission) for one in commands if one.submission
        }
        # One question to Slurm answers for all. What it does not know any more is submitted again.
        known: dict[str, Any] = {
            folder: job for folder, job in earlier.items() if not job.done() and job.state != "UNKNOWN"
        }
        new = [command for command in commands if command.folder not in known]
        known |= {command.folder: job for job, command in _submitted(self._executor, new)}
        return [_Submitted(known[one.folder], one, _cancel, insist=False).started() for one in commands]


@dataclass(frozen=True)
class Task:
    """What submitit runs on the node of the job: the command of a job, whose exit code is the result.

    Attributes:
        command: of the job.
        python: the interpreter.
        working_directory: that paths in the command are relative to.
    """

    command: Command
    python: str
    working_directory: str

    def __call__(self) -> int:
        """Run the command to its end, and pass on a wish to stop, once."""
        os.chdir(self.working_directory)
        # Lightning would take the job for one of several that Slurm has started together.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        # Slurm signals every process of a job: the warning of the time limit would end the command at once.
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        arguments = [self.python, "-m", self.command.module, *self.command.arguments()]
        with self.command.log.open("ab") as log:
            process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )

        def stop(signum: int, frame: FrameType | None) -> None:
            signal.signal(signum, signal.SIG_IGN)
            process.terminate()

        signal.signal(signal.SIGUSR2, stop)
        # Slurm's own SIGTERM has reached the command, for which a second one means to drop everything.
        by_slurm = os.environ.get("SUBMITIT_EXECUTOR") == "slurm"
        signal.signal(signal.SIGTERM, signal.SIG_IGN if by_slurm else stop)
        return process.wait()


def _executor(cluster: str, folder: Path) -> Any:
    try:
        from submitit import AutoExecutor
    except ImportError as error:
        raise ConfigError(
            f"hydra/launcher=submitit_{cluster} needs the package submitit. Install it: "
            "pip install 'medvision[cluster]'."
        ) from error
    try:
        return AutoExecutor(folder / "submitit", cluster=cluster)
    except RuntimeError as error:
        raise ConfigError(
            "hydra/launcher=submitit_slurm: Slurm's srun was not found. Start this where jobs are submitted, or try it "
            "out with hydra/launcher=submitit_local."
        ) from error


def _check_limits(least: int, **options: int) -> None:
    for name, value in options.items():
        if value < least:
            raise ConfigError(f"hydra.launcher.{name}={value}: expected a whole number >= {least}.")


def _submitted(executor: Any, commands: Sequence[Command]) -> list[tuple[Any, Command]]:
    if not commands:
        return []
    with executor.batch():
        jobs = [executor.submit(Task(command, sys.executable, str(Path.cwd()))) for command in commands]
    return list(zip(jobs, commands, strict=True))


class _Submitted:
    """A job that submitit looks after.

    Args:
        job: submitit's.
        command: of the job.
        stop: asks it to end in order.
        insist: ask again until it ends, as it may not be ready to hear it at first.
    """

    def __init__(self, job: Any, command: Command, stop: Callable[[Any], None], insist: bool) -> None:
        self._job, self._command, self._stop, self._insist = job, command, stop, insist
        self._stopping = self._begun = False
        self._next_look = 0.0

    def started(self) -> Started:
        """As `execution` knows it."""
        return Started(self._poll, self._end, lambda: self._begun, self._job.job_id)

    def _poll(self) -> int | None:
        if time.monotonic() < self._next_look:  # each look is one at a file on a network
            return None
        self._next_look = time.monotonic() + _POLL_SECONDS
        self._begun = self._begun or self._job.paths.stdout.exists()
        if self._job.done():
            return _exit_code(self._job, self._command)
        if self._stopping and self._insist:
            self._stop(self._job)
        return None

    def _end(self) -> None:
        self._stopping = True
        self._stop(self._job)


def _exit_code(job: Any, command: Command) -> int:
    """Of a job that is over; what submitit has to say goes to the log of the job, where it is looked for."""
    if job.paths.result_pickle.exists() and job.exception() is None:
        return int(job.result())
    state = job.state
    if state.startswith(_INTERRUPTED):
        return 128 + signal.SIGTERM
    with command.log.open("a", encoding="utf-8") as log:
        log.write(f"{job.stderr() or ''}\nerror: job {job.job_id} ended without a result: {state}\n")
    return 1


def _terminate(job: Any) -> None:
    """Stop a process of `SubmititLocal`."""
    os.kill(int(job.job_id), signal.SIGTERM)


def _cancel(job: Any) -> None:
    """Stop a job of Slurm."""
    job.cancel(check=False)
    job.watcher.register_job(job.job_id)  # which has it look often again
