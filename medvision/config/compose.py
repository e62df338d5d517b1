"""Composes a config from conf/ and the command line, and checks it before anything is built."""

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import hydra
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException
from hydra.plugins.sweeper import Sweeper
from hydra.version import VersionBase
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from medvision.config import renames, schema, targets
from medvision.config.conf import CONF_DIR, options
from medvision.errors import ConfigError

# The ways to start the jobs of a multirun, one in each file of conf/hydra/launcher.
LAUNCHERS = tuple(
    f"medvision.sweeps.{name}" for name in ("processes.Processes", "cluster.SubmititLocal", "cluster.SubmititSlurm")
)


def compose(
    *overrides: str,
    config_name: str = "train",
    config_dir: str | Path | None = None,
    conf: Path = CONF_DIR,
) -> DictConfig:
    """The checked config of a command, all references resolved.

    Args:
        overrides: as on the command line: `compose("experiment=digits_cnn", "trainer.max_epochs=2")`.
        config_name: the root file in conf/.
        config_dir: a folder laid out like conf/ whose files are found beside ours.
        conf: folder of the root file, for a command of another package; our groups are found from there too.

    Returns:
        The config; `choices` holds the chosen option of every group (null where none is), `overrides` what was given,
        `config_dir` that folder, where one was.

    Raises:
        ConfigError: if an override cannot be read, or the config cannot work; see `check`.
    """
    with session(config_dir, conf) as first:
        typed = [parsed(_renamed(line)) for line in overrides]
        for one in typed:
            if one.is_hydra_override():
                raise ConfigError(f"{one.key_or_group} belongs to a multirun: add -m, or leave it out.")
            if one.is_sweep_override():
                key, _, values = str(one.input_line).partition("=")
                raise ConfigError(
                    f"{key} has several values: add -m for a run each, or write a list, {key}=[{values}]."
                )
        shadowed = _shadowed(config_name, conf)
        others = [one for one in typed if one.key_or_group not in shadowed]
        cfg = hydra.compose(config_name, first + opened(others), return_hydra_config=True)
        for value in typed:
            if value.key_or_group in shadowed:
                OmegaConf.update(cfg, value.key_or_group, value.value())
        check_machinery(cfg)
        choices = {group: name for group, name in cfg.hydra.runtime.choices.items() if not group.startswith("hydra/")}
        with open_dict(cfg):
            del cfg["hydra"]
            cfg.choices = choices
            cfg.overrides = list(overrides)
            if config_dir is not None:
                cfg.config_dir = str(config_dir)
        _check_present(cfg)
        OmegaConf.resolve(cfg)
    check(cfg, config_name, conf)
    return cfg


def check(cfg: DictConfig, config_name: str = "train", conf: Path = CONF_DIR) -> None:
    """Check every key, type, range and `_target_` of a composed config; nothing is built and no data is read.

    Args:
        cfg: as `compose` returns it.
        config_name: the root file it came from, with which its plain keys are compared.
        conf: folder of that file.

    Raises:
        ConfigError: for the first thing that cannot work, naming what could.
    """
    values = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
    choices = values.pop("choices", {})
    values.pop("overrides", None)
    values.pop("config_dir", None)
    reference = _defaults(config_name, conf)
    for group, name in choices.items():
        if name is None and group in reference and group not in schema.OPTIONAL:
            raise ConfigError(f"{group}=null: one is needed. {_choose(group)}")
    # A group that the root file leaves out by default has no node there.
    chosen: dict[str, Any] = {group: {} for group in choices if group in values}
    schema.check_values(values, chosen | reference)


def stored(config: Mapping[str, Any]) -> DictConfig:
    """The configuration of a run directory, checked like one that was just composed: it may come from a stranger.

    Args:
        config: as `SavedRun.config` returns it.

    Raises:
        ConfigError: see `check`.
    """
    cfg = OmegaConf.create(dict(config))
    check(cfg)
    return cfg


def check_machinery(cfg: DictConfig) -> None:
    """Refuse everything that Hydra itself would run, except its own sweepers and our launchers.

    Args:
        cfg: a config with its `hydra` subtree.

    Raises:
        ConfigError: if a `_target_` there is anything else.
    """
    machinery = OmegaConf.to_container(cfg.hydra, resolve=False)
    sweepers = [f"{one.__module__}.{one.__name__}" for one in Plugins.instance().discover(Sweeper)]
    for path, node in targets.find(machinery, "hydra"):
        if path == "hydra.launcher":
            if (target := node["_target_"]) not in LAUNCHERS:
                raise ConfigError(f"hydra/launcher: {target} is not allowed. {_choose('hydra/launcher')}")
        elif node["_target_"] not in sweepers:
            raise ConfigError(f"{path}: {node['_target_']} is not allowed: Hydra's own sweepers only.")


