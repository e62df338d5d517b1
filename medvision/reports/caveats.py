"""What a reader has to know before using the numbers: the headline, and the caveats beside it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from medvision.metrics.definitions import METRICS
from medvision.metrics.estimates import Estimate, Key
from medvision.metrics.predictions import Predictions
from medvision.reports.wording import count, level_text, number, plural, show, with_interval

# Below this the measured coverage of the intervals is not guaranteed.
SMALL = 200

# Negative controls: what the model was given instead of the image.
CONTROLS = {
    "shuffled_labels": "trained on shuffled labels",
    "border_only": "given only the border of the image",
    "masked_centre": "given the image without its centre",
    "metadata_only": "a random forest given only file size, format and the like",
}


@dataclass(frozen=True)
class Caveat:
    """One warning.

    Attributes:
        serious: whether the numbers may not mean what they seem to.
        text: one or two sentences.
        anchor: id of the section that says more.
    """

    serious: bool
    text: str
    anchor: str


def headline(predictions: Predictions, facts: Mapping[str, Any], estimates: Mapping[Key, Estimate], split: str) -> str:
    """The result in a sentence that needs no statistics."""
    accuracy = estimates.get(Key("accuracy", split=split))
    images = plural(len(predictions.ids), f"{split} image")
    if accuracy is None or accuracy.value is None:
        return f"The model was evaluated on {images}; its accuracy is not known."
    text = show(Key("accuracy"), accuracy)
    return (
        f"The model classified {count(round(accuracy.value * accuracy.n))} of {images} correctly "
        f"({text.value}, {level_text(facts)} interval {text.interval})."
    )


def context(
    predictions: Predictions, facts: Mapping[str, Any], estimates: Mapping[Key, Estimate], split: str
) -> list[str]:
    """What the headline is to be compared with, a sentence each."""
    names, level = predictions.class_names, level_text(facts)
    sizes = np.bincount(predictions.targets, minlength=len(names))
    most = int(sizes.argmax())
    sentences = [
        f"A trivial model that always answers “{names[most]}” would be right for {count(sizes[most])} of "
        f"{count(len(predictions.ids))}."
    ]
    metric = METRICS["sensitivity"]
    sensitivities = {name: estimates.get(Key("sensitivity", name, split=split)) for name in names}
    known = {name: e for name, e in sensitivities.items() if e is not None and e.value is not None}
    if len(names) == 2:
        for name, e in known.items():
            right = count(round((e.value or 0) * e.n))
            share = with_interval(e, metric, level)
            sentences.append(f"Of {count(e.n)} images of “{name}” it recognised {right}: {share}.")
    elif len(known) > 1:
        best, worst = (rule(known, key=lambda name: known[name].value or 0) for rule in (max, min))
        sentences.append(
            f"Sensitivity is highest for “{best}”, {with_interval(known[best], metric, level)}, "
            f"and lowest for “{worst}”, {with_interval(known[worst], metric, level)}."
        )
    return sentences


def groups_of_several(predictions: Predictions) -> int:
    """How many groups there are, if any has several images; 0 where each image stands alone."""
    named = predictions.groups[predictions.groups != ""]
    groups = len(set(named.tolist()))
    return groups if groups < len(named) else 0


def caveats(
    predictions: Predictions, facts: Mapping[str, Any], estimates: Mapping[Key, Estimate], split: str
) -> list[Caveat]:
    """All caveats, the serious ones first."""
    found = [
        *_leakage(facts, estimates, split),
        *_labels(facts),
        *_controls(estimates, split),
        *_calibration(facts, estimates, split),
        *_coverage(facts, estimates, split),
        *_size(predictions, estimates, split),
        *_provenance(predictions, facts),
    ]
    return sorted(found, key=lambda one: not one.serious)


def _leakage(facts: Mapping[str, Any], estimates: Mapping[Key, Estimate], split: str) -> list[Caveat]:
    data = facts.get("data") or {}
    leakage = data.get("leakage")
    if leakage is None:
        text = f"Whether the model was also trained on {split} images is not known: no search for leakage is recorded."
        return [Caveat(True, text, "leakage")]
    seen = leakage.get("test_images_seen", 0)
    if not seen:
        return []
    shared = (
        f"{plural(seen, f'{split} image')} {'shares' if seen == 1 else 'share'} pixels or a group with training data"
    )
    if leakage.get("policy") == "drop":
        return [Caveat(False, f"{shared}; those training images were left out of training.", "leakage")]
    without = estimates.get(Key("accuracy", section="never_seen", split=split))
    clean = f" Without them accuracy is {_percent(without)}." if without is not None else ""
    return [Caveat(True, f"Leakage: {shared}, and they were kept. The results are too good.{clean}", "leakage")]


def _labels(facts: Mapping[str, Any]) -> list[Caveat]:
    data = facts.get("data") or {}
    found = []
    if conflicts := (data.get("leakage") or {}).get("label_conflicts", 0):
        text = f"{plural(conflicts, 'image')} {'has' if conflicts == 1 else 'have'} copies with another label."
        found.append(Caveat(False, text, "data"))
    if blank := data.get("one_coloured") or 0:
        text = f"{plural(blank, 'image')} {'shows' if blank == 1 else 'show'} a single colour."
        found.append(Caveat(False, text, "data"))
    return found


def _controls(estimates: Mapping[Key, Estimate], split: str) -> list[Caveat]:
    found = []
    for control, given in CONTROLS.items():
        e = estimates.get(Key("macro_auroc", section="negative_controls", names=(control,), split=split))
        if e is not None and e.value is not None and e.low is not None and e.low > 0.5:
            level = f"AUROC {number(e.value)}, where chance is 0.5"
            text = f"A model {given} scores above chance ({level}): part of the result may not come from the anatomy."
            # Shuffled labels leave nothing to learn; a border may rightly follow what the image shows.
            if control == "shuffled_labels":
                text = f"A model {given} scores above chance ({level}): test images may have leaked into training."
            elif control == "metadata_only":
                text = f"File properties alone predict the class (shortcut): {given} scores {level}."
            serious = control in ("shuffled_labels", "metadata_only")
            found.append(Caveat(serious, text, "controls"))
    return found


def _calibration(facts: Mapping[str, Any], estimates: Mapping[Key, Estimate], split: str) -> list[Caveat]:
    if facts.get("calibration") is None:
        text = "The probabilities are not calibrated: 90 % need not mean nine in ten."
        return [Caveat(False, text, "calibration")]
    found = []
    if _worse(estimates, split):
        text = "Calibration made the probabilities worse on these images: too few calibration images, or another kind."
        found.append(Caveat(True, text, "calibration"))
    if facts["calibration"]["split"] == "val":
        text = "Calibration used the images that also chose the epoch: there were too few to set some apart."
        found.append(Caveat(False, text, "calibration"))
    slope = estimates.get(Key("calibration_slope", split=split))
    if slope is not None and slope.low is not None and slope.high is not None and not slope.low <= 1 <= slope.high:
        tendency = "overconfident" if slope.high < 1 else "underconfident"
        found.append(Caveat(False, f"After calibration the model is still {tendency} on these images.", "calibration"))
    return found


def _worse(estimates: Mapping[Key, Estimate], split: str) -> bool:
    """Whether calibration made the probabilities worse on these images."""
    losses = [estimates.get(Key("log_loss", section=section, split=split)) for section in (None, "uncalibrated")]
    after, before = (None if loss is None else loss.value for loss in losses)
    return after is not None and before is not None and after > before + 0.005


def _coverage(facts: Mapping[str, Any], estimates: Mapping[Key, Estimate], split: str) -> list[Caveat]:
    coverage = estimates.get(Key("coverage", section="conformal", split=split))
    sets = facts.get("conformal")
    if sets is None or coverage is None or coverage.high is None or coverage.high >= sets["coverage"]:
        return []
    text = (
        f"Prediction sets contain the true class of {_percent(coverage)} of these images instead of the stated "
        f"{number(sets['coverage'], percent=True)}\u00a0%: these images differ from the calibration images."
    )
    return [Caveat(True, text, "abstention")]


def _size(predictions: Predictions, estimates: Mapping[Key, Estimate], split: str) -> list[Caveat]:
    found, n = [], len(predictions.ids)
    if n < SMALL:
        text = f"Only {plural(n, 'image')}: intervals are wide, and below {SMALL} images they may be too narrow still."
        found.append(Caveat(True, text, "results"))
    own = [e for key, e in estimates.items() if key.split == split]
    if marked := sum(e.caution is not None for e in own):
        text = f"{count(marked)} of {plural(len(own), 'interval')} are unreliable (small numbers) and marked."
        if marked == 1:
            text = f"1 of {plural(len(own), 'interval')} is unreliable (small numbers) and marked."
        found.append(Caveat(False, text, "results"))
    if undefined := sum(e.value is None for e in own):
        text = f"{plural(undefined, 'number')} cannot be computed from these images; the tables say why."
        found.append(Caveat(False, text, "results"))
    return found


def _provenance(predictions: Predictions, facts: Mapping[str, Any]) -> list[Caveat]:
    found = []
    if not groups_of_several(predictions):
        text = (
            "No two of these images are known to be of the same patient. If some are, the intervals are too narrow, "
            "and a patient may be on both sides of the split."
        )
        found.append(Caveat(False, text, "data"))
    if facts.get("kind") == "internal test":
        text = "An internal test, on data of the same source: performance elsewhere may be lower."
        found.append(Caveat(False, text, "data"))
    return found


def _percent(estimate: Estimate) -> str:
    return show(Key("accuracy"), estimate).value
