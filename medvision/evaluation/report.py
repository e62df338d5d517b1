"""The report: one HTML file in which a clinician finds the answer first and a reviewer finds the rest."""

import base64
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from jinja2 import Environment
from markupsafe import Markup, escape

from medvision.evaluation import tables, wording
from medvision.evaluation.cautions import PROBES, cautions, context, groups_of_several, headline
from medvision.evaluation.checklist import claim
from medvision.evaluation.curves import confusion
from medvision.evaluation.figures import ROBUSTNESS, STRENGTHS, draw_all
from medvision.evaluation.gallery import Picture
from medvision.evaluation.predictions import Predictions
from medvision.evaluation.sheet import environment
from medvision.evaluation.verdict import Estimate
from medvision.evaluation.wording import METRICS

PICTURE_BYTES = 3_400_000  # of all pictures; in base64 they leave half a megabyte of the page's five to the rest
_TINY = 100  # pixels of width
_FILES = 200  # of the quarantine that are listed
_SECTIONS = {
    "errors": ("Wrong, and most sure of it", "What the model is wrong about with the greatest confidence."),
    "uncertain": ("Most uncertain", "The two most probable classes lie nearest to each other."),
    "typical": ("Typical successes", "Right, and most sure of it; of each class in turn."),
}


def report(
    predictions: Predictions,
    facts: Mapping[str, Any],
    estimates: Mapping[str, Estimate],
    rows: Sequence[Mapping[str, float]],
    pictures: Sequence[Picture],
    part: str = "test",
) -> str:
    """The page; equal input gives equal text.

    Args:
        predictions: of the split that is reported; curves are drawn from them.
        facts: what is known of the run, null (None) where it is not.
        estimates: all of metrics.json. Every measure on the page is one of these, in a `data` element that carries
            its name and all digits.
        rows: of metrics.csv, one for each epoch.
        pictures: of the gallery, in the order in which they are to be shown.
        part: the split, which is how the names of its estimates begin: "test" or "external".
    """
    shown = _affordable(pictures)
    drawn = draw_all(predictions, facts, estimates, rows, part)
    gaps = tables.subgroups(estimates, part, wording.level_text(facts))
    matrix = confusion(predictions.targets, predictions.preds, len(predictions.class_names))
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            facts=dict.fromkeys(tables.FACTS) | dict(facts),
            part=part,
            names=predictions.class_names,
            level=wording.level_text(facts),
            headline=headline(predictions, facts, estimates, part),
            context=context(predictions, facts, estimates, part),
            cautions=cautions(predictions, facts, estimates, part),
            groups=groups_of_several(predictions),
            n=len(predictions.ids),
            key_numbers=_key_numbers(estimates, part),
            flow=_flow(facts),
            reasons=Counter(file["reason"] for file in facts.get("quarantine") or []).most_common(),
            quarantine=(facts.get("quarantine") or [])[:_FILES],
            tables=_tables(predictions, facts, estimates, part),
            per_class=tables.per_class(predictions, estimates, part),
            subgroups=gaps,
            comparisons=sum(math.comb(len(table.rows), 2) * len(tables.SUBGROUP) for _, table in gaps),
            one_in=wording.count(1 / (1 - (facts.get("confidence_level") or 0.95))),
            counts=matrix.counts if len(matrix.counts) <= tables.MANY_CLASSES else None,
            confused=tables.confusions(predictions, matrix),
            figures=drawn,
            learning=[figure for name, figure in drawn.items() if name.startswith("learning-")],
            gallery=[
                (title, text, [p for p in shown if p.section == name]) for name, (title, text) in _SECTIONS.items()
            ],
            pictured=bool(shown),
            left_out=len(pictures) - len(shown),
            uri=_data_uri,
            size=_size_attributes,
            checklist=claim(facts, estimates, part),
        )
    )


@cache
def _environment() -> Environment:
    filled = environment()
    filled.filters |= {"count": wording.count, "number": wording.number, "plural": wording.plural}
    filled.filters |= {"breakable": _breakable, "dimensions": wording.dimensions}
    return filled


