"""What a fast recipe reaches, and how long it takes from the command to the report, over several seeds.

Each run is what a user types, `medvision train experiment=... seed=0`, in an empty folder, evaluation and
report included. Accuracy is the mean over the seeds, measured on the test images, with the views that the recipe
averages. CIFAR-10 is a copy whose pixels were compressed once more as JPEG, a folder cifar10_jpeg in MEDVISION_DATA; it
costs about 3 points of accuracy. Its files are decoded once, by whatever run comes first. `--rounds` is the number of
seeds, 5 or, of the last recipe, 3.

`cifar_fast_wide` is cifar_fast with the changes below; its evaluation leaves robustness out, which would take as
long as an epoch. It is compared with the ResNet-18 of Lightning's CIFAR-10 tutorial (github.com/Lightning-AI/tutorials,
cifar10-baseline), which gives 93 to 94 % on the original images after 40 to 50 epochs. 40 of them are extrapolated from
some steps, in the hand-written loop of `epochs.py`, in our precision and memory layout, which the tutorial does not
have, without augmentation, validation or report.

    MEDVISION_DATA=... python experiments/speed/recipes.py mnist_fast
    MEDVISION_DATA=... python experiments/speed/recipes.py cifar_fast
    MEDVISION_DATA=... python experiments/speed/recipes.py cifar_fast_wide
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from epochs import Epoch, by_hand, in_memory, noise
from measuring import Row, allowed, parser, publish, read, share, speedup

from medvision.models.small_resnet import small_resnet

RESNET_EPOCHS, RESNET_IMAGES, RESNET_BATCH, RESNET_STEPS = 40, 50_000, 128, 6


@dataclass(frozen=True)
class Recipe:
    """A recipe and what it is to reach.

    Attributes:
        overrides: as on the command line.
        accuracy: on average over the seeds, in percent.
        seconds: for each seed.
        seeds: how many.
        data: the folder in MEDVISION_DATA.
    """

    overrides: tuple[str, ...]
    accuracy: float
    seconds: float
    seeds: int
    data: str


WIDE = (
    "model.widths=[64,128,256]",
    "data.batch_size=500",
    "optimizer.lr=0.12",
    "trainer.max_epochs=14",
    "evaluation.robustness=false",
)
RECIPES = {
    "mnist_fast": Recipe(("experiment=mnist_fast",), 99.5, 60, 5, "MNIST"),
    "cifar_fast": Recipe(("experiment=cifar_fast",), 88, 360, 5, "cifar10_jpeg"),
    "cifar_fast_wide": Recipe(("experiment=cifar_fast", *WIDE), 91, 1200, 3, "cifar10_jpeg"),
}
TINY = ("trainer.max_epochs=1", "data.max_train_samples=1000", "evaluation.robustness=false")


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__file__, __doc__, rounds=5)
    options.set_defaults(rounds=None)
    options.add_argument("recipe", nargs="?", choices=RECIPES, default="mnist_fast", help="which (mnist_fast)")
    given = read(options, arguments)
    recipe = RECIPES[given.recipe]
    seeds = given.rounds or recipe.seeds
    runs = [run(recipe, seed, TINY if given.tiny else ()) for seed in range(seeds)]
    scores, seconds = [score for score, _ in runs], [duration for _, duration in runs]
    means = {"medvision": [statistics.mean(scores)], "wanted": [recipe.accuracy]}
    of = f"mean of {seeds} seeds ({min(scores):.2f} to {max(scores):.2f} %)" if seeds > 1 else "seed 0"
    claim = f"test accuracy, {given.recipe}: {of}"
    rows = [
        share(claim, means, "medvision", "wanted", at_least=1, unit="%"),
        allowed(f"from the command to the report, {given.recipe}", seconds, recipe.seconds),
    ]
    if given.recipe == "cifar_fast_wide" or given.tiny:
        rows.append(over_resnet(given.recipe, seconds, tiny=given.tiny))
    given.script = f"{given.script}-{given.recipe}"
    publish(rows, given)


def run(recipe: Recipe, seed: int, changes: Sequence[str]) -> tuple[float, float]:
    """Test accuracy in percent, and seconds of the command."""
    root = Path(os.environ.get("MEDVISION_DATA", "data")).absolute()
    folder = [] if recipe.data == "MNIST" else ["data=image_folder", f"data.root={root / recipe.data}"]
    command = [sys.executable, "-m", "medvision.train", *recipe.overrides, *folder, *changes, f"seed={seed}"]
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "run"
        start = time.perf_counter()
        done = subprocess.run([*command, f"out={out}"], capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
        score = json.loads((out / "metrics.json").read_text())["test"]["overall"]["accuracy"]["value"]
    print(f"seed {seed}: {100 * score:.2f} %, {seconds:.0f} s", flush=True)
    return 100 * score, seconds


def over_resnet(name: str, seconds: Sequence[float], *, tiny: bool) -> Row:
    """The recipe's seconds over those of ResNet-18, extrapolated anew for each of them."""
    batch, widths = (4, (8, 16, 16, 16)) if tiny else (RESNET_BATCH, (64, 128, 256, 512))
    data = in_memory(noise(20 * batch, (3, 32, 32)), batch)
    network = partial(small_resnet, widths=widths, depths=(2, 2, 2, 2))
    optimizer = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=5e-4)
    epoch = Epoch(data, network, optimizer, batch, RESNET_STEPS)
    steps = RESNET_EPOCHS * RESNET_IMAGES / RESNET_BATCH
    torch.set_flush_denormal(True)  # as a run does
    by_hand(epoch)  # warms up
    theirs = [by_hand(epoch) / RESNET_STEPS * steps for _ in seconds]
    peer = f"ResNet-18, {RESNET_EPOCHS} epochs (extrapolated)"
    claim = f"{name}, over a ResNet-18 recipe to the same accuracy, {epoch.precision}"
    return speedup(claim, {"medvision": list(seconds), peer: theirs}, "medvision", peer, at_least=10)


if __name__ == "__main__":
    main()
