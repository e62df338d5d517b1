"""The report of a run as one HTML file: the answer first for a clinician, everything else for a reviewer."""

import base64
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from jinja2 import Environment
from markupsafe import Markup, escape

from medvision.metrics.curves import confusion
from medvision.metrics.definitions import METRICS, section
from medvision.metrics.estimates import Estimate, Key, selected
from medvision.metrics.predictions import Predictions
from medvision.reports import tables, wording
from medvision.reports.caveats import CONTROLS, caveats, context, groups_of_several, headline
from medvision.reports.claim import claim
from medvision.reports.figures import ROBUSTNESS, STRENGTHS, draw_all
from medvision.reports.gallery import Picture
from medvision.reports.pages import environment

PICTURE_BYTES = 3_400_000  # of all pictures; in base64 they leave half a megabyte of the page's five to the rest
_TINY = 100  # pixels of width
_FILES = 200  # of the quarantine that are listed
_KEY_NUMBERS = ("accuracy", "balanced_accuracy", "macro_auroc", "ece")
_SECTIONS = {
    "errors": ("Confident errors", "Wrong predictions, the most confident first."),
    "uncertain": ("Uncertain", "The two most probable classes are nearest to each other."),
    "typical": ("Typical successes", "Correct predictions, the most confident first, each class in turn."),
}


def report(
    predictions: Predictions,
    facts: Mapping[str, Any],
    estimates: Mapping[Key, Estimate],
    rows: Sequence[Mapping[str, float]],
    pictures: Sequence[Picture],
    split: str = "test",
) -> str:
    """The page; equal input gives equal text.

    Args:
        predictions: of the split that is reported; curves are drawn from them.
        facts: what is known of the run; see `medvision.reports.tables.FACTS`.
        estimates: all of metrics.json. Every metric on the page is one of these, in a `data` element with its name
            and all digits.
        rows: of metrics.csv, one for each epoch.
        pictures: of the gallery, in the order in which they are shown.
        split: that is reported: "test" or "external".
    """
    affordable = _affordable(pictures)
    drawn = draw_all(predictions, facts, estimates, rows, split)
    gaps = tables.subgroups(estimates, split, wording.level_text(facts))
    matrix = confusion(predictions.targets, predictions.preds, len(predictions.class_names))
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            facts=dict.fromkeys(tables.FACTS) | dict(facts),
            part=split,
            question=wording.question(predictions.task),
            names=predictions.class_names,
            level=wording.level_text(facts),
            headline=headline(predictions, facts, estimates, split),
            context=context(predictions, facts, estimates, split),
            caveats=caveats(predictions, facts, estimates, split),
            groups=groups_of_several(predictions),
            n=len(predictions.ids),
            key_numbers=_key_numbers(estimates, split),
            flow=_flow(facts),
            reasons=Counter(file["reason"] for file in facts.get("quarantine") or []).most_common(),
            quarantine=(facts.get("quarantine") or [])[:_FILES],
            tables=_tables(predictions, facts, estimates, split),
            per_class=tables.per_class(predictions, estimates, split),
            subgroups=gaps,
            comparisons=sum(math.comb(len(table.rows), 2) * len(tables.SUBGROUP) for _, table in gaps),
            one_in=wording.count(1 / (1 - (facts.get("confidence_level") or 0.95))),
            counts=matrix.counts if len(matrix.counts) <= tables.MANY_CLASSES else None,
            confused=tables.confusions(predictions, matrix),
            figures=drawn,
            learning=[figure for name, figure in drawn.items() if name.startswith("learning-")],
            gallery=[
                (title, text, [one for one in affordable if one.section == name])
                for name, (title, text) in _SECTIONS.items()
            ],
            pictured=bool(affordable),
            left_out=len(pictures) - len(affordable),
            uri=_data_uri,
            size=_size_attributes,
            checklist=claim(facts, estimates, split),
        )
    )


@cache
def _environment() -> Environment:
    filled = environment()
    filled.filters |= {"count": wording.count, "number": wording.number, "plural": wording.plural}
    filled.filters |= {"breakable": _breakable, "dimensions": wording.dimensions}
    return filled


def _tables(
    predictions: Predictions, facts: Mapping[str, Any], estimates: Mapping[Key, Estimate], split: str
) -> dict[str, tables.Table | None]:
    def of(section: str | None = None, *names: str) -> Key:
        return Key("", section=section, names=names, split=split)

    calibrated = facts.get("calibration") is not None
    reported, before = {"As reported": of()}, {"Before calibration": of("uncalibrated")}
    coverages = {name: Key("coverage", name, "conformal", split=split) for name in predictions.class_names}
    return {
        "characteristics": tables.characteristics(predictions, facts, split),
        "headline": tables.listing("headline", f"All {split} images.", estimates, section("results"), of()),
        "operating_point": tables.listing(
            "operating-point", "At the operating point.", estimates, tables.OPERATING_POINT, of("operating_point")
        ),
        "calibration": tables.side_by_side(
            "calibration-table",
            "Before and after calibration." if calibrated else "Probabilities as the model gives them.",
            estimates,
            section("calibration"),
            reported | before if calibrated else reported,
        ),
        "conformal": tables.listing(
            "conformal",
            "Prediction sets on these images.",
            estimates,
            ("coverage", "single", "set_size"),
            of("conformal"),
        ),
        "conformal_classes": tables.by_name(
            "conformal-classes",
            "Share of the images of each class whose set contains it.",
            "Class",
            estimates,
            coverages,
        ),
        "selective": tables.listing(
            "selective", "Answering only when confident.", estimates, tables.SELECTIVE, of("selective")
        ),
        "never_seen": tables.side_by_side(
            "never-seen",
            "With and without the images that leaked.",
            estimates,
            section("results"),
            {"All images": of(), "Never seen": of("never_seen")},
        )
        if selected(estimates, split=split, section="never_seen")
        else None,
        "robustness": _robustness(estimates, split),
        "controls": _controls(estimates, split),
    }


def _controls(estimates: Mapping[Key, Estimate], split: str) -> tables.Table | None:
    table = tables.Table("controls-table", "Scores of the negative controls.", ("The model was", "Accuracy", "AUROC"))
    for control, given in CONTROLS.items():
        cells = [
            wording.shown(estimates, Key(metric, section="negative_controls", names=(control,), split=split))
            for metric in ("accuracy", "macro_auroc")
        ]
        if any(cells):
            table.add(given, cells)
    return table if table.rows else None


def _robustness(estimates: Mapping[Key, Estimate], split: str) -> tables.Table | None:
    table = tables.Table("robustness-table", "Accuracy at five strengths.", ("Corruption", *map(str, STRENGTHS)))
    for kind, name in ROBUSTNESS.items():
        keys = [Key("accuracy", section="robustness", names=(kind, str(one)), split=split) for one in STRENGTHS]
        cells = [wording.shown(estimates, key) for key in keys]
        if any(cells):
            table.add(name, cells)
    return table if table.rows else None


def _key_numbers(estimates: Mapping[Key, Estimate], split: str) -> list[tuple[str, wording.Shown]]:
    """The numbers in large type on the first screen."""
    found = ((name, wording.shown(estimates, Key(name, split=split))) for name in _KEY_NUMBERS)
    return [(METRICS[name].label, text) for name, text in found if text is not None]


def _flow(facts: Mapping[str, Any]) -> dict[str, Any] | None:
    data = facts.get("data")
    if not data or not data.get("images"):
        return None
    out = {
        "unusable (quarantine)": data.get("quarantined") or 0,
        "left out because of leakage": data.get("dropped") or 0,
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
