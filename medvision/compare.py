"""The command `medvision compare runs=[DIR,DIR]`: paired statistics of runs on the same test cases."""

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from rich.text import Text

import medvision
from medvision.cli.entry import run_command
from medvision.config.compose import compose, quoted
from medvision.config.targets import load_metrics
from medvision.errors import ConfigError
from medvision.files import replacing, write_text
from medvision.runs.directory import RunDirectory, output_directory, shared

if TYPE_CHECKING:
    from medvision.comparison.compare import Comparison

# Keys of the comparison itself, which the models that it trains do not have.
OWN = ("runs", "models", "metric", "out", "output_root")
_WITH_RUNS = (*OWN, "evaluation.confidence_level", "evaluation.n_resamples", "evaluation.metrics")
_ONE_PROCESS = (
    "The models were trained one after another in one process: the peak memory of each includes what the ones before "
    "it had loaded."
)
_SENTENCES = 15  # on the terminal; the page has all


def main() -> None:
    """Compare with the configuration of the command line."""
    run_command("compare", compare)


def compare(cfg: DictConfig) -> None:
    """Find or train the runs of a configuration, compare them, and write the page."""
    check(cfg)
    # These take a second, which --help and mistyped overrides need not wait for.
    from medvision.cli.console import show_disclaimer
    from medvision.comparison import groups
    from medvision.comparison.compare import compare as compare_candidates
    from medvision.reports import comparison_page, comparison_plots
    from medvision.reports.comparison_text import caveats, sentences

    console = Console(highlight=False)
    parent = Path(cfg.output_root).absolute() / "compare"
    peer = shared()
    folder = None
    if cfg.models:
        folder = peer.path.parents[1] if peer is not None else output_directory(cfg.out, parent, "comparison")
    places = cfg.runs if folder is None else train(cfg, folder)
    with console.status("comparing"):
        runs, left_out = groups.find([places] if isinstance(places, str) else list(places))
        options = cfg.evaluation
        found = compare_candidates(groups.candidates(runs), options.confidence_level, options.n_resamples)
        notes = [*left_out, *groups.notes(runs), *([_ONE_PROCESS] if cfg.models else []), *caveats(found)]
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
        folder = folder or output_directory(cfg.out, parent, "comparison")
        files = {kind: folder / f"comparison.{kind}" for kind in ("html", "csv", "json", "png")}
        write_text(files["html"], page)
        write_text(files["csv"], comparison_page.table(found).to_csv(index=False, lineterminator="\n"))
        write_text(files["json"], json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
        with replacing(files["png"]) as temporary:
            temporary.write_bytes(comparison_plots.png(found, cfg.metric))
    show(console, found, cfg.metric, notes)
    for label, kind in (("page", "html"), ("numbers", "csv"), ("facts", "json"), ("figure", "png")):
        console.print(f"{label:<8} {files[kind]}", soft_wrap=True, markup=False)
    show_disclaimer(console)


def check(cfg: DictConfig) -> None:
    """Refuse what cannot be compared, before anything is read or trained.

    Raises:
        ConfigError: for runs and models together, or neither; and for values that would have no effect.
    """
    names = {line.lstrip("+~").partition("=")[0]: line for line in cfg.overrides}
    if bool(cfg.runs) == bool(cfg.models):
        raise ConfigError(
            f"Expected runs=[RUN,RUN] (or a folder of runs), or models=[NAME,NAME] to be trained; "
            f"found {'both' if cfg.models else 'neither'}."
        )
    if "resume" in names or "init_from" in names:
        raise ConfigError(
            "resume and init_from belong to one model.\nUse them with medvision train, and compare its run."
        )
    if cfg.runs and (idle := [line for name, line in names.items() if name not in _WITH_RUNS]):
        raise ConfigError(f"{idle[0]} has no effect on finished runs.\nLeave it out, or train with models=[NAME,NAME].")
    _check_metric(cfg)
    if not cfg.models:
        return
    given = f"models=[{','.join(cfg.models)}]"
    if "model" in names:
        raise ConfigError(f"model and models exclude each other: {given} trains each of its options.")
    if len(set(cfg.models)) < len(cfg.models):
        raise ConfigError(f"{given} names a model twice.\nFor several seeds: medvision train -m seed=0,1,2.")
    if len(cfg.models) < 2:
        raise ConfigError(f"{given}: a comparison needs two models or more.")
    for model in cfg.models:
        compose(*_for_training(cfg), f"model={model}", config_dir=cfg.get("config_dir"))


def _check_metric(cfg: DictConfig) -> None:
    from medvision.metrics.definitions import compared  # loads SciPy

    load_metrics(cfg.evaluation.metrics)
    if cfg.metric not in compared():
        raise ConfigError(f"metric={cfg.metric}: expected one of {', '.join(compared())}.")


def train(cfg: DictConfig, folder: Path) -> list[str]:
    """Train each of `cfg.models` on the same data and splits, and return the run directories.

    Runs that an earlier comparison finished in this folder are taken as they are, interrupted ones are resumed.

    Args:
        cfg: checked.
        folder: of the comparison; runs go to `runs/<model>` below it.
    """
    from medvision.pipeline.fit import fit  # loads torch

    peer = shared()
    for model in cfg.models:
        directory = RunDirectory(folder / "runs" / model)
        if peer is not None and peer.path.name != model:
            continue  # a process that a distributed strategy started helps with one model only
        place = f"{'resume' if directory.must_stay else 'out'}={quoted(directory.path)}"
        fit(compose(*_for_training(cfg), f"model={model}", place, config_dir=cfg.get("config_dir")))
    return [str(folder / "runs" / model) for model in cfg.models]


def show(console: Console, comparison: "Comparison", metric: str, notes: Sequence[str]) -> None:
    """Print the table, a sentence for each pair, and the caveats."""
    from medvision.metrics.definitions import METRICS
    from medvision.reports.comparison_text import cases, cost, sentences, value_text

    title = f"Comparison on {cases(comparison)}, {comparison.confidence_level:.0%} intervals"
    table = Table(title=Text(title), title_justify="left", title_style="bold")
    table.add_column("model", overflow="fold")
    shown = list(dict.fromkeys([metric, "accuracy", "macro_auroc"]))
    for name in shown:
        table.add_column(METRICS[name].phrase + (", %" if METRICS[name].is_share else ""), justify="right")
    costs = {"seconds_fit": "training", "size_bytes": "size"}
    for title in costs.values():
        table.add_column(title, justify="right")
    for row in comparison.rows:
        numbers = []
        for name in shown:
            one = row.estimates[name]
            interval = (
                f" ({value_text(name, one.low)} to {value_text(name, one.high)})" if one.value is not None else ""
            )
            numbers.append(value_text(name, one.value) + interval)
        paid = [cost(name, row.cost.get(name)) for name in costs]
        seeds = f"{row.name}, mean of {row.seeds} seeds" if row.seeds > 1 and not row.is_ensemble else row.name
        table.add_row(Text(seeds), *numbers, *paid)
    console.print(table)
    said = sentences(comparison, metric)
    for pair, text in said[:_SENTENCES]:
        console.print(Text(text, "bold" if pair.differences[metric].distinguishable else ""), soft_wrap=True)
    if len(said) > _SENTENCES:
        console.print(f"... and {len(said) - _SENTENCES} more pairs on the page")
    for note in notes:
        console.print(Text(f"note: {note}", "yellow"), soft_wrap=True)


def _for_training(cfg: DictConfig) -> list[str]:
    return [line for line in cfg.overrides if line.lstrip("+~").partition("=")[0] not in OWN]


if __name__ == "__main__":
    main()
