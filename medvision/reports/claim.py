"""CLAIM 2024, the checklist for AI in medical imaging: filled from the run where possible, the rest for the authors.

The numbers are those of the checklist; the words are ours, and what counts are the original's.

Source: Tejani et al. 2024, doi:10.1148/ryai.240300.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from medvision.metrics.estimates import Estimate, Key
from medvision.reports.wording import count, dimensions, level_text, number, plural

_ITEMS = (
    ("Title and abstract", ("The title names the kind of AI", "Structured summary of the study")),
    ("Introduction", ("Background, intended use and clinical role", "Aims and hypotheses")),
    ("Study design", ("Prospective or retrospective", "Goal of the study")),
    (
        "Data",
        (
            "Sources of the data",
            "Who was included and excluded",
            "Preprocessing",
            "Selection of parts of the data",
            "De-identification",
            "Missing data",
            "How the images were acquired",
        ),
    ),
    (
        "Reference standard",
        (
            "What counts as the truth",
            "Why that was chosen",
            "Who annotated",
            "How the test set was annotated",
            "Agreement of the annotators",
        ),
    ),
    ("Partitions", ("How images were assigned", "Level at which the partitions are disjoint")),
    ("Testing data", ("Intended sample size",)),
    ("Model", ("The model in detail", "Software and versions", "Initial weights")),
    ("Training", ("How it was trained", "How the final model was chosen", "Ensembles")),
    (
        "Evaluation",
        (
            "Measures of performance",
            "Uncertainty and significance",
            "Robustness",
            "Explainability",
            "Test on internal data",
            "Test on external data",
            "Trial registration",
        ),
    ),
    ("Results: data", ("Flow of cases, in and out", "Characteristics of each partition")),
    ("Results: performance", ("Performance with uncertainty", "Diagnostic performance", "Failure analysis")),
    ("Discussion", ("Limitations", "Implications for practice")),
    ("Other", ("Protocol", "Availability of code, model and data", "Funding")),
)


class Item(NamedTuple):
    """One item.

    Attributes:
        number: in CLAIM 2024.
        section: of the manuscript.
        asks: what it asks for, in short.
        answer: what the run knows; None where only the authors do.
    """

    number: int
    section: str
    asks: str
    answer: str | None


def claim(facts: Mapping[str, Any], estimates: Mapping[Key, Estimate], split: str) -> list[Item]:
    """All 44 items in their order."""
    answers = _about_data(facts, split) | _about_model(facts) | _about_results(facts, estimates, split)
    asked = [(section, asks) for section, group in _ITEMS for asks in group]
    return [Item(n, section, asks, answers.get(n)) for n, (section, asks) in enumerate(asked, start=1)]


def _about_data(facts: Mapping[str, Any], split: str) -> dict[int, str]:
    data, model = facts.get("data"), facts.get("model")
    answers = {}
    if model:
        pixels = f"{dimensions(model.get('image_size'))} pixels, {plural(model.get('channels') or 0, 'channel')}"
        answers[9] = (
            f"Decoded to {pixels}, resized by “{model.get('resize')}”; normalised with statistics of the training "
            "images, inside the model."
        )
    if not data:
        return answers
    removed = [f"{count(data.get(key) or 0)} {key}" for key in ("quarantined", "dropped", "unused")]
    answers[8] = f"By file only: {', '.join(removed)}. Clinical criteria are for the authors to add."
    answers[12] = f"{plural(data.get('quarantined') or 0, 'unreadable file')} listed in quarantine.csv; none replaced."
    splits = ", ".join(f"{name} {count(n)}" for name, n in (data.get("images") or {}).items())
    answers[19] = f"{splits}. Who was where is in splits.csv, the rule and its seed in the configuration."
    leakage = data.get("leakage")
    if leakage:
        answers[20] = (
            f"Pixels and, where given, groups were searched for in several partitions; policy “{leakage['policy']}”; "
            f"{plural(leakage.get('test_images_seen', 0), f'{split} image')} shared either with earlier partitions. "
            "See Leakage."
        )
    answers[35] = "See Data: flow of images, with the reasons of each exclusion."
    answers[36] = "Classes in each partition: see Data. Demographic and clinical characteristics are for the authors."
    return answers


def _about_model(facts: Mapping[str, Any]) -> dict[int, str]:
    model, answers = facts.get("model"), {}
    if facts.get("environment"):
        answers[23] = "See Provenance: interpreter, packages and their versions, processor, source revision."
    if facts.get("config"):
        answers[25] = "Every setting is in the configuration, under Provenance; the curves are under Training."
    if model:
        size = f", {plural(model['parameters'], 'parameter')}" if model.get("parameters") is not None else ""
        answers[22] = f"{model.get('name')}{size}; its options are in the configuration."
        if model.get("monitor"):
            answers[26] = f"The epoch with the best {model['monitor']}: epoch {model.get('best_epoch')}."
    if facts.get("seed") is not None:
        answers[24] = f"Seed {facts['seed']}; whether weights were pretrained is in the configuration."
    if facts.get("command"):
        answers[43] = f"To repeat the run: {facts['command']}. Where code, model and data are is for the authors."
    return answers


def _about_results(facts: Mapping[str, Any], estimates: Mapping[Key, Estimate], split: str) -> dict[int, str]:
    answers = {
        28: "See Results: discrimination, calibration, per-class measures and, with an operating point, net benefit.",
        29: f"Intervals of {level_text(facts)} everywhere; {count(facts.get('n_resamples') or 0)} resamples where "
        "the bootstrap was used, by group where there are groups.",
        37: "See Results.",
        38: "See Classes: sensitivity, specificity, PPV, NPV with intervals and n.",
        39: "See Errors: the most frequent confusions, and the most confident errors as pictures.",
    }
    accuracy = estimates.get(Key("accuracy", split=split))
    if accuracy is not None and accuracy.value is not None:
        answers[37] = f"Accuracy {number(accuracy.value, percent=True)} % of {count(accuracy.n)}; see Results."
    if facts.get("robustness") is not None:
        answers[30] = "See Robustness: five disturbances at five strengths."
    if facts.get("cam") is None:
        answers[31] = "Class activation maps, under Errors. They show where, not why, and were not validated here."
    item = 33 if facts.get("kind") == "external test" else 32
    answers[item] = f"This report: {split}, {count(accuracy.n)} images." if accuracy is not None else "This report."
    return answers
