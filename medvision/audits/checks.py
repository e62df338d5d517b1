"""What the audit looks for, and what of it counts as a finding."""

from collections.abc import Sequence
from dataclasses import dataclass

from medvision.audits.near_duplicates import SAME
from medvision.audits.shortcuts import MEMBERSHIP_ALARM, METADATA_ALARM, STANDARD_ERRORS

BALANCE_P = 0.001  # of the chi-square test: not by chance ...
BALANCE_GAP = 0.05  # ... and a class's share differs by more than this between two splits: worth a word


@dataclass(frozen=True)
class Check:
    """One line of the table of what counts as a finding.

    Attributes:
        name: its key in audit.json.
        title: for people.
        counts: what makes it a finding.
        remedy: what to do about it.
    """

    name: str
    title: str
    counts: str
    remedy: str


# The one table of what counts as a finding; the page shows it. The command ends with 3 when any of them counts.
CHECKS = (
    Check("unusable", "Unusable files", "any", "Repair or remove them; training continues without them."),
    Check("across", "Same pixels in two splits", "any", "Training drops the copy in train (data.leakage)."),
    Check("conflicts", "Same pixels, two labels", "any", "Correct the labels."),
    Check("duplicates", "Same pixels within a split", "any", "Remove the copies: they count twice."),
    Check(
        "near",
        "Near duplicates",
        f"any pair close by perceptual hash, mirrored or not, whose pixels correlate by {SAME} (less where alone)",
        "Look at them; put copies into one group, so that one split has them all.",
    ),
    Check("groups", "Groups in several splits", "any", "Split by group; training drops those images from train."),
    Check("constant", "Images of one colour", "any", "Remove them: they show nothing."),
    Check(
        "balance",
        "Class balance differs between splits",
        f"a class is absent, or its share differs by over {BALANCE_GAP:.0%} and chi-square p < {BALANCE_P}",
        "Split by class, or say in the report that the prevalence differs.",
    ),
    Check(
        "metadata",
        "Label predicted by metadata (shortcut)",
        f"AUROC > {METADATA_ALARM} and {STANDARD_ERRORS} standard errors above 0.5; brightness alone is none",
        "Resample, re-encode or crop all classes alike, or collect them alike.",
    ),
    Check(
        "membership",
        "Split predicted by the picture",
        f"AUROC > {MEMBERSHIP_ALARM} and {STANDARD_ERRORS} standard errors above 0.5",
        "The splits come from different places: call the test external, or make new splits.",
    ),
)

# Not in the table: it needs a model, and is made only when asked for.
LABELS = Check(
    "labels",
    "Suspected label errors",
    "any that confident learning picks: models that did not train on the image hold another class for more probable",
    "Look at them, the least plausible first, and correct those that are wrong; label_errors.csv has all. "
    "Where the models agree with few of the labels, most suspects are errors of the models.",
)


@dataclass(frozen=True)
class Example:
    """Pictures that belong together: rows of the table, and what is said of them."""

    rows: tuple[int, ...]
    text: str


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        check: which one.
        count: how many; 0 is clean.
        text: one line.
        examples: all that were found, the worst first.
    """

    check: Check
    count: int
    text: str
    examples: Sequence[Example] = ()
