"""The article's comparison: a CNN against a support vector machine and a decision tree, by number of training images.

    python experiments/cnn_vs_classical/run.py

Digits come with scikit-learn; MNIST, brain_mri and the JPEG copy of CIFAR-10 are looked for in MEDVISION_DATA. Runs go
to --out and are kept: those that are finished there are not trained again, interrupted ones go on. Results go beside
this script, or to --results: results.csv, pairs.csv, tables.md and accuracy.png.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from presentation import TITLES, figure, summary, tables

from medvision import compose, fit
from medvision.comparison.compare import Candidate, compare
from medvision.comparison.groups import FinishedRun, find
from medvision.config.compose import quoted
from medvision.inference.robustness import STRENGTHS, sample
from medvision.metrics.estimates import Key
from medvision.runs.saved_run import SavedRun

MODELS = {
    "small_cnn": "CNN",
    "svm": "SVM",
    "random_forest": "random forest",
    "decision_tree": "decision tree",
    "majority": "majority",
}
# All training images (None) where there are few; all of MNIST and CIFAR are in conf/experiment/.
SIZES = {
    "digits": [100, 300, 1000, None],
    "mnist": [100, 300, 1000, 3000],
    "cifar": [100, 300, 1000, 3000],
    "brain_mri": [100, 300, 1000, None],
}
STRENGTH = 3  # of the corruptions, of 5
SHARED = (
    "trainer.accelerator=cpu",
    "logger=none",
    "augmentation=none",
    "optimizer=adamw",
    "optimizer.lr=3e-3",
    "scheduler=one_cycle",
    "monitor=val/accuracy",  # the loss is lowest long before, and what is asked is accuracy
    "data.batch_size=32",
    "evaluation.report=false",
    "evaluation.pictures=0",
    "evaluation.n_resamples=100",  # the intervals of accuracy are Wilson's and of differences Bonett and Price's
)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=TITLES, default=list(TITLES))
    parser.add_argument("--cifar", type=Path, help="folder of the CIFAR copy; by default MEDVISION_DATA/cifar10_jpeg")
    parser.add_argument("--out", type=Path, default=Path("outputs/cnn_vs_classical"), help="folder of the runs")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent)
    parser.add_argument("--tiny", action="store_true", help="digits alone, two sizes, one epoch: to try the script")
    given = parser.parse_args(arguments)
    names = ["digits"] if given.tiny else given.data
    given.results.mkdir(parents=True, exist_ok=True)
    results, pairs = [], []
    for data in names:
        sizes = [100, 300] if given.tiny else SIZES[data]
        for size in sizes:
            folders = [given.out / data / str(size or "all") / model for model in MODELS]
            for folder in folders:
                # Few images need more passes. Only the CNN makes any.
                epochs = 1 if given.tiny else 30 if size and size <= 1000 else 20
                train(folder, data, size, epochs, robust=size == sizes[-1], cifar=given.cifar)
            runs, _ = find([str(folder) for folder in folders])
            results += [measured(data, run) for run in runs]
            pairs += paired(data, runs)
    table, differences = pd.DataFrame(results), pd.DataFrame(pairs)
    table.to_csv(given.results / "results.csv", index=False, float_format="%.6g")
    differences.to_csv(given.results / "pairs.csv", index=False, float_format="%.6g")
    (given.results / "tables.md").write_text(tables(table, differences) + "\n" + summary(table, differences))
    FigureCanvasAgg(figure(table)).print_png(given.results / "accuracy.png")


def train(folder: Path, data: str, size: int | None, epochs: int, robust: bool, cifar: Path | None) -> None:
    """Train one model into its folder, unless that is done."""
    root = Path(os.environ.get("MEDVISION_DATA", "data"))
    sources = {
        "digits": ["data=digits"],
        "mnist": ["data=mnist", "data.val_fraction=0.01"],
        "cifar": [
            "data=image_folder",
            f"data.root={quoted(cifar or root / 'cifar10_jpeg')}",
            "data.image_size=32",
            "data.val_fraction=0.01",
        ],
        "brain_mri": [
            "data=image_folder",
            f"data.root={quoted(root / 'brain_mri')}",
            "data.image_size=64",
            "data.channels=1",
        ],
    }
    run = SavedRun(folder)
    if run.is_finished:
        return
    fit(
        compose(
            *sources[data],
            *SHARED,
            f"model={folder.name}",
            f"trainer.max_epochs={epochs}",
            f"data.max_train_samples={size or 'null'}",
            f"evaluation.robustness={str(robust).lower()}",
            f"{'resume' if run.is_resumable else 'out'}={quoted(folder)}",
        )
    )


def measured(data: str, run: FinishedRun) -> dict[str, object]:
    """A line of results.csv."""
    metrics, said = run.saved.metrics, run.predictions
    accuracy, costs = metrics[Key("accuracy", split="test")], run.cost()
    loss, n = None, None
    kinds = [(kind, str(STRENGTH)) for kind in STRENGTHS]
    corrupted = [metrics.get(Key("accuracy", None, "robustness", names, "test")) for names in kinds]
    if corrupted[0] is not None:
        n = corrupted[0].n
        rows = sample(said.targets, n, 0)  # the images that were corrupted
        clean = float((said.preds == said.targets)[rows].mean())
        loss = clean - float(np.mean([one.value for one in corrupted]))
    return {
        "data": data,
        "model": MODELS[run.saved.path.name],
        "train_images": run.saved.facts["data"]["images"]["train"],
        "val_images": run.saved.facts["data"]["images"]["val"],
        "seed": run.saved.config["seed"],
        "test_images": accuracy.n,
        "accuracy": accuracy.value,
        "low": accuracy.low,
        "high": accuracy.high,
        "balanced_accuracy": metrics[Key("balanced_accuracy", split="test")].value,
        "log_loss": metrics[Key("log_loss", split="test")].value,
        "seconds_fit": costs["seconds_fit"],
        "seconds_predict_per_image": costs["seconds_predict_per_image"],
        "size_bytes": costs["size_bytes"],
        "corruption_loss": loss,
        "corruption_images": n,
    }


def paired(data: str, runs: Sequence[FinishedRun]) -> list[dict[str, object]]:
    """Lines of pairs.csv: differences of accuracy on the same test images, Holm's correction over the pairs."""
    found = compare([Candidate.of(MODELS[run.saved.path.name], run.predictions) for run in runs], n_resamples=100)
    size = runs[0].saved.facts["data"]["images"]["train"]
    lines = []
    for pair in found.pairs:
        one = pair.differences["accuracy"]
        line = {"data": data, "train_images": size, "first": pair.first, "second": pair.second}
        values = {"difference": one.value, "low": one.low, "high": one.high, "p_holm": one.p_holm}
        lines.append(line | values | {"distinguishable": one.distinguishable})
    return lines


if __name__ == "__main__":
    main()
