"""What a comparison may be asked for, and the runs that it trains itself."""

from pathlib import Path

from omegaconf import DictConfig

from medvision.config import compose, quoted
from medvision.errors import ConfigError
from medvision.rundir import RunDirectory, shared

# What is typed for the comparison itself, and not for the models it may train.
OWN = ("runs", "models", "metric", "out", "output_root")
# True of what `train` leaves behind.
ONE_PROCESS = (
    "The models were trained one after another in one process: the peak memory of each includes what the ones before "
    "it had loaded."
)
_WITH_RUNS = (*OWN, "evaluation.confidence_level", "evaluation.n_resamples")


def check(cfg: DictConfig) -> None:
    """Refuse what cannot be compared, before anything is read or trained.

    Raises:
        ConfigError: for runs and models together, or neither; and for values that would have no effect.
    """
    names = {line.lstrip("+~").partition("=")[0]: line for line in cfg.overrides}
    if bool(cfg.runs) == bool(cfg.models):
        raise ConfigError(
            f"Expected runs=[RUN,RUN] (or a folder of runs), or models=[NAME,NAME] to be trained; "
            f"found {'both' if cfg.models else 'neither'}."
        )
    if "resume" in names or "init_from" in names:
        raise ConfigError(
            "resume and init_from belong to one model.\nUse them with medvision.train, and compare its run."
        )
    if cfg.runs and (idle := [line for name, line in names.items() if name not in _WITH_RUNS]):
        raise ConfigError(
            f"{idle[0]} has no effect on runs that are finished.\nLeave it out, or train with models=[NAME,NAME]."
        )
    if not cfg.models:
        return
    given = f"models=[{','.join(cfg.models)}]"
    if "model" in names:
        raise ConfigError(f"model and models exclude each other: {given} trains each of its options.")
    if len(set(cfg.models)) < len(cfg.models):
        raise ConfigError(f"{given} names one twice.\nFor several seeds: python -m medvision.train -m seed=0,1,2.")
    if len(cfg.models) < 2:
        raise ConfigError(f"{given}: one model is nothing to compare. Name two or more.")
    for model in cfg.models:
        compose(*_for_training(cfg), f"model={model}", config_dir=cfg.get("config_dir"))


def train(cfg: DictConfig, folder: Path) -> list[str]:
    """Train each of `cfg.models` on the same data and splits, and return the run directories.

    Runs that an earlier comparison finished in this folder are taken as they are, interrupted ones go on.

    Args:
        cfg: checked.
        folder: of the comparison; runs go to `runs/<model>` below it.
    """
    from medvision.run import fit  # loads torch

    peer = shared()
    for model in cfg.models:
        directory = RunDirectory(folder / "runs" / model)
        if peer is not None and peer.path.name != model:
            continue  # a process that a distributed strategy started helps with one model only
        status = directory.facts.get("status")
        unfinished = status is not None and (status != "failed" or directory.last.exists())
        place = f"{'resume' if unfinished else 'out'}={quoted(directory.path)}"
        fit(compose(*_for_training(cfg), f"model={model}", place, config_dir=cfg.get("config_dir")))
    return [str(folder / "runs" / model) for model in cfg.models]


def _for_training(cfg: DictConfig) -> list[str]:
    return [line for line in cfg.overrides if line.lstrip("+~").partition("=")[0] not in OWN]
