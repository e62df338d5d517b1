"""Labelling against what bounds it: arrays against a loop over single images, a folder against decoding or the model.

Arrays: 10,000 grey images of 28 x 28 through `Predictor.predict_probs`, and one by one through the same network, as one
would write it by hand. Folder: JPEG files of 224 x 224 through `annotate`, input gate and all, against decoding them
alone and judging them alone, whichever takes longer. Weights are random: the time does not depend on them. Rounds are
interleaved; what is reported are medians of their ratios.

    python experiments/speed/predict.py
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from medvision.data.decode import decode_all, decode_chunks
from medvision.inference.annotate import annotate
from medvision.inference.gate import gate_statistics
from medvision.inference.inputs import find_images
from medvision.inference.predictor import Predictor
from medvision.models.small_cnn import small_cnn
from medvision.models.torchvision_models import torchvision_model

SIDE = 224
BLOCK = 64  # images that annotate judges at a time at this size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--files", type=int, default=640)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    table = Table(title=f"{arguments.device}, {torch.get_num_threads()} threads", title_justify="left")
    for column in ("what", "seconds", "against", "seconds", "ratio"):
        table.add_column(column, justify="left" if column in ("what", "against") else "right")
    arrays(table, arguments.rounds, arguments.device)
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder) / "images", arguments.files)
        for name, network in {
            "small_cnn": small_cnn(4, 3, (SIDE, SIDE)),
            "resnet18": torchvision_model(4, 3, (SIDE, SIDE), name="resnet18"),
        }.items():
            files(table, name, network, Path(folder), arguments.rounds, arguments.device)
    Console().print(table)


def arrays(table: Table, rounds: int, device: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (10_000, 1, 28, 28), dtype=np.uint8)
    decode = {"size": (28, 28), "channels": 1, "resize": "letterbox"}
    predictor = Predictor(small_cnn(10, 1, (28, 28)), [str(one) for one in range(10)], decode=decode, device=device)
    ways = {"predict": lambda: predictor.predict_probs(images), "loop": lambda: one_by_one(predictor, images)}
    seconds = interleaved(ways, rounds)
    ratio = statistics.median(map(lambda loop, ours: loop / ours, seconds["loop"], seconds["predict"]))
    ours, loop = (statistics.median(seconds[name]) for name in ("predict", "loop"))
    table.add_row("10,000 arrays, small_cnn", f"{ours:.2f}", "one by one", f"{loop:.2f}", f"{ratio:.1f} x as fast")


@torch.inference_mode()
def one_by_one(predictor: Predictor, images: np.ndarray) -> np.ndarray:
    rows = []
    for image in images:
        logits = predictor.network(torch.from_numpy(image).unsqueeze(0).to(predictor.device))
        rows.append(torch.softmax(logits, 1)[0].cpu().numpy())
    return np.stack(rows)


def write_files(folder: Path, count: int) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = rng.integers(0, 256, (28, 28, 3), dtype=np.uint8)
        picture = cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{number:05}.jpg"), picture)


def files(table: Table, name: str, network: torch.nn.Module, folder: Path, rounds: int, device: str) -> None:
    decode = {"size": (SIDE, SIDE), "channels": 3, "resize": "letterbox", "window": None, "frames": "reject"}
    class_names = ("a", "b", "c", "d")
    inputs = find_images(folder / "images", class_names)
    images, _ = decode_all(inputs.paths, SIDE, 3)
    plain = Predictor(network, class_names, decode=decode, device=device)
    gate = gate_statistics(images, plain.probs_and_embeddings(images)[1])
    predictor = Predictor(network, class_names, decode=decode, gate=gate, device=device)
    seconds = interleaved(
        {
            "annotate": partial(label_all, predictor, inputs),
            "decoding alone": lambda: [len(chunk) for chunk, _ in decode_chunks(inputs.paths, **decode)],
            "the model alone": lambda: [
                predictor.probs_and_embeddings(images[start : start + BLOCK]) for start in range(0, len(images), BLOCK)
            ],
        },
        rounds,
    )
    alone = {one: statistics.median(seconds[one]) for one in ("decoding alone", "the model alone")}
    bound = max(alone, key=lambda one: alone[one])
    ratio = statistics.median(map(lambda ours, other: ours / other, seconds["annotate"], seconds[bound]))
    ours = statistics.median(seconds["annotate"])
    other = " / ".join(f"{value:.2f}" for value in alone.values())
    table.add_row(
        f"{len(images):,} JPEG files, {name}", f"{ours:.2f}", "decoding / model alone", other, f"{ratio:.2f} of {bound}"
    )


def label_all(predictor: Predictor, inputs: object) -> None:
    with tempfile.TemporaryDirectory() as out:
        annotate(predictor, inputs, Path(out), {}, min_confidence=0.8)


def interleaved(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            begin = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - begin)
    return {name: values[1:] for name, values in seconds.items()}  # the first round warms up


if __name__ == "__main__":
    main()
