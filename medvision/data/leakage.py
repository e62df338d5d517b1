"""What must not be: the same pixels in two splits or with two labels, and groups that lie in several splits."""

import dataclasses
import hashlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from medvision.data.table import SPLITS, ImageTable
from medvision.errors import DataError

log = logging.getLogger(__name__)

Leakage = Literal["drop", "error", "keep"]
LEAKAGE_POLICIES: tuple[str, ...] = get_args(Leakage)

# Knowledge flows from a split to the ones after it: what is trained on must not validate, neither of them may test.
_RANK = {split: rank for rank, split in enumerate(SPLITS)}
_NAMED = 3  # examples in a message


@dataclass(frozen=True, eq=False)
class Findings:
    """What `inspect` found; rows are positions in `table`, and images set aside have no part in it.

    Attributes:
        table: the images that were inspected.
        duplicates: each set of two or more rows with the same pixels.
        conflicts: those of them whose labels differ.
        across: rows of train whose pixels also are in val or test, and rows of val whose pixels also are in test.
        copied: rows of test whose pixels also are in train or val.
        identical: those of them whose whole file is there too, byte for byte; the others were saved once more.
        groups: groups that lie in several splits.
        divided: rows of train that share a group with val or test, and rows of val that share one with test.
        seen: rows of test that share pixels or a group with train or val.
    """

    table: ImageTable
    duplicates: list[tuple[int, ...]]
    conflicts: list[tuple[int, ...]]
    across: NDArray[np.intp]
    copied: NDArray[np.intp]
    identical: NDArray[np.intp]
    groups: list[str]
    divided: NDArray[np.intp]
    seen: NDArray[np.intp]

    @property
    def facts(self) -> dict[str, int]:
        """How many of each, for run.json."""
        return {
            "duplicate_images": sum(len(rows) - 1 for rows in self.duplicates),
            "test_images_copied_in_train_or_val": len(self.copied),
            "test_files_identical_in_train_or_val": len(self.identical),
            "copies_of_later_splits": len(self.across),
            "label_conflicts": len(self.conflicts),
            "groups_in_several_splits": len(self.groups),
            "images_of_those_groups": len(self.divided),
            "test_images_seen": len(self.seen),
        }

    def summary(self) -> list[str]:
        """One line for each kind of finding that must not be, with examples; empty when there is none."""
        lines = []
        split = self.table.splits
        if len(self.across):
            parts = [
                f"{len(rows)} in {part}" for part in SPLITS[:-1] if len(rows := self.across[split[self.across] == part])
            ]
            files = f" ({len(self.identical)} of them in identical files)" if len(self.identical) else ""
            lines.append(
                f"{len(self.copied)} of {int((split == 'test').sum())} test images have the same pixels as images that "
                f"are trained or validated on{files}; copies of later splits: "
                f"{', '.join(parts)} ({_some(self.table.ids[self.across])})"
            )
        if self.groups:
            lines.append(
                f"{len(self.groups)} group(s) lie in several splits, with {len(self.divided)} images before the last "
                f"({_some(self.groups)})"
            )
        if self.conflicts:
            examples = [" = ".join(self.table.ids[list(rows[:2])]) for rows in self.conflicts]
            lines.append(f"{len(self.conflicts)} picture(s) bear several labels ({_some(examples)})")
        return lines


def pixel_hashes(chunks: Iterable[NDArray[np.uint8]]) -> NDArray[np.void]:
    """Pixel hashes: half a SHA-256 of each image's pixels.

    Args:
        chunks: (n, C, H, W) uint8 each, all images in order.

    Returns:
        (N,) of 16 bytes each (dtype V16), equal exactly where pixels are.
    """
    digests = (hashlib.sha256(image).digest()[:16] for chunk in chunks for image in np.ascontiguousarray(chunk))
    return np.frombuffer(b"".join(digests), "V16")


