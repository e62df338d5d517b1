"""What the benchmarks share: how they are called, measuring in turns, and the one shape of their results.

A result is a JSON file with the command, the date, the facts of the machine and a list of rows. A row is one claim:
what either side needed (median and range over the rounds), the ratio, and the goal if there is one. Ratios are taken
within each round, pair by pair, because machines drift; what is reported are the median of the ratios and their range.
"""

import argparse
import json
import logging
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.table import Table

from medvision.runs.provenance import environment

RESULTS = Path(__file__).with_name("results")
Seconds = dict[str, list[float]]  # name of each side and what it needed in each round


@dataclass(frozen=True)
class Spread:
    """A median and the range it comes from."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Side:
    """What one side of a comparison needed, or reached, in the unit of its row."""

    name: str
    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """One claim and its figures.

    Attributes:
        claim: what was compared.
        unit: of both sides; "s" is shown in whatever part of a second reads well.
        ours: medvision's side.
        peer: what it is compared with; a limit where there is nothing to run.
        kind: "speedup", how many times as fast as the peer, or "share", ours divided by the peer's.
        ratio: over the rounds.
        goal: {"at_least": number} or {"at_most": number}; None where none was set.
        rounds: how many were measured; those that warmed up do not count.
    """

    claim: str
    unit: str
    ours: Side
    peer: Side
    kind: Literal["speedup", "share"]
    ratio: Spread
    goal: dict[str, float] | None
    rounds: int


def parser(file: str, doc: str | None, *, rounds: int) -> argparse.ArgumentParser:
    """The options that every benchmark has; `file` is the script's own."""
    found = argparse.ArgumentParser(
        Path(file).name, description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("--rounds", type=int, default=rounds, help=f"how often to measure each side ({rounds})")
    found.add_argument(
        "--tiny", action="store_true", help="as little as runs at all: tries the script, measures nothing"
    )
    found.add_argument("--out", type=Path, help="folder for the JSON; results/ here, and nowhere with --tiny")
    return found


def read(options: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options as given, with the machine's load before anything ran; silences warnings that are logged."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    given = options.parse_args(words)
    out = ["--out", str(given.out)]
    for start in range(len(words) - 1):
        if words[start : start + 2] == out:
            del words[start : start + 2]
            break
    given.script = options.prog.removesuffix(".py")
    given.command = shlex.join(["python", f"experiments/speed/{options.prog}", *words])
    given.load = os.getloadavg()[0]
    logging.disable(logging.WARNING)  # what Lightning, the guard and onnxruntime have to say is not about speed
    return given


def in_turns(tasks: Mapping[str, Callable[[], float]], rounds: int, *, warm_up: int = 1) -> Seconds:
    """What each task says it needed, round after round; every other round runs backwards.

    What a task sets for speed in the process (environment, denormal numbers) is taken back before the next one.

    Args:
        tasks: by name; each returns what it needed, mostly seconds.
        rounds: how many count.
        warm_up: how many come before them and do not.
    """
    found: Seconds = {name: [] for name in tasks}
    for turn in range(1 - warm_up, rounds + 1):
        for name in tasks if turn % 2 else reversed(tasks):
            before = dict(os.environ)
            torch.set_flush_denormal(False)
            value = tasks[name]()
            os.environ.clear()
            os.environ.update(before)
            if turn > 0:
                found[name].append(value)
    return found


def clocked(task: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> Callable[[], float]:
    """The task, made to return the seconds it takes."""

    def measure() -> float:
        begin = clock()
        task()
        return clock() - begin

    return measure


def fastest(tasks: Mapping[str, Callable[[], float]]) -> str:
    """The name of the task that is fastest when each is run once: which of its variants a peer takes part with."""
    return min(tasks, key=lambda name: tasks[name]())


def speedup(claim: str, found: Seconds, ours: str, peer: str, *, at_least: float | None = None, unit: str = "s") -> Row:
    """How many times as fast as the peer: the peer's seconds over ours."""
    ratios = [theirs / own for own, theirs in zip(found[ours], found[peer], strict=True)]
    sides = _side(ours, found[ours]), _side(peer, found[peer])
    return Row(claim, unit, *sides, "speedup", _spread(ratios), _goal("at_least", at_least), len(ratios))


def share(
    claim: str,
    found: Seconds,
    ours: str,
    peer: str,
    *,
    at_most: float | None = None,
    at_least: float | None = None,
    unit: str = "s",
) -> Row:
    """Our figure divided by the peer's."""
    ratios = [own / theirs for own, theirs in zip(found[ours], found[peer], strict=True)]
    sides = _side(ours, found[ours]), _side(peer, found[peer])
    goal = _goal("at_most", at_most) or _goal("at_least", at_least)
    return Row(claim, unit, *sides, "share", _spread(ratios), goal, len(ratios))


def allowed(claim: str, values: Sequence[float], limit: float, *, unit: str = "s") -> Row:
    """Our figure divided by a limit."""
    both = {"medvision": list(values), "allowed": [limit] * len(values)}
    return share(claim, both, "medvision", "allowed", at_most=1.0, unit=unit)


def publish(rows: Sequence[Row], given: argparse.Namespace, peers: Mapping[str, str] | None = None) -> None:
    """Show the rows, and write them with the facts of the machine; `peers` are versions to name beside our own."""
    table = Table(title=given.command, title_justify="left")
    for column in ("what", "medvision", "against", "ratio", "goal"):
        table.add_column(column, justify="left" if column in ("what", "against") else "right")
    for row in rows:
        peer = f"{row.peer.name}: {figure(row.peer.median, row.unit)}"
        table.add_row(row.claim, figure(row.ours.median, row.unit), peer, ratio(asdict(row)), goal(asdict(row)))
    Console(width=120).print(table)
    if given.tiny and given.out is None:
        return
    result = {
        "command": given.command,
        "measured": date.today().isoformat(),
        "tiny": given.tiny,
        "machine": machine(given.load, peers or {}),
        "rows": [asdict(row) for row in rows],
    }
    folder = given.out or RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{given.script}.json").write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")


def machine(load: float, peers: Mapping[str, str]) -> dict[str, Any]:
    """Processor, cores, threads, load before the measurement (processes, mean of a minute), versions and revision."""
    facts = environment()
    return {
        "processor": facts["processor"],
        "cores": facts["cpu_count"],
        "threads": facts["threads"],
        "load_before": round(load, 2),
        "python": platform.python_version(),
        "versions": facts["versions"] | dict(peers),
        "revision": (facts["git"] or {}).get("commit"),
    }


def figure(value: float, unit: str) -> str:
    """A figure with its unit, in three digits or so: "1.71 s", "34 ms", "12,300 images/s"; of "%" two decimals."""
    if unit == "%":
        return f"{value:.2f} %"
    if unit == "s" and value < 0.9995:
        value, unit = (value * 1e3, "ms") if value >= 1e-3 else (value * 1e6, "µs")
    return f"{digits(value)} {unit}"


def ratio(row: Mapping[str, Any]) -> str:
    """The ratio of a row with its range: "12.3 x (11 to 13)" or "1.05 (0.98 to 1.14)"."""
    median, low, high = (digits(row["ratio"][name]) for name in ("median", "low", "high"))
    times = " x" if row["kind"] == "speedup" else ""
    return f"{median}{times}" if row["rounds"] == 1 else f"{median}{times} ({low} to {high})"


def goal(row: Mapping[str, Any]) -> str:
    """The goal of a row: "at least 10", "at most 1.05", or nothing."""
    return "".join(f"{name.replace('_', ' ')} {value:g}" for name, value in (row["goal"] or {}).items())


def digits(value: float) -> str:
    """A number in three digits, or all that stand before the point; two below 0.1."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.2g}"


def _spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))


def _side(name: str, values: Sequence[float]) -> Side:
    return Side(name, statistics.median(values), min(values), max(values))


def _goal(name: str, value: float | None) -> dict[str, float] | None:
    return None if value is None else {name: value}
