"""The command `medvision audit data=...`: what is wrong with a data set, as a page and as an exit code."""

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from rich.text import Text

import medvision
from medvision.cli.entry import run_command
from medvision.files import write_text
from medvision.runs.directory import output_directory
from medvision.sweeps.jobs import FINDINGS

if TYPE_CHECKING:
    from medvision.audits.data_audit import Audit


def main() -> None:
    """Audit with the configuration of the command line."""
    run_command("audit", audit)


def audit(cfg: DictConfig) -> int:
    """Audit the data of a configuration and write the page; 0 if nothing was found, else `FINDINGS`."""
    # These load torch, which --help and mistyped overrides need not wait for.
    from medvision.audits.data_audit import audit as audit_data
    from medvision.audits.page import render
    from medvision.cli.console import logging_to, show_disclaimer
    from medvision.cli.stop_signal import StopSignal
    from medvision.pipeline.label_audit import data_config, find_suspects, open_reference
    from medvision.pipeline.prepare import read_data

    console, stop = Console(highlight=False), StopSignal()
    files = {}
    with stop.installed(), logging_to(None, console):
        reference = open_reference(cfg)
        of_data = cfg if reference is None else data_config(reference, cfg)
        data = read_data(_tolerant(of_data))
        folder = output_directory(cfg.out, Path(cfg.output_root).absolute() / str(of_data.choices.data), "audit")
        found = audit_data(data)
        if reference is not None:
            suspects = find_suspects(reference, data, cfg.labels_folds, folder, stop, console)
            files["labels"] = folder / "label_errors.csv"
            suspects.write(files["labels"])
            found = suspects.added_to(found)
    now = datetime.now().astimezone().isoformat(timespec="minutes")
    is_array = data.findings.table.images is not None
    title = str(of_data.choices.data if is_array else of_data.data.get("root") or of_data.choices.data)
    files = {"page": folder / "audit.html", "facts": folder / "audit.json"} | files
    written = f"medvision {medvision.__version__}, {now}, images of {data.image_size[0]} x {data.image_size[1]}"
    head = {"data": title, "written": now, "medvision": medvision.__version__, "fingerprint": data.fingerprint()}
    write_text(files["page"], render(found, title, written))
    write_text(files["facts"], json.dumps(head | found.to_json(), indent=2, ensure_ascii=False) + "\n")
    show(console, title, found)
    for name, path in files.items():
        console.print(f"{name:7}{path}", soft_wrap=True, markup=False)
    show_disclaimer(console)
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


def _tolerant(cfg: DictConfig) -> DictConfig:
    """The same data, refusing nothing that the audit reports."""
    cfg = cfg.copy()
    cfg.data.leakage = "drop"
    cfg.data.on_bad_image = "quarantine"
    cfg.data.max_bad_fraction = 1.0
    return cfg


if __name__ == "__main__":
    main()
