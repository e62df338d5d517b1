"""`fit` over the two loops that tutorials have one write: plain torch, and Lightning as its hydra template has it.

All three train the article's network on MNIST, batches of 32, Adam, fp32, for the same number of steps; none validates,
logs to files or writes checkpoints. The tutorials read torchvision's MNIST, whose images are turned from PIL
into normalised tensors one by one, through a DataLoader (no worker or two, whichever is faster here), and train in
torch's own memory layout. The plain loop adds up its loss and prints it now and then; Lightning's module updates
torchmetrics' mean and accuracy and logs both at every step. It shows no progress bar, which the template does.

    MEDVISION_DATA=... python experiments/speed/tutorials.py
"""

import os
import time
from collections.abc import Sequence
from functools import partial

import torch
from epochs import Epoch, by_fit
from lightning.pytorch import LightningModule, Trainer
from measuring import fastest, in_turns, parser, publish, read, speedup
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy
from torchvision import transforms
from torchvision.datasets import MNIST

from medvision.data.datamodule import ImageDataModule
from medvision.data.layouts.arrays import mnist
from medvision.data.options import DataOptions
from medvision.models.small_cnn import small_cnn

BATCH = 32


def main(arguments: Sequence[str] | None = None) -> None:
    given = read(parser(__file__, __doc__, rounds=4), arguments)
    steps = 3 if given.tiny else 400
    root = os.environ.get("MEDVISION_DATA", "data")
    data = ImageDataModule(partial(mnist, root), DataOptions(batch_size=BATCH))
    data.setup()
    epoch = Epoch(data, small_cnn, partial(torch.optim.Adam, lr=1e-3, fused=True), BATCH, steps)
    normalised = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    dataset = MNIST(root, transform=normalised)
    loaders = {count: DataLoader(dataset, BATCH, shuffle=True, num_workers=count) for count in (0, 2)}
    workers = int(fastest({str(count): partial(plain, loader, steps) for count, loader in loaders.items()}))
    torch_loop, template = f"torch, {workers} workers", f"Lightning, {workers} workers"
    found = in_turns(
        {
            "medvision": partial(by_fit, epoch),
            torch_loop: partial(plain, loaders[workers], steps),
            template: partial(lightning, loaders[workers], steps),
        },
        given.rounds,
    )
    claim = f"{steps} steps of MNIST, batch {BATCH}, over"
    publish(
        [
            speedup(f"{claim} a tutorial's loop in torch", found, "medvision", torch_loop),
            speedup(f"{claim} Lightning's hydra template", found, "medvision", template),
        ],
        given,
    )


def article() -> nn.Module:
    """The article's network, in the order in which it names its layers."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(64 * 5 * 5, 64), nn.ReLU(), nn.Linear(64, 10)),
    )


def plain(loader: DataLoader, steps: int) -> float:
    """Seconds of so many steps of the loop that torch's tutorials show."""
    model, criterion = article(), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    start = time.perf_counter()
    model.train()
    running_loss = 0.0
    for step, (images, labels) in enumerate(loader, start=1):
        optimizer.zero_grad()
        loss = criterion(model(images), labels)
        loss.backward()
        optimizer.step()
        running_loss += loss.item()
        if step % 200 == 0:
            print(f"loss: {running_loss / 200:.3f}")
            running_loss = 0.0
        if step == steps:
            break
    return time.perf_counter() - start


class Template(LightningModule):
    """A module as the template has it: a mean and a metric, updated and logged at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.net = article()
        self.criterion = nn.CrossEntropyLoss()
        self.train_loss = MeanMetric()
        self.train_acc = MulticlassAccuracy(10, average="micro")

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        logits = self.net(images)
        loss = self.criterion(logits, labels)
        self.train_loss(loss)
        self.train_acc(logits.argmax(dim=1), labels)
        self.log("train/loss", self.train_loss, on_step=False, on_epoch=True, prog_bar=True)
        self.log("train/acc", self.train_acc, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def lightning(loader: DataLoader, steps: int) -> float:
    """Seconds of so many steps of the template's module in a Trainer."""
    module = Template()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=steps,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
    )
    start = time.perf_counter()
    trainer.fit(module, loader)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
