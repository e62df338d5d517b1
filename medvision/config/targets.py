"""Turns `_target_` nodes of a config into objects: only the factories that are listed for each place of a config.

A config may come from a stranger, inside a bundle or a run directory. So each place (slot) has a list of exact names,
and a node inside another one is built only where a slot for it exists. A prefix of allowed packages would not do:
their classes have methods, and methods of file classes delete and overwrite files.
"""

import difflib
import functools
import importlib
import inspect
import os
import re
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from medvision.config import renames
from medvision.config.conf import options
from medvision.errors import ConfigError

_OPTIMIZERS = (
    *("ASGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD"),
)
# Those without a file, a function or a network of their own in their arguments.
_TRANSFORMS = (
    *("AugMix", "AutoAugment", "CenterCrop", "ColorJitter", "ElasticTransform", "FiveCrop", "GaussianBlur"),
    *("GaussianNoise", "Grayscale", "JPEG", "Pad", "RandAugment", "RandomAdjustSharpness", "RandomAffine"),
    *("RandomAutocontrast", "RandomChannelPermutation", "RandomCrop", "RandomEqualize", "RandomErasing"),
    *("RandomGrayscale", "RandomHorizontalFlip", "RandomInvert", "RandomPerspective", "RandomPhotometricDistort"),
    *("RandomPosterize", "RandomResize", "RandomResizedCrop", "RandomRotation", "RandomShortestSize"),
    *("RandomSolarize", "RandomVerticalFlip", "RandomZoomOut", "Resize", "ScaleJitter", "TrivialAugmentWide"),
    *("Compose", "RandomApply", "RandomChoice", "RandomOrder"),
)
_ESTIMATORS = (
    *("sklearn.dummy.DummyClassifier", "sklearn.ensemble.HistGradientBoostingClassifier"),
    *("sklearn.ensemble.RandomForestClassifier", "sklearn.neighbors.KNeighborsClassifier", "sklearn.svm.LinearSVC"),
    *("sklearn.svm.SVC", "sklearn.tree.DecisionTreeClassifier"),
)

# What each place of a config may name; [] stands for any place of a list. `slots` adds layouts and models.
_SLOTS: Mapping[str, tuple[str, ...]] = {
    "model.estimator": _ESTIMATORS,
    "model.features": tuple(f"medvision.models.features.{name}" for name in ("Embedding", "HOG", "Pixels")),
    "augmentation": (
        "medvision.data.augment.Augmentation",
        "medvision.data.transforms_v2.TorchvisionTransforms",
    ),
    "augmentation.transforms[]": tuple(f"torchvision.transforms.v2.{name}" for name in _TRANSFORMS),
    "augmentation.transforms[].transforms[]": tuple(f"torchvision.transforms.v2.{name}" for name in _TRANSFORMS),
    "loss": ("medvision.training.losses.task_loss",),
    "optimizer": (*(f"torch.optim.{name}" for name in _OPTIMIZERS), "medvision.training.muon.Muon"),
    "scheduler": tuple(
        f"medvision.training.schedules.{name}" for name in ("constant", "cosine", "linear", "one_cycle")
    ),
    "trainer": ("medvision.training.trainer.build_trainer",),
    "logger": tuple(f"medvision.training.trackers.{name}" for name in ("mlflow", "tensorboard", "wandb")),
    "evaluation.metrics[]": (),
}
# Where the types are from that a list of a config can be.
_LISTS = ("builtins", "collections.abc")
# Slots whose node gives a function that the program calls, not its result.
PARTIAL = ("optimizer", "scheduler")


@functools.cache
def slots() -> Mapping[str, tuple[str, ...]]:
    """The names that each slot accepts; layouts and models of the package are those that its conf/ names."""
    nodes = {
        "data.source": [_read(file).get("source", {}) for file in options("data").values()],
        "model": [_read(file) for file in options("model").values()],
    }
    shipped = {slot: tuple(sorted({node["_target_"] for node in found})) for slot, found in nodes.items()}
    return {**shipped, **_SLOTS}


