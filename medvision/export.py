"""The command `medvision export run=DIR`: a trained model as one file, kept only if it predicts the same."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from medvision.cli.entry import run_command
from medvision.errors import UserError

if TYPE_CHECKING:
    from medvision.inference.evidence import Evidence
    from medvision.inference.export import Export
    from medvision.inference.predictor import Predictor
    from medvision.metrics.estimates import Estimate

log = logging.getLogger(__name__)

DIFFERENT = 1  # the exit code


def main() -> None:
    """Export with the configuration of the command line."""
    run_command("export", export)


def export(cfg: DictConfig) -> int:
    """Export the model of a run; 0 if the file predicts as the run's model does, else `DIFFERENT`."""
    # These load torch, which --help and mistyped overrides need not wait for.
    from medvision.cli.console import logging_to, show_disclaimer
    from medvision.cli.stop_signal import StopSignal
    from medvision.inference.bundle import model_directory
    from medvision.inference.export import SUFFIXES, check_choices, exportable
    from medvision.inference.export import export as export_model

    check_choices(cfg.format, cfg.quantize)
    console = Console(highlight=False)
    with StopSignal().installed(), logging_to(None, console):
        predictor = exportable(Path(cfg.run))
        bundle = model_directory(cfg.run).resolve()
        suffix = SUFFIXES[cfg.format] if cfg.quantize == "none" else f".{cfg.quantize}{SUFFIXES[cfg.format]}"
        out = Path(cfg.out or f"{bundle}{suffix}").absolute()
        evidence = _evidence(cfg, bundle, predictor)
        found = export_model(bundle, out, evidence, format=cfg.format, quantize=cfg.quantize)
    show(console, found, evidence)
    if found.path is None:
        console.print(
            "The predictions of the file differ from those of the bundle. Nothing was written.", style="bold red"
        )
        return DIFFERENT
    console.print(f"file   {found.path}", soft_wrap=True, markup=False)
    show_disclaimer(console)
    return 0


def show(console: Console, found: "Export", evidence: "Evidence") -> None:
    """Print how file and bundle compare, and what quantisation costs."""
    n = len(evidence.images)
    console.print(f"{n} images, {evidence.source}", style="bold", soft_wrap=True)  # a title wraps with its table
    table = Table()
    table.add_column("model")
    for column in ("MB", "images/s", "largest difference", "same labels"):
        table.add_column(column, justify="right")
    for one in found.runtimes:
        compared = ("", "") if one is found.runtimes[0] else (f"{one.difference:.1e}", f"{round(one.agreement * n)}")
        table.add_row(one.name, f"{one.megabytes:.1f}", f"{one.images_per_second:,.0f}", *compared)
    console.print(table)
    if (cost := found.cost) is not None:
        quantised, exact = found.runtimes[2], found.runtimes[1]
        console.print(f"8 bits keep the label of {_percent(cost.agreement)} of {cost.agreement.n:,} other images.")
        if cost.accuracy is not None and cost.accuracy_before is not None:
            console.print(f"Accuracy on them: {_percent(cost.accuracy_before)} before, {_percent(cost.accuracy)} now.")
        speed = quantised.images_per_second / exact.images_per_second
        console.print(f"Speed: {speed:.2f} of full precision{'' if speed > 1 else ', no gain on this machine'}.")


def _percent(share: "Estimate") -> str:
    return f"{share.value:.1%} ({share.low:.1%} to {share.high:.1%})"


def _evidence(cfg: DictConfig, bundle: Path, predictor: "Predictor") -> "Evidence":
    """Images to compare on: the given ones, the run's own, or noise; it is said which."""
    from medvision.inference.evidence import Evidence

    if cfg.images is not None:
        return Evidence.from_folder(Path(cfg.images), predictor.decode)
    config = bundle.parent / "config.yaml"
    if not config.is_file():
        reason = f"{config} does not exist"
    else:
        try:
            return _run_images(bundle)
        except UserError as error:  # its data has moved: no reason not to export
            reason = str(error).partition("\n")[0]
    log.warning(
        "The run's images are not available (%s); comparing on noise. images=DIR compares on real ones.", reason
    )
    return Evidence.at_random(predictor.decode)


def _run_images(bundle: Path) -> "Evidence":
    """Test images of a run to compare on, training images to calibrate with, validation images to measure on."""
    from medvision.config.compose import stored
    from medvision.inference.bundle import read_manifest
    from medvision.inference.evidence import N_CALIBRATION, N_COMPARED, N_HELD_OUT, Evidence, spread
    from medvision.pipeline.prepare import read_data
    from medvision.runs.saved_run import SavedRun

    data = read_data(stored(SavedRun.open(bundle.parent).config))
    same = data.fingerprint() == read_manifest(bundle)["fingerprint"]
    sizes = {"test": N_COMPARED, "train": N_CALIBRATION, "val": N_HELD_OUT}
    rows = {split: np.flatnonzero(data.table.splits == split) for split in sizes}
    rows = {split: some[spread(len(some), sizes[split])] for split, some in rows.items()}
    test, train, val = (data.pixels(some) for some in rows.values())
    source = f"of the run's test split{'' if same else ', whose data has changed since training'}"
    return Evidence(source, test, train, val, data.table.labels[rows["val"]])


if __name__ == "__main__":
    main()