@contextmanager
def session(config_dir: str | Path | None = None, conf: Path = CONF_DIR) -> Iterator[list[str]]:
    """Hydra over `conf` within the block; a Hydra that the caller runs is left as it was.

    Yields:
        The overrides that come first: the launcher of every command, which a later one replaces, and what makes
        `config_dir`, and conf/ for a command of another package, part of the search path.

    Raises:
        ConfigError: in place of every error of Hydra, OmegaConf and YAML.
    """
    folders = [] if conf == CONF_DIR else [CONF_DIR]
    if config_dir is not None:
        folder = Path(config_dir).resolve()
        if not folder.is_dir():
            raise ConfigError(f"--config-dir {config_dir}: there is no such folder.")
        folders.insert(0, folder)
    quoted_paths = [quoted(f"file://{folder.as_posix()}") for folder in folders]
    first = ["hydra/launcher=process", *([f"hydra.searchpath=[{','.join(quoted_paths)}]"] if folders else [])]
    outer, version_base = GlobalHydra.instance().hydra, VersionBase.instance().version_base
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(conf), job_name="medvision", version_base="1.3"):
            yield first
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise _explained(error, config_dir) from error
    finally:
        GlobalHydra.instance().hydra = outer
        VersionBase.instance().version_base = version_base


def parsed(line: str) -> Override:
    """One override; text that Hydra's grammar has no words for, such as an accent in a path, is taken literally.

    Raises:
        ConfigError: if it is not `key=value`.
    """
    key, equals, value = line.partition("=")
    literal = [] if set(value) & set("'\"[]{},") else [f"{key}={quoted(value)}"]
    for attempt in (line, *literal):
        with suppress(HydraException):
            one = OverridesParser.create().parse_override(attempt)
            if one.key_or_group and (equals or one.is_delete()):
                return one
    raise ConfigError(f"{line!r} cannot be read: expected key=value, with text quoted as in \"key='a, b'\".")


def _renamed(line: str) -> str:
    """An override with the name that its key has now: `data.csv` and `data.path` are `data.root`."""
    key, equals, value = line.partition("=")
    plain = key.lstrip("+~")
    return key.removesuffix(plain) + renames.canonical(plain) + equals + value


def opened(overrides: Iterable[Override]) -> list[str]:
    """Overrides that may add keys, because `check` knows better than Hydra which keys exist.

    Raises:
        ConfigError: if one chooses an option that its group does not have.
    """
    groups = set(cast(Any, GlobalHydra.instance().config_loader()).list_groups(""))
    lines = []
    for one in overrides:
        line, key = str(one.input_line), one.key_or_group
        if key == "hydra.searchpath":
            raise ConfigError("hydra.searchpath cannot be set: add a folder of config files with --config-dir DIR.")
        is_group = key in groups or "/" in key
        if is_group and not one.is_delete() and not one.is_sweep_override() and not isinstance(one.value(), str):
            raise ConfigError(f"{line}: expected the name of an option. {_choose(key)}")
        if not one.is_delete() and not one.is_hydra_override():
            line = line.lstrip("+") if is_group else f"++{line.lstrip('+')}"
        lines.append(line)
    return lines


def quoted(value: object) -> str:
    """A value quoted for Hydra's grammar."""
    return "'" + str(value).replace("'", r"\'") + "'"


@functools.cache
def _shadowed(config_name: str, conf: Path) -> frozenset[str]:
    """Plain values of a root file that have the name of a group, which Hydra would look for an option in."""
    root = yaml.safe_load((conf / f"{config_name}.yaml").read_text(encoding="utf-8"))
    return frozenset(key for key in root if key != "hydra" and (CONF_DIR / key).is_dir())


def _check_present(cfg: DictConfig) -> None:
    missing = list(_missing(OmegaConf.to_container(cfg)))
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise ConfigError(f"{', '.join(missing)} {verb} required: add {' '.join(f'{key}=VALUE' for key in missing)}.")


def _missing(node: Any, path: str = "") -> Iterator[str]:
    """The keys that a config file leaves to the user by `???`."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _missing(value, f"{path}.{key}" if path else str(key))
    elif node == "???":
        yield path


@functools.cache
def _defaults(config_name: str, conf: Path) -> dict[str, Any]:
    """The root file as it comes, references unresolved."""
    with session(conf=conf) as first:
        return cast(dict[str, Any], OmegaConf.to_container(hydra.compose(config_name, first)))


def _choose(group: str, config_dir: str | Path | None = None) -> str:
    return f"Choose from {', '.join(options(group, config_dir))}."


def _explained(error: Exception, config_dir: str | Path | None) -> ConfigError:
    """An error of Hydra, OmegaConf or YAML in the words of this program."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        if group:
            known = options(group, config_dir)
            hint = targets.nearest(name, known) or _choose(group, config_dir)
            return ConfigError(f"{group}={name}: there is no such {group}. {hint}")
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and cause.full_key:
        return ConfigError(f"{cause.full_key} is not a key of this configuration.")
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        return ConfigError(f"{cause.full_key} cannot be composed: {lines[0]}")
    if (found := re.match(r"Could not override '(.+)/(.+)'\.", lines[0])) is not None:
        group, inner = found.groups()
        return ConfigError(f"{group}/{inner} cannot be chosen: the chosen {group} has no {inner} to choose.")
    return ConfigError("The configuration cannot be composed.\n" + "\n".join(lines[:2]))
