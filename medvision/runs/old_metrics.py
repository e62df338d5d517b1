"""Reads metrics.json as versions before 0.2 wrote it: flat, with names such as test/recall/cat."""

from collections.abc import Mapping
from typing import Any

from medvision.metrics.estimates import SECTIONS, Estimate, Estimates, Key

_SECTIONS = {"subgroup": "subgroups", "subgroup_gap": "subgroup_gaps", "probe": "negative_controls"}
_METRICS = {"recall": "sensitivity", "precision": "ppv"}
_CONTROLS = {"random_labels": "shuffled_labels"}


def from_flat(content: Mapping[str, Mapping[str, Any]]) -> Estimates:
    """The estimates of a flat metrics.json."""
    return {_key(name): Estimate(**values) for name, values in content.items()}


def _key(name: str) -> Key:
    split, _, rest = name.partition("/")
    section = None
    if split.endswith("_never_seen"):
        split, section = split.removesuffix("_never_seen"), "never_seen"
    first, _, inner = rest.partition("/")
    names: tuple[str, ...] = ()
    if (found := _SECTIONS.get(first, first)) in SECTIONS:
        section = found
        *before, rest = inner.split("/", SECTIONS[found])
        names = tuple(_CONTROLS.get(one, one) for one in before)
    metric, _, of = rest.partition("/")
    if metric == "macro":
        return Key(f"macro_{_METRICS.get(of, of)}", None, section, names, split)
    return Key(_METRICS.get(metric, metric), of or None, section, names, split)
