"""The command `python -m medvision.compare runs=[DIR,DIR]`: paired statistics of runs on the same test cases."""

import json
from datetime import datetime
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

import medvision
from medvision.command import run_command
from medvision.comparison_runs import ONE_PROCESS, check, train
from medvision.errors import RunError
from medvision.files import replacing, write_text
from medvision.rundir import fresh, shared, writable


def main() -> None:
    """Compare what the command line says."""
    run_command("compare", compare)


def compare(cfg: DictConfig) -> None:
    """Find or train the runs of a config, compare them, and write the page."""
    check(cfg)
    # These take a second, which --help and mistyped overrides need not wait for.
    from medvision import finished
    from medvision.comparison_console import show
    from medvision.evaluation import comparison_page, comparison_plots
    from medvision.evaluation.comparison import compare as compare_candidates
    from medvision.evaluation.comparison_text import cautions, sentences

    console = Console(highlight=False)
    folder = _folder(cfg) if cfg.models else None
    places = train(cfg, folder) if folder is not None else cfg.runs
    with console.status("comparing"):
        runs, left_out = finished.find([places] if isinstance(places, str) else list(places))
        candidates = finished.candidates(runs)
        found = compare_candidates(candidates, cfg.evaluation.confidence_level, cfg.evaluation.n_resamples)
        notes = [*left_out, *finished.notes(runs), *([ONE_PROCESS] if cfg.models else []), *cautions(found)]
        now = datetime.now().astimezone().isoformat(timespec="minutes")
        facts = {
            "written": now,
            "medvision": medvision.__version__,
            "metric": cfg.metric,
            "sentences": [text for _, text in sentences(found, cfg.metric)],
            "notes": notes,
            **found.to_json(),
        }
        page = comparison_page.render(found, cfg.metric, notes, f"medvision {medvision.__version__}, {now}")
        folder = folder or _folder(cfg)
        files = {kind: folder / f"comparison.{kind}" for kind in ("html", "csv", "json", "png")}
        write_text(files["html"], page)
        write_text(files["csv"], comparison_page.table(found).to_csv(index=False, lineterminator="\n"))
        write_text(files["json"], json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
        with replacing(files["png"]) as temporary:
            temporary.write_bytes(comparison_plots.png(found, cfg.metric))
    show(console, found, cfg.metric, notes)
    for label, kind in (("page", "html"), ("numbers", "csv"), ("facts", "json"), ("figure", "png")):
        console.print(f"{label:<8} {files[kind]}", soft_wrap=True, markup=False)
    console.print("Research use only: not a medical device.", style="dim")


def _folder(cfg: DictConfig) -> Path:
    """The directory of the comparison."""
    if (peer := shared()) is not None:
        return peer.path.parents[1]
    with writable("comparison"):
        if cfg.out is None:
            return fresh(Path(cfg.output_root).absolute() / "compare")
        folder = Path(cfg.out).absolute()
        if (folder / "run.json").exists():
            raise RunError(f"{folder} holds a run.\nChoose another out=DIR for the comparison.")
        folder.mkdir(parents=True, exist_ok=True)
    return folder


if __name__ == "__main__":
    main()
