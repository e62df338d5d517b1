"""What a search leaves behind: trials.csv, tune.html, and the best trial as an experiment."""

import math
import shlex
import warnings
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial, reduce
from pathlib import Path
from typing import Any, cast

import optuna
import pandas as pd
import yaml
from omegaconf import DictConfig, OmegaConf
from optuna.trial import FrozenTrial, TrialState

import medvision
from medvision.config.compose import compose
from medvision.config.conf import options
from medvision.config.redact import without_passwords
from medvision.files import write_text
from medvision.reports.pages import render
from medvision.reports.plots import to_svg
from medvision.reports.search_plots import draw_history, draw_importance
from medvision.search.space import Dimension, override, rounded

# Fewer finished trials than these say nothing of what mattered.
_ENOUGH_TRIALS = 8
_STATUS = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned", TrialState.RUNNING: "running"}


def write(
    study: optuna.Study, cfg: DictConfig, typed: Sequence[str], space: Sequence[Dimension], folder: Path
) -> FrozenTrial | None:
    """Write the files of a search, and return its best trial; None where none was finished.

    Args:
        study: of the search.
        cfg: of the command `tune`.
        typed: overrides that every trial has.
        space: what a trial could choose.
        folder: of the search.
    """
    rows = _rows(study, space)
    columns = {"trial": "number", "status": "status", cfg.monitor: "value", "epochs": "epochs", "seconds": "seconds"}
    lines = [
        {name: row[key] for name, key in columns.items()} | row["chosen"] | {"reason": row["reason"]} for row in rows
    ]
    write_text(folder / "trials.csv", pd.DataFrame(lines).to_csv(index=False, lineterminator="\n"))
    best = _best(study)
    if best is not None:
        (folder / "experiment").mkdir(exist_ok=True)
        finished = sum(row["value"] is not None for row in rows)
        write_text(folder / "experiment" / "best.yaml", experiment(best, finished, cfg, typed, space))
        _keep_options(best, cfg, typed, space, folder)
    write_text(folder / "tune.html", _page(study, best, cfg, space, rows, folder))
    return best


def experiment(
    best: FrozenTrial, finished: int, cfg: DictConfig, typed: Sequence[str], space: Sequence[Dimension]
) -> str:
    """The configuration of the best of the finished trials as an experiment file, with what made it at its head."""
    chosen = [override(name, value) for name, value in values(best, space).items()]
    own = _composed(best, cfg, typed, space)
    choices = own.pop("choices")
    for name in ("overrides", "config_dir", "out", "resume", "output_root", "logger"):
        own.pop(name, None)
    chosen = sorted(group for group in choices if group not in ("experiment", "logger"))
    groups = [{f"override /{group}": choices[group]} for group in chosen]
    head = [
        "# @package _global_",
        f"# The best trial of the search {cfg.study}: number {best.number}.",
        "#",
        f"#   {command(cfg)}",
        "#",
        f"# {cfg.monitor} {best.value:.4f}: the best of {finished} on validation, so new cases will be less kind.",
        "# The test images had no part in it.",
        "#",
        *(f"#   {line}" for line in chosen),
        "",
    ]
    # A value with a line break would end the comment.
    text = "\n".join(line.replace("\r", " ") for line in head)
    return text + "\n" + yaml.safe_dump({"defaults": groups} | own, sort_keys=False, allow_unicode=True)


def command(cfg: DictConfig) -> str:
    """What was typed, without the password of a storage."""
    lines = [without_passwords(line) for line in cfg.overrides]
    place = ["--config-dir", cfg.config_dir] if "config_dir" in cfg else []
    return f"medvision tune {shlex.join([*lines, *place])}".replace("\n", " ").rstrip()


def values(trial: FrozenTrial, space: Sequence[Dimension]) -> dict[str, Any]:
    """What a trial chose."""
    return {one.key: one.decoded(trial.params[one.key]) for one in space if one.key in trial.params}


