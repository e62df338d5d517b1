"""The output of a command: log lines, the file train.log, and tables."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from medvision.metrics.definitions import METRICS
from medvision.metrics.estimates import Estimate, Key

LOGGERS = ("medvision", "lightning.pytorch", "py.warnings")


@contextmanager
def logging_to(file: Path | None, console: Console) -> Iterator[None]:
    """Within the block, log to the console and, if given, append to `file`.

    On a terminal the lines pass through `console`, so that they do not tear a progress bar; in a file or pipe they
    carry times.
    Lightning's own announcements and Python's warnings are kept in the file.
    """
    terminal: logging.Handler
    if console.is_terminal:
        terminal = RichHandler(console=console, show_time=False, show_level=False, show_path=False, highlighter=None)
        terminal.setFormatter(logging.Formatter("%(message)s"))
    else:
        terminal = logging.StreamHandler(console.file)
        terminal.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    terminal.addFilter(lambda record: record.name.startswith("medvision") or record.levelno >= logging.ERROR)
    handlers: list[logging.Handler] = [terminal]
    if file is not None:
        handlers.append(logging.FileHandler(file, encoding="utf-8"))
        handlers[-1].setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(logger.level, logger.propagate, list(logger.handlers)) for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.INFO)
        logger.propagate = False
        logger.handlers = list(handlers)  # a library that is loaded later may add its own to one of them
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        for logger, (level, propagate, old) in zip(loggers, before, strict=True):
            logger.setLevel(level)
            logger.propagate = propagate
            logger.handlers = old
        for handler in handlers:
            handler.close()


_PARTS = (
    ("test split", "test", None),
    ("test, never seen", "test", "never_seen"),
    ("external test", "external", None),
    ("external test, never seen", "external", "never_seen"),
)


def show_headline(console: Console, name: str, metrics: Mapping[Key, Estimate], confidence_level: float) -> None:
    """Print a table of the headline metrics of each part that was tested."""
    for title, found in headline(metrics).items():
        show_estimates(console, f"{name}, {title}", found, confidence_level)


def headline(metrics: Mapping[Key, Estimate]) -> dict[str, dict[Key, Estimate]]:
    """The headline metrics of each part that was tested, by the title of the part."""
    names = [metric.name for metric in METRICS.values() if metric.headline]
    keys = {title: [Key(name, section=section, split=split) for name in names] for title, split, section in _PARTS}
    found = {title: {key: metrics[key] for key in part if key in metrics} for title, part in keys.items()}
    return {title: estimates for title, estimates in found.items() if estimates}


def show_estimates(console: Console, title: str, estimates: Mapping[Key, Estimate], confidence_level: float) -> None:
    """Print a table of metrics with their intervals and the number of cases behind each."""
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column(f"{confidence_level:.0%} interval", justify="right")
    table.add_column("n", justify="right")
    for key, estimate in estimates.items():
        name = METRICS[key.metric].label if key.class_name is None else f"{METRICS[key.metric].label}, {key.class_name}"
        value = "undefined" if estimate.value is None else f"{estimate.value:.4f}"
        known = estimate.low is not None and estimate.high is not None
        table.add_row(name, value, f"{estimate.low:.4f} to {estimate.high:.4f}" if known else "", str(estimate.n))
    console.print(table)


def show_profile(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the rows of `medvision.training.profile.table`."""
    table = Table(title="where the time went", title_justify="left", title_style="bold")
    table.add_column("stage")
    for heading in ("seconds", "share", "ms a step"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(row["stage"], f"{row['seconds']:.2f}", f"{row['share']:.1%}", str(row["ms_per_step"]))
    console.print(table)


def show_report(console: Console, page: Path) -> None:
    """Print where a report is."""
    console.print(f"report  {page}", soft_wrap=True, highlight=False, markup=False)
    show_disclaimer(console)


def show_disclaimer(console: Console) -> None:
    """Print what a model and its numbers must not be used for."""
    console.print("Research use only: not a medical device.", style="dim")