def inspect(table: ImageTable, hashes: NDArray[np.void]) -> Findings:
    """Look for shared pixels, contradictory labels and divided groups.

    Args:
        table: N images; without splits they count as all train.
        hashes: (N,) of `pixel_hashes`.
    """
    split = table.splits
    rows = np.flatnonzero(np.isin(split, SPLITS))
    rank = np.array([_RANK[name] for name in split[rows].tolist()], np.intp)
    pixels = np.unique(hashes[rows], return_inverse=True)[1]
    duplicates = [tuple(rows[places].tolist()) for places in _repeated(pixels)]
    labels = table.labels
    copies, copied = _leaks(pixels, rank)
    divided = seen = np.zeros(len(rows), np.bool_)
    groups: list[str] = []
    if "group" in table.frame:
        names, code = np.unique(table.groups[rows], return_inverse=True)
        divided, seen = _leaks(code, rank)
        groups = names[np.unique(code[divided])].tolist()
    return Findings(
        table=table,
        duplicates=duplicates,
        conflicts=[same for same in duplicates if len(set(labels[list(same)].tolist())) > 1],
        across=rows[copies],
        copied=rows[copied],
        identical=_identical(table, rows[copies | copied], rank[copies | copied]),
        groups=groups,
        divided=rows[divided],
        seen=rows[copied | seen],
    )


def apply(table: ImageTable, findings: Findings, leakage: Leakage) -> ImageTable:
    """The table by the policy on leaks, and a loud word on what was found.

    Under "drop", what must not be leaves train and val (its split becomes "dropped") and never test: copies of later
    splits, groups in several splits, and pictures whose labels contradict each other. Under "keep", all stays
    where it is, and only contradictions among the training images are refused.

    Args:
        table: the table that was inspected.
        findings: of `inspect`.
        leakage: the policy.

    Raises:
        DataError: if there are findings and the policy is "error"; if training labels contradict each other and the
            policy is not "drop".
    """
    summary = findings.summary()
    if not summary:
        return table
    if leakage == "error":
        raise DataError(
            f"The data leaks: {'; '.join(summary)}.\n"
            "Mend the data, or choose data.leakage=drop to leave those images out of training."
        )
    split = table.splits
    if leakage == "keep":
        if _labels_contradict(findings, "train"):
            raise DataError(
                f"The training labels contradict each other: {summary[-1]}.\n"
                "Correct them, or choose data.leakage=drop to leave those images out of training."
            )
        log.warning("LEAK: %s; kept, because data.leakage=keep.", "; ".join(summary))
        return table
    contradictory = np.array([row for rows in findings.conflicts for row in rows], np.intp)
    leaving = np.union1d(np.union1d(findings.across, findings.divided), contradictory)
    leaving = leaving[split[leaving] != "test"]
    log.warning("LEAK: %s.", "; ".join(summary))
    for part in SPLITS[:-1]:
        if count := int((split[leaving] == part).sum()):
            log.warning("LEAK: %d of %d %s images are dropped for it.", count, int((split == part).sum()), part)
    split[leaving] = "dropped"
    return dataclasses.replace(table, frame=table.frame.assign(split=split))


def _labels_contradict(findings: Findings, part: str) -> bool:
    labels, splits = findings.table.labels, findings.table.splits
    return any(len({labels[row] for row in rows if splits[row] == part}) > 1 for rows in findings.conflicts)


def _identical(table: ImageTable, rows: NDArray[np.intp], rank: NDArray[np.intp]) -> NDArray[np.intp]:
    """Which of these rows of test have the same file in an earlier split; none where there are no files."""
    if table.root is None or not len(rows):
        return rows[:0]
    digests = [hashlib.sha256((table.root / name).read_bytes()).digest() for name in table.ids[rows].tolist()]
    return rows[_leaks(np.unique(np.array(digests, "V32"), return_inverse=True)[1], rank)[1]]


def _leaks(code: NDArray[np.intp], rank: NDArray[np.intp]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Where a later split has the same code, and where test has one that an earlier split has."""
    last = np.full(code.max(initial=-1) + 1, -1)
    first = np.full(len(last), len(SPLITS))
    np.maximum.at(last, code, rank)
    np.minimum.at(first, code, rank)
    test = _RANK["test"]
    return rank < last[code], (rank == test) & (first[code] < test)


def _repeated(code: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """Positions of each value that occurs more than once, in order of the first."""
    order = np.argsort(code, kind="stable")
    _, starts, counts = np.unique(code[order], return_index=True, return_counts=True)
    places = [order[start : start + count] for start, count in zip(starts, counts, strict=True) if count > 1]
    return sorted(places, key=lambda rows: int(rows[0]))


def _some(names: Iterable[str]) -> str:
    listed = list(map(str, names))
    return ", ".join(listed[:_NAMED]) + (", ..." if len(listed) > _NAMED else "")
