"""What is wrong with a data set before anything is trained on it."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.stats import chi2_contingency

from medvision.audits.checks import BALANCE_GAP, BALANCE_P, CHECKS, Check, Example, Finding
from medvision.audits.near_duplicates import NearPairs, near_duplicates, thumbnails
from medvision.audits.shortcuts import Guess, guess_label, guess_split
from medvision.data.datamodule import ImageDataModule
from medvision.data.decode import EXTENSIONS
from medvision.data.dicom import read as dicom
from medvision.data.table import SPLITS, ImageTable

_ORIENTATION = 0x0112
_SIDEWAYS = 5  # EXIF orientations from this one on exchange height and width
_PIL_FORMATS = sorted({*EXTENSIONS.values()} - {"DICOM"})


def read_headers(paths: Sequence[Path]) -> pd.DataFrame:
    """Height and width in pixels as displayed, format, colour mode and bytes of N files that can be decoded.

    The mode of a DICOM file is its photometric interpretation.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        rows = list(pool.map(_header, paths))
    return pd.DataFrame(rows, columns=["height", "width", "format", "mode", "bytes"])


def folders(table: ImageTable, rows: NDArray[np.intp]) -> list[str]:
    """The folder of each of some images without the parts that are its class or its split, "" where none is left."""
    parents = [PurePosixPath(name).parent.parts for name in table.ids[rows]]
    splits = table.splits[rows].tolist()
    outer = {parent[0] if parent else "" for parent in parents}
    by_split = {(parent[0] if parent else "", split) for parent, split in zip(parents, splits, strict=True)}
    # As many folders as splits, one each: these are the splits.
    start = 1 if 1 < len(outer) == len(by_split) == len(set(splits)) else 0
    return ["/".join(part for part in parent[start:] if part not in table.class_names) for parent in parents]


def _header(path: Path) -> tuple[int, int, str, str, int]:
    size = path.stat().st_size
    with path.open("rb") as file:
        if dicom.is_dicom(file.read(132)):
            height, width, photometric = dicom.header(path)
            return height, width, "DICOM", photometric, size
        file.seek(0)
        with Image.open(file, formats=_PIL_FORMATS) as header:
            width, height = header.size
            if header.getexif().get(_ORIENTATION, 1) >= _SIDEWAYS:
                width, height = height, width
            kind = "JPEG" if header.format == "MPO" else str(header.format)
            return height, width, kind, header.mode, size


_CHUNK = 512


@dataclass(frozen=True)
class Audit:
    """All that was found, and the numbers behind it.

    Attributes:
        data: what was looked at.
        results: one for each of `CHECKS`, in their order, and of what was added to them.
        balance: images of each class (rows) in each split (columns).
        sizes: files of each size, format and colour mode, the most frequent first; empty for arrays.
        guesses: the classifiers that should fail: `metadata`, `brightness`, and one for each further split.
    """

    data: ImageDataModule = field(repr=False)
    results: tuple[Finding, ...]
    balance: pd.DataFrame
    sizes: pd.DataFrame
    guesses: dict[str, Guess]

    @property
    def findings(self) -> list[Finding]:
        """The results that count."""
        return [result for result in self.results if result.count]

    def to_json(self) -> dict[str, Any]:
        """Everything but the pictures, as plain values."""
        table = self.data.findings.table
        ids, splits, labels = table.ids, table.splits, table.labels
        return {
            "images": len(table),
            "class_names": list(table.class_names),
            "clean": not self.findings,
            "checks": {
                result.check.name: {
                    "count": result.count,
                    "text": result.text,
                    "counts_when": result.check.counts,
                    "found": [
                        {
                            "text": example.text,
                            "images": [
                                {"id": ids[row], "split": splits[row], "label": table.class_names[labels[row]]}
                                for row in example.rows
                            ],
                        }
                        for example in result.examples
                    ],
                }
                for result in self.results
            },
            "quarantine": self.data.quarantine.to_dict("records"),
            "balance": self.balance.to_dict(),
            "sizes": self.sizes.to_dict("records"),
            "guesses": {name: guess.to_json() for name, guess in self.guesses.items()},
        }


