"""Time of one epoch in `fit` over a hand-written loop of the same network, batch and precision.

Both train the article's network on MNIST held in memory as uint8 and validate once; the runs alternate, so that a
machine whose speed drifts treats both alike. What is reported is the median of the ratios.

    MEDVISION_DATA=... python experiments/speed/fit_overhead.py
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from torch.nn import functional

from medvision.data.datamodule import ImageDataModule
from medvision.data.sources import mnist
from medvision.models.small_cnn import small_cnn
from medvision.provenance import environment
from medvision.randomness import key
from medvision.training.checkpoints import Checkpoints
from medvision.training.classifier import Classifier
from medvision.training.fit import fit
from medvision.training.precision import choose_precision
from medvision.training.signals import StopSignal
from medvision.training.trainer import build_trainer

OPTIMIZER = partial(torch.optim.Adam, lr=1e-3, fused=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[32, 256])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("fit_overhead.json"))
    arguments = parser.parse_args()
    results = [measure(batch_size, arguments.rounds) for batch_size in arguments.batch_sizes]
    facts = {name: environment()[name] for name in ("processor", "cpu_count", "threads", "versions")}
    arguments.out.write_text(
        json.dumps({"machine": facts | {"python": platform.python_version()}, "results": results}, indent=2) + "\n"
    )
    for result in results:
        print(
            f"batch {result['batch_size']}, {result['precision']}: fit {result['fit_s']:.2f} s, "
            f"hand-written {result['hand_written_s']:.2f} s, ratio {result['ratio']:.3f} "
            f"({result['ratio_low']:.3f} to {result['ratio_high']:.3f} over {result['rounds']} rounds)"
        )


def measure(batch_size: int, rounds: int) -> dict[str, float | int | str]:
    """Alternate both loops and compare them pair by pair."""
    precision = choose_precision("cpu", batch_size)
    data = ImageDataModule(partial(mnist, os.environ.get("MEDVISION_DATA", "data")), batch_size=batch_size)
    data.setup()
    loops = {"fit_s": with_lightning, "hand_written_s": by_hand}
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for round_ in range(rounds + 1):
        for name, loop in loops.items():
            environment_before = dict(os.environ)
            elapsed = loop(data, batch_size, precision)
            # What medvision sets for speed must not speed up the loop it is compared with.
            os.environ.clear()
            os.environ.update(environment_before)
            if round_:  # the first pair warms up
                seconds[name].append(elapsed)
    ratios = [a / b for a, b in zip(seconds["fit_s"], seconds["hand_written_s"], strict=True)]
    return {
        "batch_size": batch_size,
        "precision": precision,
        "rounds": rounds,
        **{name: statistics.median(values) for name, values in seconds.items()},
        "ratio": statistics.median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
    }


def build_network(data: ImageDataModule) -> torch.nn.Module:
    """The article's network, the same weights each time."""
    torch.manual_seed(0)
    network = small_cnn(data.num_classes, data.in_channels, data.image_size)
    network.set_statistics(*data.channel_statistics())
    return network.to(memory_format=torch.channels_last)


def with_lightning(data: ImageDataModule, batch_size: int, precision: str) -> float:
    """Seconds of one epoch through medvision's trainer, everything it does between the first and last hook included."""
    classifier = Classifier(build_network(data), OPTIMIZER)
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder), StopSignal())
        trainer = build_trainer(
            accelerator="cpu", precision=precision, max_epochs=1, callbacks=[checkpoints], directory=Path(folder)
        )
        start = time.perf_counter()
        fit(classifier, data, trainer)
        return time.perf_counter() - start


def by_hand(data: ImageDataModule, batch_size: int, precision: str) -> float:
    """Seconds of one epoch of the loop one would write by hand, without losing time anywhere."""
    network = build_network(data)
    optimizer = OPTIMIZER(network.parameters())
    train, val = data.split("train"), data.split("val")
    images, targets = torch.from_numpy(train.images), torch.from_numpy(train.targets)
    size = batch_size
    start = time.perf_counter()
    torch.manual_seed(key(0, "order"))
    order = torch.randperm(len(images))
    network.train()
    for first in range(0, len(images) - size + 1, size):
        rows = order[first : first + size]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16-mixed"):
            loss = functional.cross_entropy(network(images[rows]), targets[rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    network.eval()
    correct = 0
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16-mixed"):
        for first in range(0, len(val.images), 512):
            logits = network(torch.from_numpy(val.images[first : first + 512]))
            correct += int((logits.argmax(dim=1) == torch.from_numpy(val.targets[first : first + 512])).sum())
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
