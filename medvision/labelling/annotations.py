"""What was said of all images, read back line by line: the CSV, the counts, who needs a human most, the score."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvision.files import replacing
from medvision.labelling.annotate import ANNOTATIONS, read_annotations
from medvision.metrics.predictions import Predictions

CSV = "annotations.csv"
# In the order in which they need a human: what no reviewer can see comes last.
STATUSES = ("review", "rejected", "auto", "unreadable")


@dataclass(frozen=True, eq=False)
class Index:
    """Where each annotation stands in the file, and what one sorts by.

    Attributes:
        status: (N,) int8, place in `STATUSES`.
        confidence: (N,) float32, 0 where there is no label.
        offset: (N,) int64, of the line in the file, in bytes.
    """

    status: NDArray[np.int8]
    confidence: NDArray[np.float32]
    offset: NDArray[np.int64]

    @property
    def counts(self) -> dict[str, int]:
        """How many images have each status."""
        return {name: int((self.status == code).sum()) for code, name in enumerate(STATUSES)}

    def by_need(self) -> NDArray[np.intp]:
        """(N,) rows, those that need a human most first: by status, then by uncertainty, then by place."""
        return np.lexsort((np.arange(len(self.status)), self.confidence, self.status))


def index_annotations(out: Path) -> Index:
    """Read a finished annotations.jsonl once; 13 bytes an image stay in memory."""
    status, confidence, offset = [], [], [0]
    with (out / ANNOTATIONS).open("rb") as file:
        for line in file:
            record = json.loads(line)
            name = record["status"] if record["label"] is not None else "unreadable"
            status.append(STATUSES.index(name))
            confidence.append(record["confidence"] or 0.0)
            offset.append(offset[-1] + len(line))
    return Index(np.array(status, np.int8), np.array(confidence, np.float32), np.array(offset[:-1], np.int64))


def read_rows(out: Path, index: Index, rows: NDArray[np.intp]) -> Iterator[dict[str, Any]]:
    """Some annotations, in the order of `rows`."""
    with (out / ANNOTATIONS).open("rb") as file:
        for row in rows:
            file.seek(int(index.offset[row]))
            yield json.loads(file.readline())


def write_csv(out: Path, class_names: Sequence[str]) -> Path:
    """annotations.csv from annotations.jsonl: image,label,confidence,status,reason,set[,truth],p_<class>,...

    A text that a spreadsheet would take for a formula gets an apostrophe in front; annotations.jsonl has it as it is.
    """
    first = next(read_annotations(out), {})
    truth = ["truth"] if "truth" in first else []
    with replacing(out / CSV) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        probs = [f"p_{name}" for name in class_names]
        writer.writerow(["image", "label", "confidence", "status", "reason", "set", *truth, *probs])
        for record in read_annotations(out):
            classes = " | ".join(record["set"] or ())
            values = record["probs"] or {}
            writer.writerow(
                [
                    *map(_inert, (record["image"], record["label"] or "")),
                    _number(record["confidence"]),
                    *map(_inert, (record["status"], record["reason"], classes)),
                    *(_inert(record[name] or "") for name in truth),
                    *(_number(values.get(name)) for name in class_names),
                ]
            )
    return out / CSV


def write_selection(out: Path, records: Sequence[dict[str, Any]]) -> Path:
    """to_label.csv: the images to label next, the most useful first; fill in `label` and it is a manifest."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "label", "predicted", "confidence"])
    for record in records:
        writer.writerow([record["image"], "", _inert(record["label"]), _number(record["confidence"])])
    with replacing(out / "to_label.csv") as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8", newline="\n")
    return out / "to_label.csv"


def truths_and_predictions(out: Path, class_names: Sequence[str]) -> Predictions | None:
    """Predictions of the images whose true class is known and that could be read; None if there are none."""
    ids, targets, probs = [], [], []
    places = {name: place for place, name in enumerate(class_names)}
    for record in read_annotations(out):
        if record.get("truth") and record["probs"]:
            ids.append(record["image"])
            targets.append(places[record["truth"]])
            probs.append([record["probs"][name] for name in class_names])
    if not ids:
        return None
    # The logarithm of a probability is a logit; those that were rounded to 0 get the half of the last digit.
    return Predictions.from_logits(
        ids=np.array(ids),
        groups=np.array(ids),
        targets=np.array(targets, np.int64),
        logits=np.log(np.maximum(np.array(probs), 5e-7)).astype(np.float32),
        class_names=tuple(class_names),
        meta={},
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"


def _inert(text: str) -> str:
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
