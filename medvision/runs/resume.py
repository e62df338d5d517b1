"""The configuration of a resumed run: the stored one, unless the user asks for something else."""

from pathlib import PurePath

from omegaconf import DictConfig, OmegaConf

from medvision.config.renames import canonical
from medvision.errors import ConfigError

# Where a run computes may change between its parts, what it computes may not.
PLACE = "data.root"
FREE = ("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy", PLACE, "logger")
ABOUT_THIS_COMMAND = ("resume", "out", "output_root")


def continued(typed: DictConfig, stored: DictConfig) -> DictConfig:
    """The stored configuration, with what may change taken from the overrides that were typed.

    Args:
        typed: As composed now; `typed.overrides` lists what the user typed.
        stored: config.yaml of the run directory.

    Raises:
        ConfigError: if an override contradicts the stored configuration; it shows every difference.
    """
    cfg = stored.copy()
    differences = []
    for override in typed.overrides:
        name = canonical(override.lstrip("+~").partition("=")[0])
        if name in ABOUT_THIS_COMMAND:
            continue
        place = f"choices.{name}" if name in typed.choices else name
        now, then = (OmegaConf.select(config, place) for config in (typed, stored))
        if any(name == free or name.startswith(f"{free}.") for free in FREE):
            OmegaConf.update(cfg, name, OmegaConf.select(typed, name), merge=False, force_add=True)
            if name == PLACE:
                _move_source(cfg, then, now)
        elif now != then:
            differences.append(f"  {name}: {then} when the run began, {now} now")
    if differences:
        raise ConfigError(
            "A resumed run keeps the configuration it began with, but these differ:\n"
            + "\n".join(differences)
            + "\nLeave them out, or start a new run without resume."
        )
    _check_tracker(cfg, typed)
    return cfg


def _check_tracker(cfg: DictConfig, typed: DictConfig) -> None:
    """A run directory may come from a stranger: a tracker must not write to a database of the stranger's choice."""
    address = str((cfg.get("logger") or {}).get("tracking_uri", ""))
    file = PurePath(address.removeprefix("sqlite:///"))
    outside = address.startswith("sqlite:") and (file.is_absolute() or ".." in file.parts)
    if outside and not any(line.lstrip("+").startswith("logger") for line in typed.overrides):
        raise ConfigError(
            f"The run was tracked in {address}, outside the current folder.\n"
            f"Confirm the database with logger=mlflow logger.tracking_uri={address}, or resume with logger=none."
        )


def _move_source(cfg: DictConfig, then: object, now: object) -> None:
    """Change the layout's own copy of the place too, which was made when references were resolved."""
    for key, value in (OmegaConf.select(cfg, "data.source") or {}).items():
        if value == then:
            cfg.data.source[key] = now
