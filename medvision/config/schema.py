"""The rules that a composed config must keep: keys, types and ranges, checked once before anything is built."""

import operator
import re
from collections.abc import Iterator, Mapping
from typing import Any

from medvision.config import targets
from medvision.data.options import DataOptions
from medvision.errors import ConfigError
from medvision.metrics.options import EvaluationOptions

# What the program fills in when it builds these nodes; a config cannot.
SUPPLIED: Mapping[str, tuple[str, ...]] = {
    "model": ("num_classes", "in_channels", "image_size"),
    "loss": ("task", "class_counts"),
    "optimizer": ("params",),
    "scheduler": ("optimizer", "total_steps"),
    "logger": ("save_dir",),
    "trainer": ("batch_size", "callbacks", "logger", "profiler", "directory"),
}

# Nodes that may be switched off with null.
OPTIONAL = ("experiment", "logger")

# Types of the values that a root file leaves null; all others have the type of the value there.
TYPES: Mapping[str, Any] = {
    "out": str | None,
    "tta": str | None,
    "images": str | None,
    "resume": str | None,
    "init_from": str | None,
    "run": str | None,
    "model": str | None,
    "checkpoint.every_n_steps": int | None,
    "split": str | None,
    "predictions": str | None,
    "evaluation.confidence_level": float | None,
    "evaluation.n_resamples": int | None,
    "evaluation.pictures": int | None,
    "evaluation.robustness": bool | None,
    "evaluation.positive": list[str] | None,
    "evaluation.metrics": list[str] | None,
    "evaluation.target": float | None,
    "evaluation.prevalence": float | None,
    "runs": str | list[str] | None,
    "models": list[str],
    "storage": str | None,
    "study": str | None,
    "labels_folds": int | None,
}

# Nodes whose keys the root file does not list: each is checked by its reader.
FREE_FORM = ("data", "search")

CHOICES: Mapping[str, tuple[str, ...]] = {
    "accelerator": ("auto", "cpu", "gpu"),
    "monitor": ("val/loss", "val/accuracy", "val/recall", "val/auroc"),
    "select": ("none", "uncertainty"),
    "tta": ("none", "mirror", "mirror_shift"),
}

# The nodes `data` and `evaluation` are checked by the classes of their options.
LIMITS: Mapping[str, tuple[str, ...]] = {
    "> 0": (
        *("optimizer.lr", "optimizer.other_lr", "scheduler.div", "scheduler.final_div"),
        *("trainer.gradient_clip_val", "trainer.limit_train_batches", "trainer.limit_val_batches"),
    ),
    ">= 0": (
        *("seed", "loss.focal_gamma", "optimizer.weight_decay"),
        *("early_stopping.patience", "early_stopping.min_delta", "review"),
    ),
    ">= 1": (
        *("trainer.max_epochs", "trainer.num_nodes", "checkpoint.every_n_steps", "optimizer.steps", "k"),
        *("model.pca", "n_trials", "pruner.min_epochs"),
        *("model.features.cell", "model.features.directions", "model.features.size"),
    ),
    ">= 2": ("labels_folds", "model.calibration_folds", "pruner.reduction_factor"),
    "> 0 and < 1": ("scheduler.pct_start",),
    ">= 0 and < 1": ("loss.label_smoothing", "optimizer.momentum", "scheduler.warmup", "ema.decay"),
    ">= 0 and <= 1": ("scheduler.final", "min_confidence"),
}


def check_values(values: Mapping[str, Any], reference: Mapping[str, Any]) -> None:
    """Check keys, types, ranges and `_target_`s.

    Args:
        values: the config in plain Python types, references resolved.
        reference: the same root file as it comes, without experiment or overrides.

    Raises:
        ConfigError: for the first thing that cannot work, naming what could.
    """
    names = list(_dotted(reference))
    # From cheap to dear: the signatures, last, import torch.
    for path, node in targets.find(values):
        located(path, targets.check_path, node["_target_"], targets.slot_of(path))
    _check_plain("", values, reference, names)
    _check_limits(values)
    for path, node in targets.find(values):
        located(path, targets.check_node, path, node, SUPPLIED.get(path, ()), names)
    if "data" in reference:
        _check_data(values["data"], names)
    if "evaluation" in reference:
        EvaluationOptions.of({key: value for key, value in values["evaluation"].items() if value is not None})
    if isinstance(estimator := _select(values, "model.estimator"), Mapping):
        _check_estimator(estimator)