def audit(data: ImageDataModule) -> Audit:
    """Look at every image of a data module.

    Args:
        data: set up; its policy on leakage changes nothing here.
    """
    table = data.findings.table
    rows = np.flatnonzero(np.isin(table.splits, SPLITS))
    headers = _headers(table, rows)
    small = _thumbnails(data, rows, headers if data.options.resize == "letterbox" else headers[[]])
    pairs = _near(table, rows, small, data.findings.duplicates)
    units = _units(table, rows, data.findings.duplicates, pairs)
    guesses = _guesses(table, rows, small, headers, units)
    balance = pd.DataFrame(
        {split: np.bincount(table.labels[table.splits == split], minlength=len(table.class_names)) for split in SPLITS},
        index=list(table.class_names),
    )
    found = {
        **_exact(data),
        "constant": _constant(rows, small),
        "near": _clusters(table, pairs),
        "balance": _balance(balance),
        **_alarms(guesses),
    }
    return Audit(data, tuple(_result(check, *found[check.name]) for check in CHECKS), balance, _sizes(headers), guesses)


_Found = tuple[int, str, list[Example]]


def _result(check: Check, count: int, text: str, examples: list[Example]) -> Finding:
    return Finding(check, count, text, tuple(examples))


def _exact(data: ImageDataModule) -> dict[str, _Found]:
    """What the leakage check found."""
    found, splits = data.findings, data.findings.table.splits
    contradictory = set(found.conflicts)
    across = [same for same in found.duplicates if len(set(splits[list(same)].tolist())) > 1]
    within = [same for same in found.duplicates if same not in contradictory and same not in set(across)]
    copied = int((splits[found.copied] == "test").sum())
    tested = int((splits == "test").sum())
    members = {name: np.flatnonzero(found.table.groups == name) for name in found.groups}
    return {
        "unusable": (
            len(data.quarantine),
            f"{len(data.quarantine)} of {len(splits)} files",
            [],
        ),
        "across": (
            len(across),
            f"{copied} of {tested} test images are in train or val too, {len(found.identical)} as identical files; "
            f"{len(across)} pictures in several splits",
            [Example(same, "the same pixels") for same in across],
        ),
        "conflicts": (
            len(found.conflicts),
            f"{len(found.conflicts)} pictures",
            [Example(same, "the same pixels") for same in found.conflicts],
        ),
        "duplicates": (
            sum(len(same) - 1 for same in within),
            f"{sum(len(same) - 1 for same in within)} images more than pictures",
            [Example(same, "the same pixels") for same in within],
        ),
        "groups": (
            len(members),
            f"{len(members)} groups with {sum(map(len, members.values()))} images",
            [Example(tuple(rows.tolist()), f"group {name}") for name, rows in members.items()],
        ),
    }


def _headers(table: ImageTable, rows: NDArray[np.intp]) -> pd.DataFrame:
    """What the files of some rows say of themselves; no columns where there are no files."""
    if table.root is None:
        return pd.DataFrame(index=rows)
    root = table.root
    headers = read_headers([root / name for name in table.ids[rows]]).assign(folder=folders(table, rows))
    return headers.set_axis(rows, axis=0)


def _thumbnails(data: ImageDataModule, rows: NDArray[np.intp], headers: pd.DataFrame) -> NDArray[np.uint8]:
    sizes = None
    if "height" in headers:
        sizes = headers[["height", "width"]].to_numpy(np.float64)
    return np.concatenate(
        [
            thumbnails(data.pixels(rows[start : start + _CHUNK]), None if sizes is None else sizes[start:])
            for start in range(0, len(rows), _CHUNK)
        ]
    )


def _near(
    table: ImageTable, rows: NDArray[np.intp], small: NDArray[np.uint8], duplicates: list[tuple[int, ...]]
) -> NearPairs:
    """Pairs of rows of the table; one row stands for all that have its pixels."""
    copies = {row for same in duplicates for row in same[1:]}
    first = np.array([row not in copies for row in rows.tolist()])
    pairs = near_duplicates(small[first])
    return NearPairs(rows[first][pairs.rows], pairs.mirrored, pairs.similarity)


def _units(
    table: ImageTable, rows: NDArray[np.intp], duplicates: list[tuple[int, ...]], pairs: NearPairs
) -> NDArray[np.intp]:
    """(n,) number of what belongs together: by group, pixels or resemblance, in any number of steps."""
    group = np.unique(table.groups, return_inverse=True)[1]
    links = [(same[0], row) for same in duplicates for row in same[1:]] + [(int(a), int(b)) for a, b in pairs.rows]
    ends = np.array(links, np.intp).reshape(-1, 2)
    count = int(group.max()) + 1
    graph = coo_array((np.ones(len(ends)), (group[ends[:, 0]], group[ends[:, 1]])), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1][group][rows], np.intp)


