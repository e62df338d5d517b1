"""Time of one epoch of MNIST in `fit` over the best loop one can write by hand: what the Trainer costs.

Both train the article's network on the same images in memory as uint8, with the same batch size, optimizer (fused Adam)
and precision (what medvision chooses), channels last; neither validates or writes checkpoints. `fit` also counts its
accuracy and asks every 50 steps whether the loss is finite, and its clock includes setting the Trainer up. Once with
batches of 32, once with such batches that a step takes more than 20 ms.

medvision sets two things for the process that make its steps faster: denormal numbers count as zero, and torch's
optimizers are told that there is no GPU to look for. The first comparison is with a loop that knows neither, the second
with one that does the same.

    MEDVISION_DATA=... python experiments/speed/fit_overhead.py
"""

import os
from collections.abc import Sequence
from functools import partial

import torch
from epochs import Epoch, by_fit, by_hand
from measuring import Row, in_turns, parser, publish, read, share

from medvision.data.datamodule import ImageDataModule
from medvision.data.layouts.arrays import mnist
from medvision.data.options import DataOptions
from medvision.models.small_cnn import small_cnn

GOALS = {32: 1.05, 512: 1.02}  # batch size and the ratio that is allowed


def main(arguments: Sequence[str] | None = None) -> None:
    given = read(parser(__file__, __doc__, rounds=5), arguments)
    publish([row for size in GOALS for row in measure(size, given.rounds, 2 if given.tiny else None)], given)


def measure(batch_size: int, rounds: int, steps: int | None) -> list[Row]:
    data = ImageDataModule(partial(mnist, os.environ.get("MEDVISION_DATA", "data")), DataOptions(batch_size=batch_size))
    data.setup()
    epoch = Epoch(data, small_cnn, partial(torch.optim.Adam, lr=1e-3, fused=True), batch_size, steps)
    plain, prepared = "a loop by hand", "the same loop, prepared"
    tasks = {"medvision": by_fit, plain: by_hand, prepared: prepared_by_hand}
    found = in_turns({name: partial(task, epoch) for name, task in tasks.items()}, rounds)
    milliseconds = 1e3 * sorted(found[plain])[rounds // 2] / epoch.length
    what = f"an epoch of MNIST in fit, batch {batch_size}, {epoch.precision}, {milliseconds:.1f} ms a step"
    return [
        share(what, found, "medvision", plain, at_most=GOALS[batch_size]),
        share(f"{what}; against a loop that shares the set-up", found, "medvision", prepared),
    ]


def prepared_by_hand(epoch: Epoch) -> float:
    """`by_hand` in a process that was set up as `fit` sets it up."""
    torch.set_flush_denormal(True)
    if not torch.cuda.is_available():
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    return by_hand(epoch)


if __name__ == "__main__":
    main()
