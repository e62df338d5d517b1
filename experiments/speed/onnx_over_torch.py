"""Predicting by an exported ONNX file over predicting by the bundle in eager torch, both fp32, and 8-bit variants.

Each model gets the same uint8 images through `predict_probs`, on as many threads as torch uses. "Dynamic, convolutions
too" is what `quantize=dynamic` leaves out. The start-up is that of a fresh process from the first import to the
probabilities of one image, compared with what `import torch` alone takes.

    python experiments/speed/onnx_over_torch.py
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from measuring import Row, clocked, in_turns, parser, publish, read, speedup
from numpy.typing import NDArray
from onnxruntime.quantization import QuantType, quantize_dynamic

from medvision.inference.evidence import Evidence
from medvision.inference.export import OnnxFile
from medvision.inference.onnx import OnnxPredictor
from medvision.inference.predictor import Predictor
from medvision.inference.quantize import quantise
from medvision.models.network import Network
from medvision.models.pretrained import pretrained
from medvision.models.small_cnn import small_cnn
from medvision.randomness import generator
from medvision.tasks import Task

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
IMPORT = "import time; begin = time.perf_counter(); import torch; print(time.perf_counter() - begin)"
EAGER = "torch, eager"


def main(arguments: Sequence[str] | None = None) -> None:
    given = read(parser(__file__, __doc__, rounds=7), arguments)
    small, large = (32, 2) if given.tiny else (2048, 32)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure("SmallCNN", small_cnn(CLASSES, 1, (28, 28)), (1, 28), small, given.rounds, Path(folder))
        resnet = pretrained(CLASSES, 3, (224, 224), name="resnet18")
        rows += measure("ResNet-18", resnet, (3, 224), large, given.rounds, Path(folder))
    publish(rows, given, {"onnxruntime": onnxruntime.__version__})


def measure(name: str, network: Network, shape: tuple[int, int], n: int, rounds: int, folder: Path) -> list[Row]:
    channels, size = shape
    images = generator("onnx_over_torch").integers(0, 256, (n, channels, size, size), dtype=np.uint8)
    network.set_statistics([128.0] * channels, [74.0] * channels)
    models = variants(network, images, folder)
    found = in_turns({one: clocked(partial(predict, images)) for one, predict in models.items()}, rounds)
    starts = {
        "medvision": partial(started, START, folder / "model.onnx"),
        "import torch": partial(started, IMPORT, folder),
    }
    what = f"{n:,} images of {size} px, {name}"
    rows = [speedup(f"{what}: {one}", found, one, EAGER) for one in models if one != EAGER]
    first = in_turns(starts, min(rounds, 3))
    return [*rows, speedup(f"start to the first image, ONNX, {name}", first, "medvision", "import torch")]


def variants(
    network: Network, images: NDArray[np.uint8], folder: Path
) -> dict[str, Callable[[NDArray[np.uint8]], NDArray[np.float64]]]:
    """The ways to predict, each of the same network; leaves model.onnx in `folder`."""
    decode = {"size": images.shape[2:], "channels": images.shape[1], "resize": "stretch"}
    predictor = Predictor(network, Task.classes([str(one) for one in range(CLASSES)]), decode=decode)
    facts = {"task": predictor.task.to_json(), "decode": decode, **predictor.decision.to_json()}
    some = images[:32]
    evidence = Evidence("noise", some, some, some, None)
    exact = OnnxFile(predictor)
    files = {
        "onnx": exact,
        "onnx, int8 dynamic": OnnxFile(predictor, dynamic(exact.graph, ["Gemm", "MatMul"], folder)),
        "onnx, int8 dynamic, convolutions too": OnnxFile(
            predictor, dynamic(exact.graph, ["Conv", "Gemm", "MatMul"], folder)
        ),
        "onnx, int8 static": OnnxFile(predictor, quantise(exact.graph, evidence)),
    }
    (folder / "model.onnx").write_bytes(exact.content(facts))
    threads = torch.get_num_threads()
    return {EAGER: predictor.predict_probs} | {
        name: OnnxPredictor(file.content(facts), threads=threads).predict_probs for name, file in files.items()
    }


def dynamic(graph: bytes, layers: list[str], folder: Path) -> bytes:
    """Dynamic quantisation, which export does not offer; onnxruntime runs ConvInteger with unsigned weights only."""
    source, result = folder / "source.onnx", folder / "dynamic.onnx"
    source.write_bytes(graph)
    quantize_dynamic(source, result, layers, weight_type=QuantType.QUInt8)
    return result.read_bytes()


def started(code: str, argument: Path) -> float:
    """Seconds that some code says it took, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", code, str(argument)], capture_output=True, text=True, check=True)
    return float(done.stdout)


if __name__ == "__main__":
    main()