def located(path: str, checked: Any, *arguments: Any) -> None:
    """Call a check of targets.py, whose messages begin with `_target_`, and say which node it is."""
    try:
        checked(*arguments)
    except ConfigError as error:
        message = str(error)
        raise ConfigError(f"{path}.{message}" if message.startswith("_target_") else message) from None


def _check_plain(path: str, values: Mapping[str, Any], reference: Mapping[str, Any], names: list[str]) -> None:
    """Compare the nodes that are not calls with the root file as it comes."""
    for key in values:
        if key not in reference:
            raise targets.unknown_key(f"{path}{key}", names)
    for key, known in reference.items():
        name, value = f"{path}{key}", values.get(key)
        if not value and name in OPTIONAL:
            continue
        if not isinstance(known, Mapping):
            # What has a value by default cannot be null, even if another command leaves it so.
            needed = known is not None and value is None
            targets.check_type(name, value, type(known) if needed else TYPES.get(name, type(known)))
        elif not isinstance(value, Mapping):
            raise ConfigError(f"{name}={targets.shown(value)}: expected the keys {', '.join(known)}, not one value.")
        elif "_target_" in known and "_target_" not in value:
            raise ConfigError(f"{name} has no _target_: expected such as {known['_target_']}.")
        elif "_target_" not in value and name not in FREE_FORM:
            _check_plain(f"{name}.", value, known, names)


def _check_data(values: Mapping[str, Any], names: list[str]) -> None:
    """The keys of `data` are parameters of ImageDataModule, or inputs of the source that it passes on."""
    source = values.get("source")
    if not isinstance(source, Mapping) or "_target_" not in source:
        raise ConfigError(
            f"data.source={targets.shown(source)}: expected a node with _target_, the function that reads."
        )
    passed_on = targets.parameters(targets.resolve(source["_target_"], "data.source"))
    known = passed_on | targets.parameters(DataOptions)
    for key, value in values.items():
        if key in known:
            targets.check_type(f"data.{key}", value, known[key].annotation)
        elif key != "source":
            raise targets.unknown_key(f"data.{key}", [*(f"data.{name}" for name in known), *names])
    DataOptions.of(values)


def _check_estimator(node: Mapping[str, Any]) -> None:
    """Types and ranges of an estimator's parameters, which scikit-learn knows."""
    from sklearn.utils._param_validation import InvalidParameterError

    settings = {key: value for key, value in node.items() if key != "_target_"}
    estimator = targets.resolve(node["_target_"], "model.estimator")(**settings)
    try:
        estimator._validate_params()
    except InvalidParameterError as error:
        found = re.match(r"The '(\w+)' parameter of \w+ must be (.+)\. Got (.+) instead\.$", str(error), re.DOTALL)
        if found is None:
            raise ConfigError(f"model.estimator: {error}") from error
        name, expected, value = found.groups()
        raise ConfigError(f"model.estimator.{name}={value}: expected {expected}.") from error


def _check_limits(values: Mapping[str, Any]) -> None:
    """Ranges and combinations that do not depend on the data."""
    compare = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}
    for limits, name in ((limits, name) for limits, names in LIMITS.items() for name in names):
        value = _select(values, name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        for symbol, bound in (limit.split() for limit in limits.split(" and ")):
            if not compare[symbol](value, float(bound)):
                raise ConfigError(f"{name}={value}: expected a number {limits}.")
    for name, choices in CHOICES.items():
        value = _select(values, name)
        if value is not None and value not in choices:
            raise ConfigError(f"{name}={value}: expected one of {', '.join(choices)}.")
    if values.get("resume") is not None:
        for other in ("out", "init_from"):
            if values.get(other) is not None:
                raise ConfigError(
                    f"resume and {other} exclude each other: a resumed run keeps its directory and weights."
                )


def _select(values: Mapping[str, Any], name: str) -> Any:
    node: Any = values
    for part in name.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def _dotted(node: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for key, value in node.items():
        name = f"{path}.{key}" if path else key
        yield name
        if isinstance(value, Mapping):
            yield from _dotted(value, name)