def _read(file: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(file.read_text(encoding="utf-8")))


def resolve(path: str, slot: str) -> Any:
    """The function or class that a dotted path names.

    Args:
        path: such as "torch.optim.Adam". The environment variable `MEDVISION_ALLOW` (comma-separated packages) adds
            packages whose functions and classes may be named everywhere; a config cannot.
        slot: a key of `slots()`.

    Raises:
        ConfigError: if the path is not allowed there, or if there is no such function or class.
    """
    check_path(path, slot)
    found = _locate(path)
    if not isinstance(found, type | types.FunctionType):
        raise ConfigError(f"_target_: {path} is not a function or a class.")
    # An allowed package may import others: `mylab.os.system` begins with an allowed name, its module does not.
    home = str(getattr(found, "__module__", None))
    if path not in slots()[slot] and not _is_within(home, _extra()):
        raise ConfigError(f"_target_: {path} comes from {home}, which is not allowed.\n{_remedy(slot)}")
    return found


def resolve_object(path: str, expected: type) -> Any:
    """An object of a package that MEDVISION_ALLOW names, such as a `Metric` of another package.

    Raises:
        ConfigError: if the package is not allowed, or there is no such object there.
    """
    if not _is_within(path, _extra()):
        raise ConfigError(
            f"{path} is not allowed: the environment variable MEDVISION_ALLOW must name its package.\n"
            f"Set MEDVISION_ALLOW={path.partition('.')[0]} and start again."
        )
    found = _locate(path)
    if not isinstance(found, expected):
        raise ConfigError(f"{path} is {type(found).__name__}, not {expected.__module__}.{expected.__name__}.")
    return found


def load_metrics(names: Iterable[str]) -> None:
    """Enter the metrics of other packages that `evaluation.metrics` names.

    Raises:
        ConfigError: if one cannot be found, is not a `Metric`, or its package is not allowed.
    """
    from medvision.metrics.definitions import Metric, add_metrics  # loads SciPy

    add_metrics(resolve_object(name, Metric) for name in names)


def build(node: Mapping[str, Any], slot: str, **kwargs: Any) -> Any:
    """Call `node["_target_"]` with the node's other keys; nodes in it are built first, where they have a slot.

    Args:
        node: a config node.
        slot: a key of `slots()`; one of `PARTIAL` gives a `functools.partial` instead of the result.
        kwargs: arguments that only the program knows, such as `num_classes`; they win over the node's.

    Raises:
        ConfigError: as `resolve`, and for a node where none belongs.
    """
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise ConfigError(f"{slot}={shown(node)}: expected a node with _target_.")
    target = resolve(node["_target_"], slot)
    settings = {
        key: _built(value, f"{slot}.{key}") for key, value in node.items() if key not in ("_target_", "_partial_")
    }
    call = functools.partial(target, **settings | kwargs)
    return call if slot in PARTIAL else call()


