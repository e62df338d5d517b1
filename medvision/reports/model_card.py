"""The model card: what a trained model is, how good it is and what it must not be used for, as Markdown."""

import re
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from medvision.metrics.definitions import METRICS, section
from medvision.metrics.estimates import Estimate, Key
from medvision.reports import wording
from medvision.reports.tables import EXTREMES, FACTS

_CLASSES = 2 * EXTREMES  # that are listed; the report has all
_MARKUP = re.compile(r"([\\`*_\[\]|~$<>&#])")


def model_card(facts: Mapping[str, Any], estimates: Mapping[Key, Estimate]) -> str:
    """The card for the README.md of a bundle; equal input gives equal text.

    Args:
        facts: as for `medvision.reports.report.report`.
        estimates: all of metrics.json; those of "external" are shown if the facts are of an external test, else those
            of "test".
    """
    facts = dict.fromkeys(FACTS) | dict(facts)
    split = "external" if facts["kind"] == "external test" else "test"
    data = facts["data"] or {}
    names = data.get("class_names") or _classes(estimates, split)
    overall = [
        (METRICS[name].label, cell)
        for name in (*section("results"), "ece", "brier")
        if (cell := wording.shown(estimates, Key(name, split=split))) is not None
    ]
    classes = [
        (name, wording.count(estimates[key].n), _cells(estimates, split, name))
        for name in names
        if (key := Key("sensitivity", name, split=split)) in estimates
    ]
    environment = Environment(
        loader=PackageLoader("medvision.reports", "templates"),
        autoescape=False,  # Markdown has other marks than HTML; every value from outside passes through `md`
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"md": _escaped, "number": wording.number}
    remarks = {f"{label}: {remark}" for label, shown in overall for remark in shown.remarks}
    text = environment.get_template("model_card.md.j2").render(
        facts=facts,
        split=split,
        kind=(facts["kind"] or f"{split} test").capitalize(),
        names=names,
        level=wording.level_text(facts),
        model=_described(facts["model"] or {}),
        overall=overall,
        classes=classes[:_CLASSES],
        more=len(classes) - _CLASSES if len(classes) > _CLASSES else 0,
        remarks=sorted(remarks),
        images=", ".join(f"{wording.count(n)} {split}" for split, n in (data.get("images") or {}).items()),
        command=" ".join((facts["command"] or "").split()),
        version=((facts["environment"] or {}).get("versions") or {}).get("medvision"),
    )
    # Blocks that were left out leave blank lines behind.
    return re.sub(r"\n{3,}", "\n\n", text)


def _classes(estimates: Mapping[Key, Estimate], split: str) -> list[str]:
    found = (key for key in estimates if key.split == split and key.section is None and key.class_name is not None)
    return list(dict.fromkeys(str(key.class_name) for key in found))


def _cells(estimates: Mapping[Key, Estimate], split: str, name: str) -> list[wording.Shown | None]:
    metrics = ("sensitivity", "specificity", "auroc")
    return [wording.shown(estimates, Key(metric, name, split=split)) for metric in metrics]


def _described(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    labels = {
        "name": "Network",
        "parameters": "Parameters",
        "image_size": "Image size, pixels",
        "channels": "Channels",
        "resize": "Resized by",
        "augmentation": "Augmentation",
        "views": "Views averaged",
        "optimizer": "Optimizer",
        "precision": "Precision",
        "epochs": "Epochs",
        "best_epoch": "Best epoch",
        "monitor": "Chosen by",
    }
    described = []
    for key, label in labels.items():
        value = model.get(key)
        if value is not None:
            described.append((label, wording.count(value) if key == "parameters" else wording.dimensions(value)))
    return described


def _escaped(value: Any) -> str:
    """A value as plain text in Markdown, HTML in it included: names come from strangers."""
    return _MARKUP.sub(r"\\\1", " ".join(str(value).split())).replace("\\<", "&lt;").replace("\\>", "&gt;")
