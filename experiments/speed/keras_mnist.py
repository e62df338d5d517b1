"""Time to a test accuracy of 99.0 % on MNIST: medvision's recipe over the article's Keras script.

Each side trains epoch by epoch and is tested after each; its clock counts training alone, everything that happens
before the first epoch's first step and is part of `fit` included (Keras traces its graph there). The script runs in a
process and an environment of its own (`make bench-keras`), in turns with ours, and uses as many threads as TensorFlow
likes. It has at most five epochs, as in the article; a run that does not get there counts with the time of all five,
which is in its favour. Ours must get there. Seeds are those of the round. Ours keeps images apart for validation, so
that it trains on fewer than the script's 60,000; validation and checkpoints are off.

Without the environment nothing is measured and the result of the last time stays.

    MEDVISION_DATA=... make bench-keras
    MEDVISION_DATA=... python experiments/speed/keras_mnist.py
"""

import itertools
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from epochs import prepare
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from measuring import in_turns, parser, publish, read, speedup
from omegaconf import DictConfig

from medvision import compose
from medvision.config.targets import build
from medvision.data.table import SplitArrays
from medvision.pipeline.prepare import read_data
from medvision.randomness import key
from medvision.training.classifier import Classifier
from medvision.training.fit import fit_network

# What our side trains: the fast recipe, its schedule cut to one epoch.
EXPERIMENT = "mnist_fast"
CHANGES = ("trainer.max_epochs=1",)
ACCURACY = 0.99
PYTHON = Path(__file__).parents[2] / ".venv-keras" / "bin" / "python"


def main(arguments: Sequence[str] | None = None) -> None:
    given = read(parser(__file__, __doc__, rounds=3), arguments)
    if not PYTHON.exists():
        print("The row of Keras was not measured again, because .venv-keras is missing: make bench-keras creates it.")
        return
    accuracy = 0.02 if given.tiny else ACCURACY
    images = 1_000 if given.tiny else 60_000
    changes = ["data.max_train_samples=1000"] if given.tiny else []
    ours, theirs, peers = itertools.count(), itertools.count(), []

    def script() -> float:
        peers.append(keras_script(next(theirs), accuracy, images))
        return peers[-1]["seconds"]

    # A warm-up would take as long as a round, and both clocks include the first steps anyway.
    found = in_turns(
        {"medvision": lambda: recipe(next(ours), accuracy, changes), "Keras": script}, given.rounds, warm_up=0
    )
    reached = sum(peer["accuracy"] >= accuracy for peer in peers)
    epochs = statistics.median(peer["epochs"] for peer in peers)
    claim = (
        f"time to {100 * accuracy:.1f} % on MNIST, {EXPERIMENT} {' '.join(CHANGES)} over the article's Keras script "
        f"({epochs:g} epochs, there in {reached} of {len(peers)} runs)"
    )
    row = speedup(claim, found, "medvision", "Keras", at_least=10)
    publish([row], given, peers[-1]["versions"])


def keras_script(seed: int, accuracy: float, images: int) -> dict[str, float]:
    """What the article's script reports."""
    folder = Path(os.environ.get("MEDVISION_DATA", "data")) / "MNIST" / "raw"
    script = Path(__file__).with_name("keras_article.py")
    options = ["--seed", str(seed), "--accuracy", str(accuracy), "--images", str(images)]
    done = subprocess.run([PYTHON, script, folder, *options], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"The Keras script failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


class Clock(Checkpoint):
    """Tests after each epoch with the clock stopped, and ends the training when the accuracy is reached.

    Being a `Checkpoint`, it keeps Lightning from writing any.
    """

    def __init__(self, accuracy: Callable[[], float], wanted: float) -> None:
        self.accuracy, self.wanted = accuracy, wanted
        self.begin = self.seconds = self.reached = 0.0

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.seconds += time.perf_counter() - self.begin
        self.reached = self.accuracy()
        trainer.should_stop = self.reached >= self.wanted
        self.begin = time.perf_counter()


def recipe(seed: int, accuracy: float, changes: Sequence[str]) -> float:
    """Seconds until the experiment's network has the accuracy."""
    cfg = compose(f"experiment={EXPERIMENT}", f"seed={seed}", "trainer.accelerator=cpu", *CHANGES, *changes)
    cfg.trainer.limit_val_batches = 0
    if cfg.ema.decay:
        raise SystemExit(f"{EXPERIMENT} averages its weights, which is not tested here.")
    data = read_data(cfg)
    torch.manual_seed(key(seed, "weights"))
    network = build(
        cfg.model, "model", num_classes=data.num_classes, in_channels=data.in_channels, image_size=data.image_size
    )
    prepare(network, data)
    clock = Clock(lambda: tested(network, cfg, data.split("test")), accuracy)
    with tempfile.TemporaryDirectory() as folder:
        trainer = build(
            cfg.trainer, "trainer", batch_size=cfg.data.batch_size, callbacks=[clock], directory=Path(folder)
        )
        loss = build(cfg.loss, "loss", task=data.task, class_counts=data.class_counts("train"))
        optimizer, scheduler = build(cfg.optimizer, "optimizer"), build(cfg.scheduler, "scheduler")
        classifier = Classifier(network, optimizer, scheduler, loss, seed=seed)
        clock.begin = time.perf_counter()
        fit_network(classifier, data, trainer)
    if clock.reached < accuracy:
        raise SystemExit(
            f"{EXPERIMENT} did not reach {100 * accuracy:.1f} % with seed {seed}: {100 * clock.reached:.2f} %."
        )
    return clock.seconds


@torch.inference_mode()
def tested(network: torch.nn.Module, cfg: DictConfig, test: SplitArrays) -> float:
    """Test accuracy as the network stands, in fp32."""
    network.eval()
    size = cfg.data.eval_batch_size
    right = sum(
        int((network(torch.from_numpy(images)).argmax(dim=1) == torch.from_numpy(targets)).sum())
        for images, targets in (
            (test.images[first : first + size], test.targets[first : first + size])
            for first in range(0, len(test.images), size)
        )
    )
    network.train()
    return right / len(test.images)


if __name__ == "__main__":
    main()