def find(node: Any, path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every node that has a `_target_`, with its dotted path, from the outside in."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield path, node
        for key, value in node.items():
            yield from find(value, f"{path}.{key}" if path else str(key))
    elif _is_list(node):
        for position, value in enumerate(node):
            yield from find(value, f"{path}[{position}]")


def slot_of(path: str) -> str:
    """The slot of a node at a dotted path.

    >>> slot_of("augmentation.transforms[3].transforms[0].transforms[1]")
    'augmentation.transforms[].transforms[]'

    Raises:
        ConfigError: if no `_target_` belongs there.
    """
    slot = re.sub(r"\[\d+\]", "[]", path)
    nested = "augmentation.transforms[].transforms[]"
    if slot.startswith(nested):
        slot = nested if set(slot.removeprefix(nested).split(".")) <= {"", "transforms[]"} else slot
    if slot not in slots():
        raise ConfigError(f"{path}: no _target_ belongs here.")
    return slot


def check_path(path: object, slot: str) -> None:
    """Refuse a `_target_` that is not allowed in its slot, without importing anything.

    Raises:
        ConfigError: if it is not.
    """
    if isinstance(path, str) and path in renames.REMOVED:
        raise ConfigError(f"_target_: {path} {renames.REMOVED[path]}")
    if not isinstance(path, str) or not (path in slots()[slot] or _is_within(path, _extra())):
        raise ConfigError(f"_target_: {path} is not allowed.\n{_remedy(slot)}")


def check_node(path: str, node: Mapping[str, Any], supplied: Collection[str] = (), names: Iterable[str] = ()) -> None:
    """Compare a node with the signature of its target, without calling it.

    Args:
        path: where the node is.
        node: the config node.
        supplied: parameters that the program fills in and a config may not.
        names: other dotted keys, for suggestions when a key is unknown.

    Raises:
        ConfigError: for a key that is no parameter, a value of the wrong type, or a parameter left out.
    """
    known = parameters(resolve(node["_target_"], slot_of(path)))
    free = {name: one for name, one in known.items() if one.kind is not one.VAR_KEYWORD and name not in supplied}
    takes_any = any(one.kind is one.VAR_KEYWORD for one in known.values())
    for key, value in node.items():
        if key in ("_target_", "_partial_"):
            continue
        if key in free:
            check_type(f"{path}.{key}", value, free[key].annotation)
        elif key in supplied:
            raise ConfigError(f"{path}.{key} cannot be set: it follows from the rest of the configuration.")
        elif not takes_any:
            raise unknown_key(f"{path}.{key}", [*(f"{path}.{name}" for name in free), *names])
    for name, one in free.items():
        if one.default is one.empty and name not in node:
            raise ConfigError(f"{path}.{name} is required by {node['_target_']}: add {path}.{name}=VALUE.")


def check_type(key: str, value: Any, expected: Any) -> None:
    """Compare one value with an annotation.

    Raises:
        ConfigError: if the value cannot be passed where `expected` is annotated.
    """
    if not _fits(value, expected):
        choices = [str(one) for one in typing.get_args(expected)] if typing.get_origin(expected) is Literal else []
        hint = f" {nearest(str(value), choices)}" if choices else ""
        if not _is_list(value) and _fits([value], expected):
            hint = f" Write {key}=[{shown(value)}]."
        raise ConfigError(f"{key}={shown(value)} does not fit: expected {_described(expected)}.{hint}".rstrip())


def parameters(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The named parameters of a function or class, with evaluated annotations, and `**kwargs` where it takes any."""
    try:
        signature = inspect.signature(target, eval_str=True)
    except NameError:  # annotations that exist only for the type checker
        signature = inspect.signature(target)
    return {name: one for name, one in signature.parameters.items() if one.kind is not one.VAR_POSITIONAL}


def unknown_key(key: str, names: Iterable[str]) -> ConfigError:
    """The error for a key that nothing reads, naming the nearest that exist, or else its neighbours."""
    if key in renames.KEYS:
        return ConfigError(f"{key} is now {renames.KEYS[key]}.")
    names = list(dict.fromkeys(names))
    parent = key.rpartition(".")[0]
    beside = [one.rpartition(".")[2] for one in names if one.rpartition(".")[0] == parent]
    where = f"in {parent}" if parent else "at the top"
    hint = nearest(key, names) or (f"Keys {where}: {', '.join(beside)}." if beside else "")
    return ConfigError(f"{key} is not a key of this configuration. {hint}".rstrip())


def nearest(name: str, names: Iterable[str]) -> str:
    """'Did you mean ...?' over the closest names, or an empty string when none is close.

    >>> nearest("trainer.max_epoch", ["trainer", "trainer.max_epochs", "optimizer.lr"])
    'Did you mean trainer.max_epochs?'
    >>> nearest("lr", ["trainer.max_epochs", "optimizer.lr"])
    'Did you mean optimizer.lr?'
    """
    names = [one for one in dict.fromkeys(names) if not name.startswith(f"{one}.")]
    parent, _, leaf = name.rpartition(".")
    leaves = {one: one.rpartition(".")[2] for one in names}
    beside = {leaves[one]: one for one in names if one.rpartition(".")[0] == parent}
    found = (
        [beside[one] for one in difflib.get_close_matches(leaf, beside, n=3, cutoff=0.7)]
        or [one for one in names if leaves[one] == leaf]
        or [beside[one] for one in beside if leaf in one]
        or difflib.get_close_matches(name, names, n=3, cutoff=0.75)
    )
    return f"Did you mean {' or '.join(found[:3])}?" if found else ""


def shown(value: Any) -> str:
    """A value as YAML and the command line write it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _extra() -> tuple[str, ...]:
    """Packages that the user of this machine allows."""
    return tuple(name.strip() for name in os.environ.get("MEDVISION_ALLOW", "").split(",") if name.strip())


def _is_within(path: str, packages: Iterable[str]) -> bool:
    return any(path.startswith(f"{package}.") or path == package for package in packages)


def _remedy(slot: str) -> str:
    return f"Expected for {slot}: {', '.join(slots()[slot])}; MEDVISION_ALLOW=PACKAGE adds a package of your own."


def _locate(path: str) -> Any:
    """The object at a dotted path, taking the longest importable module first."""
    parts = path.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:cut])
        try:
            found: Any = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name and f"{name}.".startswith(f"{error.name}."):
                continue
            raise
        for position, part in enumerate(parts[cut:], start=cut):
            if not hasattr(found, part):
                hint = nearest(part, dir(found))
                raise ConfigError(f"_target_: {'.'.join(parts[:position])} has no {part}. {hint}".rstrip())
            found = getattr(found, part)
        return found
    raise ConfigError(f"_target_: there is no module {parts[0]}; is it installed?")