def _constant(rows: NDArray[np.intp], small: NDArray[np.uint8]) -> _Found:
    plain = rows[small.min(axis=(1, 2)) == small.max(axis=(1, 2))].tolist()
    return len(plain), f"{len(plain)} images", [Example((row,), "one colour") for row in plain]


def _clusters(table: ImageTable, pairs: NearPairs) -> _Found:
    """Pairs, those across splits or labels first, then by resemblance."""
    splits, labels = table.splits, table.labels
    examples = []
    across = differing = 0
    for (one, other), mirrored, similarity in zip(pairs.rows.tolist(), pairs.mirrored, pairs.similarity, strict=True):
        apart, unequal = splits[one] != splits[other], labels[one] != labels[other]
        across, differing = across + bool(apart), differing + bool(unequal)
        remarks = ["mirrored"] * bool(mirrored) + ["two splits"] * bool(apart) + ["two labels"] * bool(unequal)
        text = ", ".join([f"correlation {similarity:.4f}", *remarks])
        examples.append(((not apart, not unequal, -similarity), Example((one, other), text)))
    text = f"{len(examples)} pairs, {across} across splits, {differing} with two labels"
    return len(examples), text, [example for _, example in sorted(examples, key=lambda one: one[0])]


def _guesses(
    table: ImageTable,
    rows: NDArray[np.intp],
    small: NDArray[np.uint8],
    headers: pd.DataFrame,
    units: NDArray[np.intp],
) -> dict[str, Guess]:
    labels, splits = table.labels[rows], table.splits[rows]
    features = headers.assign(brightness=small.mean(axis=(1, 2)))
    guesses = {"metadata" if len(headers.columns) else "brightness": guess_label(features, labels, units)}
    for split in SPLITS[1:]:
        here = np.isin(splits, ("train", split))
        if (splits == split).any():
            guesses[split] = guess_split(small[here], splits[here] == split, labels[here], units[here])
    return guesses


def _alarms(guesses: dict[str, Guess]) -> dict[str, _Found]:
    alarms = {name: guess for name, guess in guesses.items() if name in SPLITS and guess.alarms}
    metadata = guesses.get("metadata")
    return {
        "metadata": (
            int(metadata is not None and metadata.alarms),
            "no files" if metadata is None else _described("label", metadata),
            [],
        ),
        "membership": (
            len(alarms),
            "; ".join(_described(name, guess) for name, guess in guesses.items() if name in SPLITS),
            [],
        ),
    }


def _described(what: str, guess: Guess) -> str:
    if guess.auroc is None:
        return f"{what}: too little to say"
    strongest = sorted(guess.alone.items(), key=lambda one: -one[1])[:3]
    alone = ", ".join(f"{name} {value:.2f}" for name, value in strongest)
    return f"{what}: AUROC {guess.auroc:.2f} (alarm above {guess.limit:.2f})" + (f"; alone: {alone}" if alone else "")


def _balance(balance: pd.DataFrame) -> _Found:
    used = balance.loc[:, balance.sum() > 0]
    absent = [f"{name} is absent from {split}" for split in used for name in used.index[used[split] == 0]]
    if len(used.columns) < 2 or len(used) < 2:
        return len(absent), "; ".join(absent) or "one split", []
    counts = used.loc[used.sum(axis=1) > 0].to_numpy()
    chance = float(chi2_contingency(counts, correction=False).pvalue)
    shares = counts / counts.sum(axis=0)
    gaps = np.ptp(shares, axis=1)
    widest = int(gaps.argmax())
    differs = chance < BALANCE_P and gaps[widest] > BALANCE_GAP
    listed = ", ".join(f"{share:.0%} of {split}" for share, split in zip(shares[widest], used, strict=True))
    text = f"{used.index[used.sum(axis=1) > 0][widest]}: {listed}"
    return len(absent) + int(differs), "; ".join([text, *absent]), []


def _sizes(headers: pd.DataFrame) -> pd.DataFrame:
    """How many files have each size, format and mode, the most frequent first."""
    columns = ["height", "width", "format", "mode"]
    if not len(headers.columns):
        return pd.DataFrame(columns=[*columns, "files"])
    # As objects, because JSON knows no numpy integers.
    return headers.value_counts(columns).rename("files").reset_index().astype(object)