def _composed(trial: FrozenTrial, cfg: DictConfig, typed: Sequence[str], space: Sequence[Dimension]) -> dict[str, Any]:
    """The configuration of a trial."""
    chosen = [override(name, value) for name, value in values(trial, space).items()]
    own = OmegaConf.to_container(compose(*typed, *chosen, config_dir=cfg.get("config_dir")))
    return cast(dict[str, Any], own)


def _keep_options(
    best: FrozenTrial, cfg: DictConfig, typed: Sequence[str], space: Sequence[Dimension], folder: Path
) -> None:
    """Put options of the user's --config-dir beside the experiment, which is trained from the search's folder alone."""
    own = _composed(best, cfg, typed, space)
    for group, name in own["choices"].items():
        if group != "experiment" and name is not None and name not in options(group):
            node = reduce(dict.__getitem__, group.split("/"), own)
            file = folder / group / f"{name}.yaml"
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, yaml.safe_dump(node, sort_keys=False, allow_unicode=True))


def _best(study: optuna.Study) -> FrozenTrial | None:
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return study.best_trial if finished else None


def _rows(study: optuna.Study, space: Sequence[Dimension]) -> list[dict[str, Any]]:
    """The trials, best first; failed ones, whose command was repeated, are left out."""
    best, rows = _best(study), []
    for trial in study.get_trials(deepcopy=False, states=tuple(_STATUS)):
        chosen = values(trial, space)
        reason = trial.user_attrs.get("failed", "")
        rows.append(
            {
                "number": trial.number,
                "status": "failed" if reason else _STATUS[trial.state],
                "value": trial.value if trial.state == TrialState.COMPLETE else None,
                "last": trial.value if trial.state == TrialState.PRUNED else None,
                "epochs": trial.last_step,
                "seconds": trial.duration.total_seconds() if trial.duration else None,
                "chosen": chosen,
                "values": [override(name, rounded(value)) for name, value in chosen.items()],
                "reason": reason,
                "is_best": best is not None and trial.number == best.number,
            }
        )
    sign = 1 if study.direction == optuna.study.StudyDirection.MINIMIZE else -1
    return sorted(rows, key=lambda row: math.inf if row["value"] is None else sign * row["value"])


def _page(
    study: optuna.Study,
    best: FrozenTrial | None,
    cfg: DictConfig,
    space: Sequence[Dimension],
    rows: Sequence[Mapping[str, Any]],
    folder: Path,
) -> str:
    finished = sorted((row["number"], row["value"]) for row in rows if row["value"] is not None)
    shares = _importance(study, [value for _, value in finished])
    pruned = [(row["number"], row["last"]) for row in rows if row["last"] is not None]
    draw = partial(draw_history, finished, pruned, cfg.monitor == "val/loss", cfg.monitor)
    notes = [] if shares else [f"Importance is shown from {_ENOUGH_TRIALS} finished trials."]
    counts = ", ".join(
        f"{count} {status}"
        for status in ("finished", "pruned", "failed", "running")
        if (count := sum(row["status"] == status for row in rows))
    )
    headline = "No trial was finished." if best is None else f"Trial {best.number}: {cfg.monitor} {best.value:.4f}."
    now = datetime.now().astimezone().isoformat(timespec="minutes")
    return render(
        "search.html.j2",
        title=f"Search {cfg.study}",
        kicker=f"{len(rows)} of {cfg.n_trials} trials: {counts}.",
        written=f"{command(cfg)} · medvision {medvision.__version__}, {now}",
        headline=headline,
        command=f"medvision train --config-dir {shlex.quote(str(folder))} experiment=best" if best else None,
        notes=notes,
        best=[(one.key, _told(values(best, space).get(one.key)), one.described()) for one in space] if best else [],
        history=to_svg(draw, "history", f"{cfg.monitor} of each trial, and the best so far") if finished else None,
        importance=to_svg(partial(draw_importance, shares), "importance", "Importance of each key") if shares else None,
        monitor=cfg.monitor,
        rows=rows,
    )


def _importance(study: optuna.Study, scores: Sequence[float]) -> dict[str, float]:
    if len(scores) < _ENOUGH_TRIALS or len(set(scores)) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def _told(value: Any) -> str:
    return str(rounded(value))
