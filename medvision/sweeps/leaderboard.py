"""The runs of a multirun, best first by what they reached on validation, as a table and a page."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

import medvision
from medvision.files import write_text
from medvision.metrics.definitions import METRICS
from medvision.metrics.estimates import Estimate, Key
from medvision.reports.pages import render
from medvision.runs.saved_run import SavedRun
from medvision.sweeps.jobs import Job, varying

# What `monitor` is called in metrics.json.
MONITORED: Mapping[str, str] = {
    "val/loss": "log_loss",
    "val/accuracy": "accuracy",
    "val/recall": "balanced_accuracy",
    "val/auroc": "macro_auroc",
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
        metric=_title(metric),
        direction=_direction(metric),
        level=level,
        per_cent=METRICS[metric].is_share,
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
    runs = [_read(SavedRun(Path(job.folder))) if job.status in ("finished", "skipped") else {} for job in jobs]
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
        validation = run["metrics"].get(Key(metric, split="val")) if run else None
        test = run["metrics"].get(Key("accuracy", split="test")) if run else None
        seconds = run["seconds"] if run else job.seconds
        rows.append(Row(None, values, validation, test, seconds, job.status, job.reason, job.folder))
    sign = 1 if METRICS[metric].lower_is_better else -1

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


def _read(run: SavedRun) -> dict[str, Any]:
    """What the leaderboard shows of a finished run; empty for a job that measured nothing."""
    if not (run.path / "metrics.json").is_file():
        return {}
    facts, config = run.facts, run.config
    return {
        "monitor": config["monitor"],
        "level": config["evaluation"]["confidence_level"],
        "metrics": run.metrics,
        "seconds": round(sum(facts["seconds"].get(part, 0.0) for part in ("prepare", "fit", "evaluate")), 1),
        "cases": facts["data"]["images"].get("val"),
    }


def _show(console: Console, metric: str, rows: Sequence[Row], notes: Sequence[str]) -> None:
    table = Table(title=f"Sorted by validation {_title(metric)}{_direction(metric)}, not by test", title_justify="left")
    for name in ("rank", "values", "validation", "test accuracy, %"):
        table.add_column(name, justify="left" if name == "values" else "right")
    for row in rows:
        values = Text(" ".join(row.values), overflow="fold")
        table.add_row(
            str(row.rank or ""), values, _text(row.validation, METRICS[metric].is_share), _text(row.test, per_cent=True)
        )
    console.print(table)
    for note in notes:
        console.print(note, style="dim", markup=False)


def _title(metric: str) -> str:
    return METRICS[metric].phrase + (", %" if METRICS[metric].is_share else "")


def _direction(metric: str) -> str:
    return " (less is better)" if METRICS[metric].lower_is_better else ""


def _text(estimate: Estimate | None, per_cent: bool) -> str:
    if estimate is None or estimate.value is None:
        return ""
    scale, digits = (100, 2) if per_cent else (1, 4)
    value = f"{scale * estimate.value:.{digits}f}"
    if estimate.low is None or estimate.high is None:
        return value
    return f"{value} ({scale * estimate.low:.{digits}f} to {scale * estimate.high:.{digits}f})"
