"""Estimate and Key: a metric with its interval, what it is of, and both as the content of metrics.json."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from medvision.errors import DataError

# Sections of a split beside its plain metrics, and how many names each entry has.
SECTIONS: Mapping[str, int] = {
    "never_seen": 0,
    "uncalibrated": 0,
    "operating_point": 0,
    "conformal": 0,
    "selective": 0,
    "subgroups": 2,  # column, value
    "subgroup_gaps": 1,  # column
    "robustness": 2,  # corruption, strength
    "negative_controls": 1,  # control
}


@dataclass(frozen=True)
class Key:
    """What an estimate is of.

    Attributes:
        metric: name of a record of `medvision.metrics.definitions`.
        class_name: the class, for a metric of one class against the others; None for all classes together.
        section: one of `SECTIONS`; None for the plain metrics.
        names: the entry of the section, such as ("sex", "F").
        split: such as "test" or "external"; "" where it is not known yet.
    """

    metric: str
    class_name: str | None = None
    section: str | None = None
    names: tuple[str, ...] = ()
    split: str = ""


@dataclass(frozen=True)
class Estimate:
    """A metric and how far it can be trusted.

    Attributes:
        value: the metric on these samples; None where it is undefined.
        low: lower end of the interval; None where `value` is.
        high: upper end of the interval; None where `value` is.
        n: samples that the value rests on: those of the class for sensitivity, those of the others for specificity,
            those predicted as it for PPV, those not predicted as it for NPV, those that are either for F1, all for
            the rest.
        reason: why the value is undefined, or that a mean leaves classes out.
        caution: why the interval is unreliable.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    reason: str | None = None
    caution: str | None = None

    def to_json(self) -> dict[str, float | int | str | None]:
        """The form it has in metrics.json; `reason` and `caution` only where there is one."""
        content: dict[str, float | int | str | None] = {
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "n": self.n,
        }
        words = {"reason": self.reason, "caution": self.caution}
        return content | {key: word for key, word in words.items() if word is not None}


Estimates = dict[Key, Estimate]


def placed(
    estimates: Mapping[Key, Estimate],
    *,
    split: str | None = None,
    section: str | None = None,
    names: tuple[str, ...] = (),
) -> Estimates:
    """The same estimates with a split, or in a section."""
    changes: dict[str, Any] = {} if split is None else {"split": split}
    if section is not None:
        changes |= {"section": section, "names": names}
    return {replace(key, **changes): estimate for key, estimate in estimates.items()}


def selected(
    estimates: Mapping[Key, Estimate], *, split: str, section: str | None = None, names: tuple[str, ...] | None = None
) -> Estimates:
    """The estimates of a split and a section, or of one entry of it."""
    return {
        key: estimate
        for key, estimate in estimates.items()
        if key.split == split and key.section == section and (names is None or key.names == names)
    }


def to_json(estimates: Mapping[Key, Estimate]) -> dict[str, Any]:
    """Nested by split, section, entry, and classes or overall: the content of metrics.json."""
    content: dict[str, Any] = {}
    for key, estimate in estimates.items():
        node = content.setdefault(key.split, {})
        for name in (*((key.section,) if key.section else ()), *key.names):
            node = node.setdefault(name, {})
        of = node.setdefault("classes", {}).setdefault(key.class_name, {}) if key.class_name is not None else None
        target = node.setdefault("overall", {}) if of is None else of
        target[key.metric] = estimate.to_json()
    return content


def from_json(content: Any) -> Estimates:
    """Read what `to_json` wrote.

    Raises:
        DataError: if it is anything else.
    """
    try:
        return dict(_entries(content))
    except (AttributeError, KeyError, TypeError) as error:
        raise DataError(f"metrics of another layout ({type(error).__name__}: {error})") from error


def _entries(content: Mapping[str, Any]) -> Iterable[tuple[Key, Estimate]]:
    for split, parts in content.items():
        yield from _plain(parts, Key("", split=split))
        for section, depth in SECTIONS.items():
            level: list[tuple[tuple[str, ...], Any]] = [((), parts[section])] if section in parts else []
            for _ in range(depth):
                level = [((*names, name), node) for names, outer in level for name, node in outer.items()]
            for names, node in level:
                yield from _plain(node, Key("", section=section, names=names, split=split))


def _plain(node: Mapping[str, Any], key: Key) -> Iterable[tuple[Key, Estimate]]:
    for metric, values in node.get("overall", {}).items():
        yield replace(key, metric=metric), Estimate(**values)
    for class_name, metrics in node.get("classes", {}).items():
        for metric, values in metrics.items():
            yield replace(key, metric=metric, class_name=class_name), Estimate(**values)
