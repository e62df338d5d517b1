"""Labelling against what bounds it: arrays against a loop over single images, a folder against decoding or the model.

Arrays: 10,000 grey images of 28 x 28 through `Predictor.predict_probs`, and one by one through the same network, as one
would write it by hand. Folder: JPEG files of 224 x 224 through `annotate`, input gate and all, against decoding them
alone and judging them alone, whichever takes longer. Weights are random: the time does not depend on them.

    python experiments/speed/predict.py
"""

import statistics
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from measuring import Row, clocked, in_turns, parser, publish, read, share, speedup

from medvision.data.decode import decode_all, decode_chunks
from medvision.inference.decision import Decision
from medvision.inference.ood import fit_statistics
from medvision.inference.predictor import Predictor
from medvision.labelling.annotate import annotate
from medvision.labelling.inputs import find_images
from medvision.models.pretrained import pretrained
from medvision.models.small_cnn import small_cnn
from medvision.tasks import Task

SIDE = 224
BLOCK = 64  # images that annotate judges at a time at this size


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__file__, __doc__, rounds=3)
    options.add_argument("--device", default="cpu")
    given = read(options, arguments)
    n, count = (200, 8) if given.tiny else (10_000, 640)
    rows = [arrays(n, given.rounds, given.device)]
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder) / "images", count)
        for name, network in {
            "SmallCNN": small_cnn(4, 3, (SIDE, SIDE)),
            "ResNet-18": pretrained(4, 3, (SIDE, SIDE), name="resnet18"),
        }.items():
            rows.append(files(name, network, Path(folder), given.rounds, given.device))
    publish(rows, given)


def arrays(n: int, rounds: int, device: str) -> Row:
    images = np.random.default_rng(0).integers(0, 256, (n, 1, 28, 28), dtype=np.uint8)
    decode = {"size": (28, 28), "channels": 1, "resize": "letterbox"}
    task = Task.classes([str(one) for one in range(10)])
    predictor = Predictor(small_cnn(10, 1, (28, 28)), task, decode=decode, device=device)
    ways = {
        "medvision": clocked(lambda: predictor.predict_probs(images)),
        "one by one": clocked(lambda: one_by_one(predictor, images)),
    }
    found = in_turns(ways, rounds)
    return speedup(f"labelling {n:,} arrays of 28 x 28, SmallCNN", found, "medvision", "one by one")


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


def files(name: str, network: torch.nn.Module, folder: Path, rounds: int, device: str) -> Row:
    decode = {"size": (SIDE, SIDE), "channels": 3, "resize": "letterbox", "window": None, "frames": "reject"}
    task = Task.classes("abcd")
    inputs = find_images(folder / "images", task.class_names)
    images, _ = decode_all(inputs.paths, SIDE, 3)
    plain = Predictor(network, task, decode=decode, device=device)
    decision = Decision(ood=fit_statistics(images, plain.probs_and_embeddings(images)[1]))
    predictor = Predictor(network, task, decode=decode, decision=decision, device=device)

    def judge() -> None:
        for start in range(0, len(images), BLOCK):
            plain.probs_and_embeddings(images[start : start + BLOCK])

    ways = {
        "medvision": clocked(partial(label_all, predictor, inputs)),
        "decoding alone": clocked(lambda: [len(chunk) for chunk, _ in decode_chunks(inputs.paths, **decode)]),
        "the model alone": clocked(judge),
    }
    found = in_turns(ways, rounds)
    bound = max(("decoding alone", "the model alone"), key=lambda one: statistics.median(found[one]))
    return share(f"labelling {len(images):,} JPEG files of {SIDE} px, {name}", found, "medvision", bound)


def label_all(predictor: Predictor, inputs: object) -> None:
    with tempfile.TemporaryDirectory() as out:
        annotate(predictor, inputs, Path(out), {}, min_confidence=0.8)


if __name__ == "__main__":
    main()
