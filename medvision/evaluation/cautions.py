"""What a reader has to know before using the numbers: the headline, and the warnings beside it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from medvision.evaluation.predictions import Predictions
from medvision.evaluation.verdict import Estimate
from medvision.evaluation.wording import METRICS, count, level_text, number, plural, show, with_interval

# Below this the measured coverage of the intervals is not vouched for.
SMALL = 200

PROBES = {
    "random_labels": "trained on shuffled labels",
    "border_only": "shown only the border of the image",
    "masked_centre": "shown the image without its centre",
    "metadata_only": "a forest shown only file size, format and the like",
}


@dataclass(frozen=True)
class Caution:
    """One warning.

    Attributes:
        serious: whether the numbers may not mean what they seem to.
        text: one or two sentences.
        anchor: id of the section that says more.
    """

    serious: bool
    text: str
    anchor: str


def headline(predictions: Predictions, facts: Mapping[str, Any], estimates: Mapping[str, Estimate], part: str) -> str:
    """The result in a sentence that needs no statistics."""
    accuracy = estimates.get(f"{part}/accuracy")
    images = plural(len(predictions.ids), f"{part} image")
    if accuracy is None or accuracy.value is None:
        return f"The model was shown {images}; how many it named is not known."
    shown = show("", accuracy, METRICS["accuracy"])
    return (
        f"Of {images} the model correctly named the class of {count(round(accuracy.value * accuracy.n))} "
        f"({shown.value}, {level_text(facts)} interval {shown.interval})."
    )


def context(
    predictions: Predictions, facts: Mapping[str, Any], estimates: Mapping[str, Estimate], part: str
) -> list[str]:
    """What the headline is to be compared with, a sentence each."""
    names, level = predictions.class_names, level_text(facts)
    sizes = np.bincount(predictions.targets, minlength=len(names))
    most = int(sizes.argmax())
    rank = "the most frequent class" if (sizes == sizes.max()).sum() == 1 else "no class being more frequent"
    sentences = [f"Always answering “{names[most]}”, {rank}, would have been right for {count(sizes[most])}."]
    recalls = {name: estimates.get(f"{part}/recall/{name}") for name in names}
    known = {name: e for name, e in recalls.items() if e is not None and e.value is not None}
    if len(names) == 2:
        for name, e in known.items():
            found = count(round((e.value or 0) * e.n))
            share = with_interval(e, METRICS["recall"], level)
            sentences.append(f"Of {count(e.n)} images of “{name}” it recognised {found}: {share}.")
    elif len(known) > 1:
        best, worst = (rule(known, key=lambda name: known[name].value or 0) for rule in (max, min))
        sentences.append(
            f"It recognised “{best}” best, {with_interval(known[best], METRICS['recall'], level)}, "
            f"and “{worst}” least, {with_interval(known[worst], METRICS['recall'], level)}."
        )
    return sentences


def groups_of_several(predictions: Predictions) -> int:
    """How many groups there are, if any holds several images; 0 where each image stands alone."""
    named = predictions.groups[predictions.groups != ""]
    groups = len(set(named.tolist()))
    return groups if groups < len(named) else 0


def cautions(
    predictions: Predictions, facts: Mapping[str, Any], estimates: Mapping[str, Estimate], part: str
) -> list[Caution]:
    """All warnings, the serious ones first."""
    found = [
        *_leaks(facts, estimates, part),
        *_labels(facts),
        *_probes(estimates, part),
        *_calibration(facts, estimates, part),
        *_coverage(facts, estimates, part),
        *_size(predictions, estimates, part),
        *_provenance(predictions, facts),
    ]
    return sorted(found, key=lambda one: not one.serious)


def _leaks(facts: Mapping[str, Any], estimates: Mapping[str, Estimate], part: str) -> list[Caution]:
    data = facts.get("data") or {}
    leakage = data.get("leakage")
    if leakage is None:
        return [
            Caution(True, f"Whether {part} images were also trained on is not known: no search is recorded.", "leaks")
        ]
    seen = leakage.get("test_images_seen", 0)
    if not seen:
        return []
    shared = (
        f"{plural(seen, f'{part} image')} {'shares' if seen == 1 else 'share'} pixels or a group with training data"
    )
    if leakage.get("policy") == "drop":
        text = f"{shared}; those training images were left out, so that the model has not seen them."
        return [Caution(False, text, "leaks")]
    without = estimates.get(f"{part}_never_seen/accuracy")
    clean = f" Without them accuracy is {_percent(without)}." if without is not None else ""
    return [Caution(True, f"{shared}, and nothing was done about it. The results are too good.{clean}", "leaks")]


def _labels(facts: Mapping[str, Any]) -> list[Caution]:
    data = facts.get("data") or {}
    found = []
    if conflicts := (data.get("leakage") or {}).get("label_conflicts", 0):
        text = f"{plural(conflicts, 'picture')} {'bears' if conflicts == 1 else 'bear'} several labels."
        found.append(Caution(False, text, "data"))
    if blank := data.get("one_coloured") or 0:
        text = f"{plural(blank, 'image')} {'shows' if blank == 1 else 'show'} one colour only."
        found.append(Caution(False, text, "data"))
    return found


def _probes(estimates: Mapping[str, Estimate], part: str) -> list[Caution]:
    found = []
    for probe, shown in PROBES.items():
        e = estimates.get(f"{part}/probe/{probe}/auroc")
        if e is not None and e.value is not None and e.low is not None and e.low > 0.5:
            level = f"AUROC {number(e.value)}, where guessing gives 0.5"
            text = f"A model {shown} scores above chance ({level}): part of the result may not come from the anatomy."
            # Shuffled labels leave nothing to learn; a border may rightly follow what the picture shows.
            if probe == "random_labels":
                text = f"A model {shown} scores above chance ({level}): test images are likely to have leaked."
            elif probe == "metadata_only":
                text = f"The label can be told without the picture: {shown} scores above chance ({level})."
            serious = probe in ("random_labels", "metadata_only")
            found.append(Caution(serious, text, "probes"))
    return found


def _calibration(facts: Mapping[str, Any], estimates: Mapping[str, Estimate], part: str) -> list[Caution]:
    if facts.get("calibration") is None:
        return [Caution(False, "The probabilities were not calibrated: 90 % need not mean nine in ten.", "calibration")]
    found = []
    if _worse(estimates, part):
        text = "Calibration made the probabilities worse on these images: its own were too few, or of another kind."
        found.append(Caution(True, text, "calibration"))
    if facts["calibration"]["split"] == "val":
        text = "The images that calibrated it also chose the epoch: there were too few to set some apart."
        found.append(Caution(False, text, "calibration"))
    slope = estimates.get(f"{part}/calibration_slope")
    if slope is not None and slope.low is not None and slope.high is not None and not slope.low <= 1 <= slope.high:
        tendency = "too sure of itself" if slope.high < 1 else "right more often than it says"
        found.append(Caution(False, f"Even after calibration the model is {tendency} on these images.", "calibration"))
    return found


def _worse(estimates: Mapping[str, Estimate], part: str) -> bool:
    """Whether calibration made the probabilities worse on these images."""
    losses = [estimates.get(f"{part}/{name}") for name in ("log_loss", "uncalibrated/log_loss")]
    after, before = (None if loss is None else loss.value for loss in losses)
    return after is not None and before is not None and after > before + 0.005


def _coverage(facts: Mapping[str, Any], estimates: Mapping[str, Estimate], part: str) -> list[Caution]:
    coverage, sets = estimates.get(f"{part}/conformal/coverage"), facts.get("conformal")
    if sets is None or coverage is None or coverage.high is None or coverage.high >= sets["coverage"]:
        return []
    text = (
        f"The prediction sets hold the class of {_percent(coverage)} of images instead of the "
        f"{number(sets['coverage'], percent=True)}\u00a0% they were made for: these images differ from those that the "
        "sets were fixed on."
    )
    return [Caution(True, text, "abstention")]


def _size(predictions: Predictions, estimates: Mapping[str, Estimate], part: str) -> list[Caution]:
    found, n = [], len(predictions.ids)
    if n < SMALL:
        text = f"Only {plural(n, 'image')}: intervals are wide, and below {SMALL} they may cover less than they say."
        found.append(Caution(True, text, "results"))
    own = {name: e for name, e in estimates.items() if name.startswith(f"{part}/")}
    marked = sum(bool(getattr(e, "caution", None)) for e in own.values())
    if marked:
        text = f"{plural(marked, 'interval')} of {count(len(own))} must be taken with care; they carry a mark."
        found.append(Caution(False, text, "results"))
    undefined = sum(e.value is None for e in own.values())
    if undefined:
        text = f"{plural(undefined, 'number')} cannot be computed from these images; the tables say why."
        found.append(Caution(False, text, "results"))
    return found


def _provenance(predictions: Predictions, facts: Mapping[str, Any]) -> list[Caution]:
    found = []
    if not groups_of_several(predictions):
        text = (
            "No two of these images are known to be of the same patient. If some are, the intervals are too narrow, "
            "and a patient may be on both sides of the split."
        )
        found.append(Caution(False, text, "data"))
    if facts.get("kind") == "internal test":
        text = "An internal test, on data of the same source: performance elsewhere may be lower."
        found.append(Caution(False, text, "data"))
    return found


def _percent(estimate: Estimate) -> str:
    return show("", estimate, METRICS["accuracy"]).value