def _built(value: Any, path: str) -> Any:
    """The value in plain Python types, the nodes in it built where they have a slot."""
    if isinstance(value, Mapping):
        if "_target_" in value:
            return build(value, slot_of(path))
        return {key: _built(one, f"{path}.{key}") for key, one in value.items()}
    return [_built(one, f"{path}[{n}]") for n, one in enumerate(value)] if _is_list(value) else value


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _fits(value: Any, expected: Any) -> bool:
    """Whether a value of a config can be passed where `expected` is annotated."""
    origin, arguments = typing.get_origin(expected) or expected, typing.get_args(expected)
    if expected in (Any, object, inspect.Parameter.empty) or isinstance(expected, str):
        return True
    if isinstance(value, Mapping) and "_target_" in value:
        return expected not in (bool, int, float, str, None, type(None))
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in arguments)
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in arguments)
    if expected in (None, type(None)):
        return value is None
    if expected is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if expected is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if expected in (str, Path):
        return isinstance(value, str)
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        return _is_list(value) and len(value) == len(arguments) and all(map(_fits, value, arguments))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping)
    # Not a class of a library that can be iterated over, such as the tensor that an optimizer takes for its lr.
    if isinstance(origin, type) and issubclass(origin, Iterable) and origin.__module__ in _LISTS:
        return _is_list(value) and all(_fits(one, arguments[0]) for one in value if arguments)
    return isinstance(origin, type) and isinstance(value, origin)


def _described(expected: Any) -> str:
    """An annotation in words, without the types that no config can hold."""
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if origin in (typing.Union, types.UnionType):
        plain = [one for one in arguments if _described(one) != "a node with _target_"]
        return " or ".join(dict.fromkeys(_described(one) for one in plain or arguments))
    if origin is Literal:
        return " or ".join(str(one) for one in arguments)
    if expected in (None, type(None)):
        return "null"
    if origin is tuple and arguments[-1] is not Ellipsis:
        return f"[{', '.join(_described(one) for one in arguments)}]"
    if isinstance(origin or expected, type) and issubclass(origin or expected, Mapping):
        return "a mapping"
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "text"}
    if expected in names:
        return names[expected]
    if isinstance(origin or expected, type) and issubclass(origin or expected, Iterable) and arguments:
        return f"a list of {_described(arguments[0])}"
    return "a list" if expected in (list, tuple) else "a node with _target_"
