"""The command `python -m medvision.audit data=...`: what is wrong with a data set, as a page and as an exit code."""

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from rich.text import Text

import medvision
from medvision.command import run_command
from medvision.files import write_text
from medvision.rundir import fresh, writable
from medvision.sweeps.jobs import FINDINGS

if TYPE_CHECKING:
    from medvision.data.audit import Audit


def main() -> None:
    """Audit what the command line says."""
    run_command("audit", audit)


def audit(cfg: DictConfig) -> int:
    """Audit the data of a config and write the page; 0 if it is clean, else `FINDINGS`."""
    # These load torch, which --help and mistyped overrides need not wait for.
    from medvision.console import logging_to
    from medvision.data.audit import audit as look_over
    from medvision.data.audit_page import render
    from medvision.label_audit import data_config, open_judge, suspects
    from medvision.stages import read_data
    from medvision.training.signals import StopSignal

    console, stop = Console(highlight=False), StopSignal()
    files = {}
    with stop.installed(), logging_to(None, console):
        judge = open_judge(cfg)
        of_data = cfg if judge is None else data_config(judge, cfg)
        data = read_data(_tolerant(of_data))
        folder = _folder(cfg, str(of_data.choices.data))
        found = look_over(data, of_data.data.resize)
        if judge is not None:
            doubtful = suspects(judge, data, cfg.labels_folds, folder, stop, console)
            files["labels"] = folder / "label_errors.csv"
            doubtful.write(files["labels"])
            found = doubtful.added_to(found)
    now = datetime.now().astimezone().isoformat(timespec="minutes")
    named = (of_data.data.get(key) for key in ("root", "csv", "path"))
    is_array = data.findings.table.images is not None
    title = str(of_data.choices.data if is_array else next(filter(None, named), of_data.choices.data))
    files = {"page": folder / "audit.html", "facts": folder / "audit.json"} | files
    written = f"medvision {medvision.__version__}, {now}, images of {data.image_size[0]} x {data.image_size[1]}"
    head = {"data": title, "written": now, "medvision": medvision.__version__, "fingerprint": data.fingerprint()}
    write_text(files["page"], render(found, title, written))
    write_text(files["facts"], json.dumps(head | found.to_json(), indent=2, ensure_ascii=False) + "\n")
    show(console, title, found)
    for name, path in files.items():
        console.print(f"{name:7}{path}", soft_wrap=True, markup=False)
    console.print("Research use only: not a medical device.", style="dim")
    return FINDINGS if found.findings else 0


def show(console: Console, title: str, found: "Audit") -> None:
    """Print one line for each check."""
    table = Table(title=Text(f"Audit of {title}"), title_justify="left", title_style="bold")
    for column in ("check", "verdict", "found"):
        table.add_column(column)
    for result in found.results:
        verdict = Text("finding", "bold red") if result.count else Text("clean", "green")
        table.add_row(result.check.title, verdict, Text(result.text))
    console.print(table)


def _folder(cfg: DictConfig, name: str) -> Path:
    """The directory of the audit, made before the long part begins."""
    with writable("audit"):
        if cfg.out is None:
            return fresh(Path(cfg.output_root).absolute() / name)
        folder = Path(cfg.out).absolute()
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def _tolerant(cfg: DictConfig) -> DictConfig:
    """The same data, with nothing refused that is to be reported."""
    cfg = cfg.copy()
    cfg.data.leakage = "drop"
    cfg.data.on_bad_image = "quarantine"
    cfg.data.max_bad_fraction = 1.0
    return cfg


if __name__ == "__main__":
    main()
