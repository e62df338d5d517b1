"""The results of a labelling: annotations.csv, review page, images to label next, scores, and a summary."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from medvision.cli.console import show_disclaimer, show_estimates
from medvision.errors import ModelError
from medvision.files import write_text
from medvision.inference.onnx import OnnxPredictor
from medvision.inference.predicts import Model
from medvision.labelling.active_learning import select_uncertain
from medvision.labelling.annotate import ANNOTATIONS, read_embeddings
from medvision.labelling.annotations import (
    STATUSES,
    Index,
    index_annotations,
    read_rows,
    truths_and_predictions,
    write_csv,
    write_selection,
)
from medvision.labelling.review.page import DrawMaps, write_review
from medvision.metrics.estimates import placed, to_json
from medvision.metrics.evaluate import evaluate

log = logging.getLogger(__name__)

_MEANING = {
    "review": "a human should look",
    "rejected": "unlike the training images",
    "auto": "the label can stand",
    "unreadable": "no usable image",
}


def write_outputs(
    out: Path,
    model: Model,
    console: Console,
    cfg: Any,
    *,
    key: str,
    written: str,
    progress: Callable[[int, int], None],
) -> None:
    """Write everything that is made of annotations.jsonl, and say what is there.

    Args:
        out: the folder of a finished job.
        model: that made the annotations.
        console: to print on.
        cfg: `images`, `review`, `select`, `k` and `evaluation` of conf/predict.yaml.
        key: of the job; see `write_review`.
        written: for the foot of the page.
        progress: called with the number of pages' images done and of all.
    """
    index = index_annotations(out)
    table = write_csv(out, model.class_names)
    files = {"annotations": table, "as JSON Lines": out / ANNOTATIONS}
    if cfg.review:
        draw_maps, no_map = _maps(model)
        pages = write_review(
            out,
            index,
            model.class_names,
            model.decode,
            title=Path(cfg.images).name or str(cfg.images),
            written=written,
            key=key,
            limit=cfg.review,
            draw_maps=draw_maps,
            no_map=no_map,
            progress=progress,
        )
        megabytes = sum(page.stat().st_size for page in pages) / 1e6
        files[f"review ({megabytes:.1f} MB)"] = pages[0]
    if cfg.select != "none":
        files["label next"] = _select(out, index, cfg.k)
    score = _score(out, model, console, cfg)
    if score is not None:
        files["scores"] = score
    _show(console, index)
    for name, path in files.items():
        console.print(f"{name:16}{path}", markup=False)
    if model.decision.ood is None:
        console.print(
            "The model has no out-of-distribution check: images unlike its training images were not detected."
        )
    show_disclaimer(console)


def _maps(model: Model) -> tuple[DrawMaps | None, str]:
    """What draws the class activation maps, or why there are none."""
    if isinstance(model, OnnxPredictor):
        return None, "No heat maps: an ONNX file cannot say where it looked; the bundle can."
    from medvision.inference.explain import activation_maps, overlay, why_no_maps

    try:
        reason = why_no_maps(model)
    except ModelError as error:  # a classical model
        reason = str(error)
    if reason:
        return None, f"No heat maps: {reason}"
    return lambda images, classes: list(map(overlay, images, activation_maps(model, images, classes))), ""


def _select(out: Path, index: Index, k: int) -> Path:
    """Choose among the images that the model has a say on."""
    eligible = np.flatnonzero(np.isin(index.status, [STATUSES.index("review"), STATUSES.index("auto")]))
    if len(eligible) < k:
        log.warning("Only %d image(s) can be chosen from, fewer than k=%d.", len(eligible), k)
    embeddings = read_embeddings(out, len(index.status))
    chosen = select_uncertain(1 - index.confidence, embeddings, k, eligible)
    return write_selection(out, list(read_rows(out, index, chosen)))


def _score(out: Path, model: Model, console: Console, cfg: Any) -> Path | None:
    predictions = truths_and_predictions(out, model.class_names)
    if predictions is None:
        return None
    level, n_resamples = cfg.evaluation.confidence_level, cfg.evaluation.n_resamples
    estimates = evaluate(predictions, level, n_resamples)
    content = to_json(placed(estimates, split="external"))
    write_text(out / "metrics.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    show_estimates(console, f"Predictions against the labels of {cfg.images}", estimates, level)
    return out / "metrics.json"


def _show(console: Console, index: Index) -> None:
    table = Table(title=f"{len(index.status):,} images", title_justify="left", title_style="bold")
    for column in ("status", "meaning"):
        table.add_column(column)
    for column in ("images", "share"):
        table.add_column(column, justify="right")
    for name, count in index.counts.items():
        table.add_row(name, _MEANING[name], f"{count:,}", f"{count / len(index.status):.1%}")
    console.print(table)
