"""How many labels it takes to come near the score of all labels, chosen by uncertainty and diversity or at random.

Both begin with the same random images. In each round a model is trained from scratch on what is labelled and tested;
then `medvision.labelling.active_learning.select_uncertain`, which is what `medvision predict select=uncertainty`
calls, or chance, says which images are labelled next. Writes annotation.csv and annotation.svg beside itself.

    OMP_NUM_THREADS=1 python experiments/annotation/annotation.py
"""

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import cross_entropy

from medvision.config.compose import compose
from medvision.data.datamodule import ImageDataModule
from medvision.data.layouts.arrays import mnist
from medvision.data.layouts.folders import image_folder
from medvision.data.options import DataOptions
from medvision.data.table import SplitArrays
from medvision.inference.predictor import Predictor
from medvision.labelling.active_learning import select_uncertain
from medvision.models.features import HOG
from medvision.models.small_cnn import small_cnn
from medvision.randomness import generator, key

SHARE = 0.95  # of the score of all labels
HERE = Path(__file__).parent
COLOURS = {"uncertainty": "#0b6e99", "random": "#b3541e"}

Outputs = tuple[NDArray[np.float64], NDArray[np.floating]]


class Study(NamedTuple):
    """A pool of images whose labels can be asked for, test images, and how a model is made.

    `fit(rows, seed)` trains on rows of the pool; what it returns gives probabilities and embeddings of the pool
    ("train") or the test images ("test").
    """

    train: SplitArrays
    test: SplitArrays
    fit: Callable[[NDArray[np.intp], int], Callable[[str], Outputs]]
    step: int
    most: int
    seeds: int


def study_mnist(root: Path) -> Study:
    """A network on 5,000 random training images of MNIST; 5,000 random ones of its test images."""
    data = ImageDataModule(partial(mnist, root), DataOptions(max_train_samples=5000))
    data.setup()
    test = data.split("test")
    some = generator("annotation", "test").permutation(len(test.ids))[:5000]
    test = SplitArrays(test.images[some], test.targets[some], test.ids[some], test.groups[some], {})
    return Study(data.split("train"), test, partial(fit_network, data, test), step=50, most=700, seeds=3)


