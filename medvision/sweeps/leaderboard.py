"""The runs of a multirun, best first by what they reached on validation, as a table and a page."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

import medvision
from medvision.evaluation.sheet import render
from medvision.evaluation.verdict import Estimate
from medvision.files import write_text
from medvision.sweeps.jobs import Job, varying

# What `monitor` is called in metrics.json.
MONITORED: Mapping[str, str] = {
    "val/loss": "log_loss",
    "val/accuracy": "accuracy",
    "val/recall": "balanced_accuracy",
    "val/auroc": "macro/auroc",
}
_TITLES = {
    "log_loss": "log loss",
    "accuracy": "accuracy, %",
    "balanced_accuracy": "balanced accuracy, %",
    "macro/auroc": "AUROC, %",
}


@dataclass(frozen=True)
class Row:
    """One job.

    Attributes:
        rank: 1 is the best on validation; None where there is nothing to rank.
        values: the overrides that not all jobs have.
        validation: what it reached on the validation split, in the metric of the leaderboard.
        test: accuracy on the test split.
        seconds: of reading, training and evaluating; of the process where it did not finish.
    """

    rank: int | None
    values: list[str]
    validation: Estimate | None
    test: Estimate | None
    seconds: float | None
    status: str
    reason: str | None
    path: str


def write(folder: Path, jobs: Sequence[Job], console: Console) -> None:
    """Write leaderboard.csv and leaderboard.html into the folder of a multirun, and print the table."""
    metric, level, rows, notes = collect(jobs)
    write_text(folder / "leaderboard.csv", frame(metric, rows).to_csv(index=False, lineterminator="\n"))
    now = datetime.now().astimezone().isoformat(timespec="minutes")
    page = render(
        "leaderboard.html.j2",
        title=f"Leaderboard of {folder.parent.name}",
        kicker=f"{len(rows)} run{'s' if len(rows) != 1 else ''}, {folder.name}.",
        written=f"medvision {medvision.__version__}, {now}",
        metric=_TITLES[metric],
        direction=_direction(metric),
        level=level,
        per_cent=metric != "log_loss",
        notes=notes,
        rows=rows,
    )
    write_text(folder / "leaderboard.html", page)
    _show(console, metric, rows, notes)
    console.print(f"leaderboard {folder / 'leaderboard.html'}", soft_wrap=True, markup=False, highlight=False)


def collect(jobs: Sequence[Job]) -> tuple[str, str, list[Row], list[str]]:
    """Read what the jobs left behind.

    Returns:
        The metric of metrics.json that ranks, the level of the intervals, the rows in order, and what a reader must
        keep in mind. The metric is what the runs monitored; accuracy where they did not all monitor the same.
    """
    runs = [_read(Path(job.folder)) if job.status in ("finished", "skipped") else {} for job in jobs]
    monitors = {run["monitor"] for run in runs if run}
    metric = MONITORED[monitors.pop()] if len(monitors) == 1 else "accuracy"
    notes = []
    if len({run["monitor"] for run in runs if run}) > 1:
        notes.append("The runs chose their best epoch by different metrics (monitor); accuracy ranks them here.")
    if len({run["cases"] for run in runs if run}) > 1:
        notes.append("The runs were not validated on the same number of cases: they differ in data or fold.")
    if sum(bool(run) for run in runs) > 1:
        notes.append("Overlapping intervals do not settle which is better: medvision.compare does, on the same cases.")
    rows = []
    for job, run, values in zip(jobs, runs, varying(jobs), strict=True):
        validation = run["metrics"].get(f"val/{metric}") if run else None
        test = run["metrics"].get("test/accuracy") if run else None
        seconds = run["seconds"] if run else job.seconds
        rows.append(Row(None, values, validation, test, seconds, job.status, job.reason, job.folder))
    sign = 1 if metric == "log_loss" else -1

    def score(row: Row) -> float:
        return math.inf if row.validation is None or row.validation.value is None else sign * row.validation.value

    rows.sort(key=score)
    ranked = [replace(row, rank=place if math.isfinite(score(row)) else None) for place, row in enumerate(rows, 1)]
    levels = sorted({run["level"] for run in runs if run})
    return metric, " or ".join(f"{level:.0%}" for level in levels) or "no", ranked, notes


def frame(metric: str, rows: Sequence[Row]) -> pd.DataFrame:
    """The rows as a table of plain values."""
    lines = []
    for row in rows:
        line: dict[str, Any] = {"rank": row.rank, "overrides": " ".join(row.values)}
        for name, one in ((f"val/{metric}", row.validation), ("test/accuracy", row.test)):
            for part, key in (("", "value"), ("/low", "low"), ("/high", "high")):
                line[f"{name}{part}"] = getattr(one, key) if one else None
        lines.append(
            line | {"seconds": row.seconds, "status": row.status, "reason": row.reason or "", "path": row.path}
        )
    return pd.DataFrame(lines).astype({"rank": "Int64"})


def _read(path: Path) -> dict[str, Any]:
    """What a finished run says of itself; empty for a folder that holds no such run."""
    if not (path / "metrics.json").is_file():
        return {}
    metrics = json.loads((path / "metrics.json").read_text(encoding="utf-8"))
    facts = json.loads((path / "run.json").read_text(encoding="utf-8"))
    config = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
    return {
        "monitor": config["monitor"],
        "level": config["evaluation"]["confidence_level"],
        "metrics": {name: Estimate(**values) for name, values in metrics.items()},
        "seconds": round(sum(facts["seconds"].get(part, 0.0) for part in ("prepare", "fit", "evaluate")), 1),
        "cases": facts["data"]["images"].get("val"),
    }


def _show(console: Console, metric: str, rows: Sequence[Row], notes: Sequence[str]) -> None:
    table = Table(
        title=f"Sorted by validation {_TITLES[metric]}{_direction(metric)}, not by test", title_justify="left"
    )
    for name in ("rank", "values", "validation", "test accuracy, %"):
        table.add_column(name, justify="left" if name == "values" else "right")
    for row in rows:
        values = Text(" ".join(row.values), overflow="fold")
        table.add_row(
            str(row.rank or ""), values, _told(row.validation, metric != "log_loss"), _told(row.test, per_cent=True)
        )
    console.print(table)
    for note in notes:
        console.print(note, style="dim", markup=False)


def _direction(metric: str) -> str:
    return " (less is better)" if metric == "log_loss" else ""


def _told(estimate: Estimate | None, per_cent: bool) -> str:
    if estimate is None or estimate.value is None:
        return ""
    scale, digits = (100, 2) if per_cent else (1, 4)
    value = f"{scale * estimate.value:.{digits}f}"
    if estimate.low is None or estimate.high is None:
        return value
    return f"{value} ({scale * estimate.low:.{digits}f} to {scale * estimate.high:.{digits}f})"
