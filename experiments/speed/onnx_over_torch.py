"""Predicting by an exported ONNX file over predicting by the bundle in eager torch, both fp32, and 8-bit variants.

Each model gets the same uint8 images through `predict_probs`, on as many threads as torch uses. Rounds are interleaved,
so that a machine whose speed drifts treats all alike; what is reported are medians of seconds and of the ratios to
eager torch, pair by pair. "dynamic, convolutions too" is what `quantize=dynamic` leaves out. The start-up is that of a
fresh process from the first import to the probabilities of one image.

    python experiments/speed/onnx_over_torch.py
"""

import argparse
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import QuantType, quantize_dynamic
from rich.console import Console
from rich.table import Table

from medvision.inference.evidence import Evidence
from medvision.inference.exported import OnnxFile
from medvision.inference.onnx_predictor import OnnxPredictor
from medvision.inference.predictor import Predictor
from medvision.inference.quantise import quantise
from medvision.models.network import Network
from medvision.models.small_cnn import small_cnn
from medvision.models.torchvision_models import torchvision_model
from medvision.randomness import generator

CLASSES = 10
START = """
import time; begin = time.perf_counter()
import sys, numpy, medvision
from medvision.data.decode import decode
model = medvision.load(sys.argv[1])
model.predict_probs(numpy.zeros((1, model.decode["channels"], *model.decode["size"]), numpy.uint8))
assert "torch" not in sys.modules
print(time.perf_counter() - begin)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    logging.disable()  # onnxruntime recommends a preparation that the variants we offer have had
    torch.manual_seed(0)
    console = Console(width=120)
    with tempfile.TemporaryDirectory() as folder:
        report(console, "SmallCNN, 28 x 28, grey", small_cnn(CLASSES, 1, (28, 28)), 28, 2048, rounds, Path(folder))
        resnet = torchvision_model(CLASSES, 3, (224, 224), name="resnet18")
        report(console, "ResNet-18, 224 x 224, colour", resnet, 224, 32, rounds, Path(folder))


def report(console: Console, title: str, network: Network, size: int, n: int, rounds: int, folder: Path) -> None:
    channels = len(network.mean)
    images = generator("onnx_over_torch").integers(0, 256, (n, channels, size, size), dtype=np.uint8)
    network.set_statistics([128.0] * channels, [74.0] * channels)
    models = variants(network, images, folder)
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for round_ in range(rounds + 1):
        for name, predict in models.items():
            begin = time.perf_counter()
            predict(images)
            if round_:  # the first round warms up
                seconds[name].append(time.perf_counter() - begin)
    table = Table(title=f"{title}, {n:,} images, {torch.get_num_threads()} thread(s)", title_justify="left")
    for column in ("model", "images/s", "ratio to eager torch", "low", "high"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for name, values in seconds.items():
        ratios = [one / reference for one, reference in zip(values, seconds["torch, eager"], strict=True)]
        numbers = (statistics.median(ratios), min(ratios), max(ratios))
        table.add_row(name, f"{n / statistics.median(values):,.0f}", *(f"{number:.3f}" for number in numbers))
    console.print(table)
    starts = [start(folder / "model.onnx") for _ in range(3)]
    console.print(f"start-up to the first image, {title}: {statistics.median(starts):.2f} s\n")


def variants(
    network: Network, images: NDArray[np.uint8], folder: Path
) -> dict[str, Callable[[NDArray[np.uint8]], NDArray[np.float64]]]:
    """The ways to predict, each of the same network; leaves model.onnx in `folder`."""
    decode = {"size": images.shape[2:], "channels": images.shape[1], "resize": "stretch"}
    predictor = Predictor(network, [str(one) for one in range(CLASSES)], decode=decode)
    facts = {
        "class_names": list(predictor.class_names),
        "decode": decode,
        "temperature": 1.0,
        **dict.fromkeys(("operating_point", "conformal", "gate")),
    }
    some = images[:32]
    evidence = Evidence("noise", some, some, some, None)
    exact = OnnxFile(predictor)
    files = {
        "onnx": exact,
        "onnx, int8 dynamic": OnnxFile(predictor, quantise(exact.graph, "dynamic", evidence)),
        "onnx, int8 dynamic, convolutions too": OnnxFile(predictor, with_convolutions(exact.graph, folder)),
        "onnx, int8 static": OnnxFile(predictor, quantise(exact.graph, "static", evidence)),
    }
    (folder / "model.onnx").write_bytes(exact.content(facts))
    threads = torch.get_num_threads()
    return {"torch, eager": predictor.predict_probs} | {
        name: OnnxPredictor(file.content(facts), threads=threads).predict_probs for name, file in files.items()
    }


def with_convolutions(graph: bytes, folder: Path) -> bytes:
    """Dynamic quantisation of every layer it exists for; onnxruntime runs ConvInteger with unsigned weights only."""
    source, result = folder / "source.onnx", folder / "dynamic.onnx"
    source.write_bytes(graph)
    quantize_dynamic(source, result, ["Conv", "Gemm", "MatMul"], weight_type=QuantType.QUInt8)
    return result.read_bytes()


def start(model: Path) -> float:
    """Seconds from the first import to the first probabilities, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", START, str(model)], capture_output=True, text=True, check=True)
    return float(done.stdout)


if __name__ == "__main__":
    main()
