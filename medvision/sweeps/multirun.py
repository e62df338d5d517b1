"""Has Hydra make the jobs of a multirun, checks them all, and finds them again when the command is repeated."""

import hashlib
import re
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from medvision.config import targets
from medvision.config.compose import check_machinery, compose, opened, parsed, quoted, session
from medvision.errors import ConfigError
from medvision.sweeps.execution import Way, run
from medvision.sweeps.jobs import Command, Job, exit_code, load, summary, varying

_PLUGIN = "hydra_plugins.medvision.Collector"


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
    combinations, way, folder = _collected(config_name, overrides, config_dir)
    for combination in combinations:
        compose(*combination, config_name=config_name, config_dir=config_dir)
    jobs = _jobs(combinations, folder)
    known = load(folder) if (folder / "jobs.json").is_file() else []
    queued = {job.folder: job.submission for job in known if job.status in ("waiting", "running")}
    options = ("--config-dir", config_dir) if config_dir else ()
    commands = []
    for job in jobs:
        job.submission = queued.get(job.folder)
        commands.append(Command(module(config_name), tuple(job.overrides), job.folder, options, job.submission))
    # Hydra has ended by now, so that nothing of it lives on in processes that are forked.
    run(jobs, commands, way, folder)
    console = Console(highlight=False)
    console.print(summary(jobs))
    if config_name == "train":
        from medvision.sweeps import leaderboard  # loads pandas, which the jobs need not wait for

        leaderboard.write(folder, jobs, console)
    return exit_code(jobs)


def module(config_name: str) -> str:
    """The module of a command, which jobs are started by."""
    return f"medvision.{config_name}"


def _collected(
    config_name: str, overrides: Sequence[str], config_dir: str | None
) -> tuple[list[Sequence[str]], Way, Path]:
    """The overrides of each job, how jobs are to be started, and the folder of the multirun."""
    _register()
    combinations = list[Sequence[str]]()
    with session(config_dir) as first:
        typed = [parsed(line) for line in overrides]
        for one in typed:
            if one.key_or_group in ("out", "resume"):
                raise ConfigError(f"{one.key_or_group} cannot be set with -m: each job has its own run directory.")
        fixed = opened(one for one in typed if not one.is_sweep_override())
        cfg = hydra.compose(config_name, [*first, *fixed], return_hydra_config=True)
        check_machinery(cfg)
        if cfg.hydra.sweeper.get("max_batch_size") is not None:
            raise ConfigError("hydra.sweeper.max_batch_size cannot be set: hydra.launcher.n_jobs says how many run.")
        folder = Path(cfg.hydra.sweep.dir) / _name(cfg) / _fingerprint(overrides, config_dir)
        way = _way(cfg.hydra.launcher, folder)
        machine: Any = GlobalHydra.instance().hydra
        # Hydra writes its notes before it looks at the jobs: they go where nobody finds them.
        with TemporaryDirectory() as scratch:
            own = [f"hydra.sweep.dir={quoted(scratch)}", f"++hydra.launcher._target_={_PLUGIN}"]
            lines = [*first, *opened(typed), *own]
            machine.multirun(config_name, combinations.append, lines, with_log_configuration=False)
    return combinations, way, folder


class Collector(Launcher):
    """What Hydra takes for a launcher: gives the overrides of each job to the task, and starts nothing."""

    __module__, __qualname__ = _PLUGIN.rsplit(".", 1)

    def __init__(self, **options: Any) -> None:
        """Options are for the way by which the jobs are started later."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep the task."""
        self.task = task_function

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Pass on the overrides."""
        for overrides in job_overrides:
            self.task(overrides)
        return [JobReturn(overrides=overrides, status=JobStatus.COMPLETED) for overrides in job_overrides]


def _register() -> None:
    """Make the collector a plugin under the only name by which Hydra accepts plugins, `hydra_plugins.<name>`.

    A real module of that name would be a second distribution, and imported by every Hydra program on the machine.
    """
    plugins = Plugins.instance()  # imports the real hydra_plugins, where other plugins are installed
    package = types.ModuleType("hydra_plugins")
    package.__path__ = []
    sys.modules.setdefault("hydra_plugins", package)
    sys.modules[Collector.__module__] = sys.modules[__name__]
    plugins.register(Collector)


def _way(node: DictConfig, folder: Path) -> Way:
    """What hydra.launcher names, which `check_machinery` has allowed.

    Raises:
        ConfigError: if an option is unknown or does not fit.
    """
    options = cast(dict[str, Any], OmegaConf.to_container(node, resolve=True))
    target = hydra.utils.get_class(options.pop("_target_"))
    known = targets.parameters(target)
    for name, value in options.items():
        if name not in known or name == "folder":
            raise targets.unknown_key(f"hydra.launcher.{name}", [f"hydra.launcher.{one}" for one in known])
        targets.check_type(f"hydra.launcher.{name}", value, known[name].annotation)
    # Only a way that keeps files of its own asks for the folder.
    return cast(Way, target(**options | ({"folder": folder} if "folder" in known else {})))


def _jobs(combinations: Sequence[Sequence[str]], folder: Path) -> list[Job]:
    jobs = [Job("", [line.removeprefix("++") for line in one]) for one in combinations]
    for number, (job, values) in enumerate(zip(jobs, varying(jobs), strict=True)):
        slug = re.sub(r"[^\w.-]+", "-", "_".join(values))[:100]
        job.folder = str(folder / f"{number}_{slug}".rstrip("_"))
    return jobs


def _name(cfg: DictConfig) -> str:
    choices = cfg.hydra.runtime.choices
    return str(choices.get("experiment") or "_".join(choices[one] for one in ("data", "model") if one in choices))


def _fingerprint(overrides: Sequence[str], config_dir: str | None) -> str:
    """A hash of the jobs, independent of their order and of how they are started."""
    lines = sorted(line for line in overrides if not line.startswith(("hydra.launcher.", "hydra/launcher=")))
    return hashlib.sha256("\n".join([*lines, config_dir or ""]).encode()).hexdigest()[:8]
