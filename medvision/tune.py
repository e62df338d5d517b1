"""The command `medvision tune experiment=NAME n_trials=50`: search for good values on validation."""

import re
import shlex
from pathlib import Path
from typing import cast

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from medvision.cli.entry import run_command
from medvision.config.compose import compose
from medvision.errors import ConfigError, Interrupted, RunError
from medvision.runs.directory import writable
from medvision.search.space import Dimension, corners, read

# What is typed for the search itself, and not for its trials.
OWN = ("n_trials", "storage", "study", "pruner", "search", "out", "output_root")
_REFUSED = {
    "resume": "The same command continues its study.",
    "logger": "A trial keeps metrics.csv and train.log; log the run that trains experiment/best.yaml.",
}


def main() -> None:
    """Search as the command line says."""
    run_command("tune", tune)


def tune(cfg: DictConfig) -> None:
    """Search as a config says, and write what was found.

    Raises:
        ConfigError: if the search space, the storage or a value cannot work; nothing is trained then.
        RunError: if no trial was finished.
    """
    typed, space = check(cfg)
    try:
        from medvision.search import report
        from medvision.search.trials import search  # these load torch, which mistyped overrides need not wait for
    except ModuleNotFoundError as error:
        if error.name not in ("optuna", "sqlalchemy"):
            raise
        raise ConfigError("medvision tune needs Optuna: pip install 'medvision[tune]'.") from error

    console = Console(highlight=False)
    folder = _folder(cfg)
    console.print(f"search {cfg.study} in {folder}", soft_wrap=True, markup=False)
    try:
        study = search(cfg, typed, space, folder, console)
    except Interrupted:
        console.print("Stopped. The same command continues from here.")
        raise
    best = report.write(study, cfg, typed, space, folder)
    for label, file in (("page", "tune.html"), ("trials", "trials.csv"), ("best", "experiment/best.yaml")):
        if (folder / file).exists():
            console.print(f"{label:<8}{folder / file}", soft_wrap=True, markup=False)
    if best is None:
        raise RunError(f"No trial was finished; {folder / 'trials.csv'} says why.\nNarrow the search space.")
    console.print(f"Best: trial {best.number}, {cfg.monitor} {best.value:.4f}; the test images were not looked at.")
    console.print(
        f"Train and test it: medvision train --config-dir {shlex.quote(str(folder))} experiment=best",
        soft_wrap=True,
        markup=False,
    )
    console.print("Research use only: not a medical device.", style="dim")


def check(cfg: DictConfig) -> tuple[list[str], tuple[Dimension, ...]]:
    """Refuse what cannot be searched, before anything is read or trained; names the study.

    Returns:
        The overrides that every trial has, and the search space.

    Raises:
        ConfigError: as `tune`.
    """
    names = {line.lstrip("+~").partition("=")[0]: line for line in cfg.overrides}
    for name in names:
        if (reason := _REFUSED.get(name.partition(".")[0])) is not None:
            raise ConfigError(f"{names[name]} belongs to one run. {reason}")
    if cfg.trainer.devices not in (1, "1") or cfg.trainer.strategy != "auto":
        raise ConfigError("A trial runs on one device.\nUse several by starting the same command several times.")
    cfg.study = cfg.study or str(cfg.choices.experiment or f"{cfg.choices.data}_{cfg.choices.model}")
    if not re.fullmatch(r"[\w.-]*\w[\w.-]*", cfg.study):
        raise ConfigError(f"study={cfg.study}: expected letters, digits, dots and hyphens, for it names a folder.")
    space = read(cast(dict[str, object], OmegaConf.to_container(cfg.search)))
    typed = ["logger=none", *(line for name, line in names.items() if name.partition(".")[0] not in OWN)]
    fixed = [one.key for one in space if one.key in names]
    if fixed:
        raise ConfigError(
            f"{names[fixed[0]]} is fixed, and searched as well.\nLeave it out, or add ~search.{fixed[0]}."
        )
    for corner in corners(space):
        try:
            compose(*typed, *corner, config_dir=cfg.get("config_dir"))
        except ConfigError as error:
            raise ConfigError(f"The search space {cfg.choices.search} cannot be used here:\n{error}") from error
    return typed, space


def _folder(cfg: DictConfig) -> Path:
    """The directory of the search, made before the long part begins."""
    folder = Path(cfg.out).absolute() if cfg.out else Path(cfg.output_root).absolute() / "tune" / cfg.study
    with writable("search"):
        if (folder / "run.json").exists():
            raise RunError(f"{folder} holds a run.\nChoose another out=DIR for the search.")
        folder.mkdir(parents=True, exist_ok=True)
    return folder


if __name__ == "__main__":
    main()