def _tables(
    predictions: Predictions, facts: Mapping[str, Any], estimates: Mapping[str, Estimate], part: str
) -> dict[str, tables.Table | None]:
    names = predictions.class_names
    never_seen = {"All images": part, "Never seen": f"{part}_never_seen"}
    calibrated = {"As reported": part, "Before calibration": f"{part}/uncalibrated"}
    coverage = METRICS["coverage"]
    conformal = tables.listing(
        "conformal",
        "Prediction sets on these images.",
        estimates,
        f"{part}/conformal",
        ("coverage", "single", "set_size"),
    )
    probes = tables.Table("probes-table", "Scores of the probes.", ("The model was", "Accuracy", "AUROC"))
    for probe, what in PROBES.items():
        cells = [
            wording.show(name, estimates[name], METRICS[metric]) if name in estimates else None
            for metric in ("accuracy", "auroc")
            for name in [f"{part}/probe/{probe}/{metric}"]
        ]
        if any(cells):
            probes.add(what, cells)
    seen = tables.side_by_side(
        "never-seen", "With and without the images that leaked.", estimates, never_seen, tables.HEADLINE
    )
    return {
        "characteristics": tables.characteristics(predictions, facts, part),
        "headline": tables.listing("headline", f"All {part} images.", estimates, part, tables.HEADLINE),
        "operating_point": tables.listing(
            "operating-point", "At the operating point.", estimates, f"{part}/operating_point", tables.OPERATING_POINT
        ),
        "calibration": tables.side_by_side(
            "calibration-table",
            "Before and after calibration." if facts.get("calibration") else "Probabilities as the model gives them.",
            estimates,
            calibrated if facts.get("calibration") else {"As reported": part},
            tables.CALIBRATION,
        ),
        "conformal": conformal,
        "conformal_classes": tables.prefixed(
            "conformal-classes",
            "Share of the images of each class whose set holds it.",
            "Class",
            estimates,
            f"{part}/conformal/coverage",
            names,
            coverage,
        ),
        "selective": tables.listing(
            "selective", "When only the surest are answered.", estimates, f"{part}/selective", tables.SELECTIVE
        ),
        "never_seen": seen if any(name.startswith(f"{part}_never_seen/") for name in estimates) else None,
        "robustness": _robustness(estimates, part),
        "probes": probes if probes.rows else None,
    }


def _robustness(estimates: Mapping[str, Estimate], part: str) -> tables.Table | None:
    table = tables.Table("robustness-table", "Accuracy at five strengths.", ("Disturbance", *map(str, STRENGTHS)))
    for kind, name in ROBUSTNESS.items():
        keys = [f"{part}/robustness/{kind}/{strength}/accuracy" for strength in STRENGTHS]
        cells = [wording.show(k, estimates[k], METRICS["accuracy"]) if k in estimates else None for k in keys]
        if any(cells):
            table.add(name, cells)
    return table if table.rows else None


def _key_numbers(estimates: Mapping[str, Estimate], part: str) -> list[tuple[str, wording.Shown]]:
    """What stands in large type on the first screen."""
    names = ("accuracy", "balanced_accuracy", "macro/auroc", "ece")
    return [
        (METRICS[name].label, wording.show(f"{part}/{name}", estimates[f"{part}/{name}"], METRICS[name]))
        for name in names
        if f"{part}/{name}" in estimates
    ]


def _flow(facts: Mapping[str, Any]) -> dict[str, Any] | None:
    data = facts.get("data")
    if not data or not data.get("images"):
        return None
    out = {
        "could not be used (quarantine)": data.get("quarantined") or 0,
        "left out because of leaks": data.get("dropped") or 0,
        "set aside by the configuration": data.get("unused") or 0,
    }
    used = dict(data["images"])
    return {"found": sum(out.values()) + sum(used.values()), "out": out, "used": used}


def _affordable(pictures: Sequence[Picture]) -> list[Picture]:
    """As many pictures as the page has room for, the first of each section before the second of any."""
    place: Counter[str] = Counter()
    ranked = []
    for number, picture in enumerate(pictures):
        ranked.append((place[picture.section], number))
        place[picture.section] += 1
    kept, size = [], 0
    for _, number in sorted(ranked):
        size += len(pictures[number].original) + len(pictures[number].overlay or b"")
        if size > PICTURE_BYTES:
            break
        kept.append(number)
    return [pictures[number] for number in sorted(kept)]


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _size_attributes(png: bytes) -> Markup:
    """Width and height of a PNG, which stand in its header; small ones are to be enlarged without blur."""
    width, height = (int.from_bytes(png[start : start + 4], "big") for start in (16, 20))
    return Markup(' width="{}" height="{}"{}').format(width, height, Markup(' class="tiny"' if width < _TINY else ""))


def _breakable(name: str) -> Markup:
    """A name that a narrow column may break where its parts meet."""
    escaped = str(escape(name))
    return Markup(escaped.replace("_", "_<wbr>").replace("/", "/<wbr>"))