def fit_network(
    data: ImageDataModule, test: SplitArrays, rows: NDArray[np.intp], seed: int
) -> Callable[[str], Outputs]:
    """The article's network: 300 steps of Adam, or five epochs where these are more."""
    train = data.split("train")
    torch.manual_seed(key("annotation", "weights", seed))
    network = small_cnn(data.num_classes, data.in_channels, data.image_size)
    network.set_statistics(*(values.tolist() for values in data.channel_statistics()))
    network.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    steps = max(300, 5 * len(rows) // 32)
    for step, (images, targets) in zip(range(steps), _batches(train, rows, seed), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (1 - step / steps)
        optimizer.zero_grad()
        cross_entropy(network(images), targets).backward()
        optimizer.step()
    decode = {"size": data.image_size, "channels": data.in_channels, "resize": "letterbox"}
    predictor = Predictor(network, data.task, decode=decode)
    return lambda part: predictor.probs_and_embeddings((train if part == "train" else test).images)


def _batches(train: SplitArrays, rows: NDArray[np.intp], seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of 32 without end, each pass in another order."""
    rng = generator("annotation", "order", seed)
    while True:
        order = rng.permutation(rows)
        for start in range(0, len(order), 32):
            some = order[start : start + 32]
            images = torch.from_numpy(train.images[some]).contiguous(memory_format=torch.channels_last)
            yield images, torch.from_numpy(train.targets[some])


def study_brain_mri(root: Path) -> Study:
    """Gradients and logistic regression on brain MRI slices of 64 px; a fifth of the official training part tests.

    The official test part is of another kind than the training part, on which any choice of labels fails alike.
    """
    source = partial(image_folder, root / "brain_mri")
    data = ImageDataModule(source, DataOptions(image_size=64, channels=1, n_folds=5, fold=0, val_fraction=0.05))
    data.setup()
    train, test = data.split("train"), data.split("test")
    hog = HOG(cell=8)
    # Fitted on the pool, which needs no labels.
    components = PCA(100, random_state=0).fit(hog(train.images))
    features = {"train": components.transform(hog(train.images)), "test": components.transform(hog(test.images))}
    spread = features["train"].std()
    scaled = {part: values / spread for part, values in features.items()}
    fit = partial(fit_regression, scaled, train.targets, data.num_classes)
    return Study(train, test, fit, step=50, most=1500, seeds=10)


def fit_regression(
    features: dict[str, NDArray[np.floating]],
    targets: NDArray[np.int64],
    num_classes: int,
    rows: NDArray[np.intp],
    seed: int,
) -> Callable[[str], Outputs]:
    """Logistic regression on features that do not change."""
    model = LogisticRegression(max_iter=2000).fit(features["train"][rows], targets[rows])

    def outputs(part: str) -> Outputs:
        probs = np.zeros((len(features[part]), num_classes))
        probs[:, model.classes_] = model.predict_proba(features[part])
        return probs, features[part]

    return outputs


def curve(study: Study, strategy: str, seed: int) -> Iterator[tuple[int, float]]:
    """Number of labels and accuracy after each round."""
    order = generator("annotation", "chance", seed).permutation(len(study.train.ids))
    labelled = order[: study.step]
    while True:
        outputs = study.fit(labelled, seed)
        yield len(labelled), accuracy(study, outputs)
        if len(labelled) >= study.most:
            return
        if strategy == "random":
            labelled = order[: len(labelled) + study.step]
            continue
        probs, embeddings = outputs("train")
        open_ = np.setdiff1d(order, labelled)
        labelled = np.concatenate([labelled, select_uncertain(1 - probs.max(axis=1), embeddings, study.step, open_)])


def accuracy(study: Study, outputs: Callable[[str], Outputs]) -> float:
    return float((outputs("test")[0].argmax(axis=1) == study.test.targets).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE)
    out = parser.parse_args().out
    root = Path(compose("data=mnist").data.root)
    begin, rows = time.perf_counter(), []
    for name, read in (("MNIST", study_mnist), ("brain MRI", study_brain_mri)):
        study = read(root)
        everything = np.arange(len(study.train.ids))
        for seed in range(study.seeds):
            rows.append((name, "all", seed, len(everything), accuracy(study, study.fit(everything, seed))))
            for strategy in COLOURS:
                rows += [(name, strategy, seed, n, score) for n, score in curve(study, strategy, seed)]
            print(f"{name}, seed {seed}: {time.perf_counter() - begin:.0f} s", flush=True)
    results = pd.DataFrame(rows, columns=["data", "strategy", "seed", "labels", "accuracy"])
    results.to_csv(out / "annotation.csv", index=False, float_format="%.4f", lineterminator="\n")
    draw(results).savefig(out / "annotation.svg", metadata={"Date": None})
    print(summary(results).to_string(index=False))


def target(of_data: pd.DataFrame) -> float:
    return SHARE * float(of_data.loc[of_data["strategy"] == "all", "accuracy"].mean())


def labels_needed(one: pd.DataFrame, goal: float) -> float:
    """The first number of labels that reaches the goal and does not fall below it in the next round; else infinity."""
    reached = one["accuracy"].to_numpy() >= goal
    stays = reached & np.append(reached[1:], reached[-1])
    return float(one["labels"].to_numpy()[stays.argmax()]) if stays.any() else np.inf


def summary(results: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for name, of_data in results.groupby("data", sort=False):
        goal, full = target(of_data), of_data[of_data["strategy"] == "all"]
        for strategy in COLOURS:
            found = of_data[of_data["strategy"] == strategy]
            needed = [labels_needed(one, goal) for _, one in found.groupby("seed")]
            last = found[found["labels"] == found["labels"].max()]["accuracy"]
            rows.append(
                {
                    "data": name,
                    "full": f"{full['accuracy'].mean():.1%} with {full['labels'].iloc[0]:,}",
                    "goal": f"{goal:.1%}",
                    "strategy": strategy,
                    "labels needed, median": f"{np.median(needed):g}",
                    "range": f"{min(needed):g} to {max(needed):g}",
                    "at the end": f"{last.mean():.1%} with {found['labels'].max()}",
                }
            )
    return pd.DataFrame(rows)


def draw(results: pd.DataFrame) -> Figure:
    """A panel for each data set: median of the seeds, and all of them between lowest and highest."""
    names = list(dict.fromkeys(results["data"]))
    figure = Figure(figsize=(4.5 * len(names), 3.4), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names)), names, strict=True):
        of_data = results[results["data"] == name]
        for strategy, colour in COLOURS.items():
            by_labels = of_data[of_data["strategy"] == strategy].groupby("labels")["accuracy"]
            axes.plot(by_labels.median(), color=colour, label=strategy)
            axes.fill_between(by_labels.min().index, by_labels.min(), by_labels.max(), color=colour, alpha=0.15, lw=0)
        goal = target(of_data)
        axes.axhline(goal, color="0.4", lw=1, ls="--", label=f"{SHARE:.0%} of the score with all labels")
        axes.set(title=name, xlabel="labels", ylabel="accuracy", ylim=(max(0, goal - 0.35), None))
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="lower right", frameon=False)
    return figure


if __name__ == "__main__":
    main()
