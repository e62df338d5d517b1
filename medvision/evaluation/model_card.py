"""The model card: what a trained model is, how good it is and what it must not be used for, as Markdown."""

import re
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from medvision.evaluation import wording
from medvision.evaluation.tables import EXTREMES, FACTS, HEADLINE
from medvision.evaluation.verdict import Estimate
from medvision.evaluation.wording import METRICS

_CLASSES = 2 * EXTREMES  # that are listed; the report has all
_MARKUP = re.compile(r"([\\`*_\[\]|~$<>&#])")


def model_card(facts: Mapping[str, Any], estimates: Mapping[str, Estimate]) -> str:
    """The card for the README.md of a bundle; equal input gives equal text.

    Args:
        facts: as for `medvision.evaluation.report.report`.
        estimates: all of metrics.json; those of "external" are shown if the facts are of an external test, else those
            of "test".
    """
    facts = dict.fromkeys(FACTS) | dict(facts)
    part = "external" if facts["kind"] == "external test" else "test"
    data = facts["data"] or {}
    names = data.get("class_names") or _classes(estimates, part)
    overall = [
        (METRICS[name].label, wording.show(name, estimates[f"{part}/{name}"], METRICS[name]))
        for name in (*HEADLINE, "ece", "brier")
        if f"{part}/{name}" in estimates
    ]
    classes = [
        (name, wording.count(estimates[f"{part}/recall/{name}"].n), _cells(estimates, part, name))
        for name in names
        if f"{part}/recall/{name}" in estimates
    ]
    environment = Environment(
        loader=PackageLoader("medvision.evaluation", "."),
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
        part=part,
        kind=(facts["kind"] or f"{part} test").capitalize(),
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


def _classes(estimates: Mapping[str, Estimate], part: str) -> list[str]:
    prefix = f"{part}/recall/"
    return [name.removeprefix(prefix) for name in estimates if name.startswith(prefix)]


def _cells(estimates: Mapping[str, Estimate], part: str, name: str) -> list[wording.Shown | None]:
    keys = [(metric, f"{part}/{metric}/{name}") for metric in ("recall", "specificity", "auroc")]
    return [wording.show(key, estimates[key], METRICS[metric]) if key in estimates else None for metric, key in keys]


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
