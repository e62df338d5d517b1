"""What a search may choose: keys of the configuration, each with the values it may take."""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medvision.config import targets
from medvision.config.compose import quoted
from medvision.errors import ConfigError

if TYPE_CHECKING:
    import optuna

KINDS: Mapping[str, tuple[str, ...]] = {
    "float": ("low", "high", "log"),
    "int": ("low", "high", "log"),
    "categorical": ("choices",),
}


@dataclass(frozen=True)
class Dimension:
    """One key and its values.

    Attributes:
        key: dotted, as on the command line; or a group, such as `augmentation`.
        kind: one of `KINDS`.
        low: smallest number.
        high: largest number, included.
        log: whether all orders of magnitude are equally likely to begin with.
        choices: of a categorical one.
    """

    key: str
    kind: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[Any, ...] = ()

    def suggest(self, trial: "optuna.Trial") -> Any:
        """The value of this trial."""
        if self.kind == "categorical":
            # A storage holds plain values only, so lists travel as text.
            return self.decoded(trial.suggest_categorical(self.key, [json.dumps(one) for one in self.choices]))
        if self.kind == "int":
            return trial.suggest_int(self.key, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(self.key, self.low, self.high, log=self.log)

    def decoded(self, stored: Any) -> Any:
        """A value as it stands in a storage."""
        return json.loads(stored) if self.kind == "categorical" else stored

    def described(self) -> str:
        """Its values in words."""
        if self.kind == "categorical":
            return ", ".join(_text(one).strip("'") for one in self.choices)
        return f"{self.low:g} to {self.high:g}{', logarithmic' if self.log else ''}"

    def extremes(self) -> Sequence[Any]:
        """Values between which all others lie."""
        if self.kind == "categorical":
            return self.choices
        number = int if self.kind == "int" else float
        return [number(self.low), number(self.high)]


def read(node: Mapping[str, Any]) -> tuple[Dimension, ...]:
    """The dimensions of a search space, in the order of their keys.

    Args:
        node: nested like the configuration, or with dotted keys; a leaf says `type` and what its `KINDS` need.

    Raises:
        ConfigError: if there is none, or one is not complete.
    """
    found = sorted((_dimension(key, leaf) for key, leaf in _leaves(node)), key=lambda one: one.key)
    if not found:
        raise ConfigError("The search space is empty: choose one with search=NAME, or add keys to it.")
    return tuple(found)


def override(key: str, value: Any) -> str:
    """What one would type for a value."""
    return f"{key}={_text(value)}"


def rounded(value: Any) -> Any:
    """A value to look at: numbers to three digits."""
    return float(f"{value:.3g}") if isinstance(value, float) else value


def corners(space: Sequence[Dimension]) -> Iterator[list[str]]:
    """Overrides that between them hold every choice, and both ends of every range."""
    rows = itertools.zip_longest(*(one.extremes() for one in space))
    for values in rows:
        # Where a key has fewer values than another, its last stands for the rest.
        yield [
            override(one.key, one.extremes()[-1] if value is None and None not in one.choices else value)
            for one, value in zip(space, values, strict=True)
        ]


def _leaves(node: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    for key, value in node.items():
        name = f"{path}.{key}" if path else str(key)
        if not isinstance(value, Mapping):
            raise ConfigError(
                f"search.{name}={targets.shown(value)}: expected type: {' | '.join(KINDS)} with its values, such as\n"
                f"{name}: {{type: float, low: 1e-4, high: 1e-1, log: true}}."
            )
        if "type" in value:
            yield name, value
        else:
            yield from _leaves(value, name)


def _dimension(key: str, leaf: Mapping[str, Any]) -> Dimension:
    where, kind = f"search.{key}", leaf["type"]
    if kind not in KINDS:
        raise ConfigError(f"{where}.type={targets.shown(kind)}: expected {', '.join(KINDS)}.")
    for name in leaf:
        if name != "type" and name not in KINDS[kind]:
            raise targets.unknown_key(f"{where}.{name}", [f"{where}.{one}" for one in KINDS[kind]])
    if kind == "categorical":
        choices = leaf.get("choices")
        if not isinstance(choices, Sequence) or isinstance(choices, str) or len(choices) < 2:
            raise ConfigError(f"{where}.choices={targets.shown(choices)}: expected a list of two values or more.")
        return Dimension(key, kind, choices=tuple(choices))
    for name in ("low", "high"):
        if name not in leaf:
            raise ConfigError(f"{where}.{name} is missing: a {kind} needs low and high.")
        targets.check_type(f"{where}.{name}", leaf[name], int if kind == "int" else float)
    low, high, log = leaf["low"], leaf["high"], leaf.get("log", False)
    targets.check_type(f"{where}.log", log, bool)
    if not low < high:
        raise ConfigError(f"{where}: expected low < high, found {low} and {high}.")
    if log and low <= 0:
        raise ConfigError(f"{where}.low={low}: with log: true expected a number > 0.")
    return Dimension(key, kind, low, high, log)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    return targets.shown(value)
