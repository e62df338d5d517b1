"""The configuration of a run that goes on: the stored one, unless the user asks for something else."""

from omegaconf import DictConfig, OmegaConf

from medvision.errors import ConfigError

# Where a run computes may change between its parts, what it computes may not.
PLACES = ("data.root", "data.csv", "data.path")
FREE = ("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy", *PLACES, "logger")
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
        name = override.lstrip("+~").partition("=")[0]
        if name in ABOUT_THIS_COMMAND:
            continue
        place = f"choices.{name}" if name in typed.choices else name
        now, then = (OmegaConf.select(config, place) for config in (typed, stored))
        if any(name == free or name.startswith(f"{free}.") for free in FREE):
            OmegaConf.update(cfg, name, OmegaConf.select(typed, name), merge=False, force_add=True)
            if name in PLACES:
                _move_source(cfg, then, now)
        elif now != then:
            differences.append(f"  {name}: {then} when the run began, {now} now")
    if differences:
        raise ConfigError(
            "A run goes on with the configuration it began with, but these differ:\n"
            + "\n".join(differences)
            + "\nLeave them out, or start a new run without resume."
        )
    return cfg


def _move_source(cfg: DictConfig, then: object, now: object) -> None:
    """Tell the source as well, whose own copy of the place was made when references were resolved."""
    for key, value in (OmegaConf.select(cfg, "data.source") or {}).items():
        if value == then:
            cfg.data.source[key] = now
