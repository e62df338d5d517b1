"""A bundle as one file for other runtimes, which gets its name only after it has proved equal to the bundle."""

import copy
import io
import itertools
import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medvision import __version__
from medvision.errors import ConfigError, RunError
from medvision.files import replacing
from medvision.inference.bundle import load_bundle, model_directory, read_manifest
from medvision.inference.evidence import Evidence
from medvision.inference.onnx import OnnxPredictor
from medvision.inference.predictor import Predictor
from medvision.inference.predicts import batches
from medvision.inference.quantize import Cost, Quantisation, measure, quantise
from medvision.inference.seal import seal
from medvision.inference.tta import embed_views
from medvision.models.network import Network

Predict = Callable[[NDArray[np.uint8]], NDArray[np.float64]]
_FACTS_FILE = "medvision.json"  # inside a .pt2


class Deployed(nn.Module):
    """What an exported file holds: raw images in, calibrated probabilities and embeddings out."""

    def __init__(self, network: Network, temperature: float, tta: str) -> None:
        super().__init__()
        self.network = network
        self.tta = tta
        self.temperature = temperature

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities (B, K) and embeddings (B, D) of images (B, C, H, W) uint8."""
        embedding = embed_views(self.network, images, self.tta)
        logits = self.network.head(embedding)
        return torch.softmax(logits.float() / self.temperature, dim=1), embedding


class OnnxFile:
    """The model in ONNX, its batch dimension free.

    Args:
        predictor: with a network on the CPU.
        graph: another serialized ONNX model to use in its place, such as a quantised one.
    """

    def __init__(self, predictor: Predictor, graph: bytes | None = None) -> None:
        self.graph = graph or _graph(predictor)

    def content(self, facts: Mapping[str, Any]) -> bytes:
        """What is in the file."""
        return seal(self.graph, facts)

    def opened(self, content: bytes) -> Predict:
        """Probabilities by a file of this content."""
        return OnnxPredictor(content).predict_probs


class TorchFile:
    """The model as torch.export saves it, its batch dimension free."""

    def __init__(self, predictor: Predictor) -> None:
        self._num_classes = len(predictor.class_names)
        shapes = {"images": {0: torch.export.Dim("batch")}}
        self._program = torch.export.export(_deployed(predictor), (_example(predictor),), dynamic_shapes=shapes)
        for module in self._program.graph_module.modules():
            for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
                node.meta.pop("stack_trace", None)

    def content(self, facts: Mapping[str, Any]) -> bytes:
        """What is in the file; the facts are its `extra_files["medvision.json"]`."""
        buffer = io.BytesIO()
        text = json.dumps(facts, ensure_ascii=False, allow_nan=False)
        torch.export.save(self._program, buffer, extra_files={_FACTS_FILE: text})
        return buffer.getvalue()

    def opened(self, content: bytes) -> Predict:
        """Probabilities by a file of this content."""
        module = torch.export.load(io.BytesIO(content)).module()

        @torch.inference_mode()
        def predict(images: NDArray[np.uint8]) -> NDArray[np.float64]:
            probs = np.empty((len(images), self._num_classes))
            for rows in batches(images):
                probs[rows] = module(torch.from_numpy(np.array(images[rows])))[0].numpy()
            return probs

        return predict


def _graph(predictor: Predictor) -> bytes:
    program = torch.onnx.export(
        _deployed(predictor),
        (_example(predictor),),
        dynamo=True,
        input_names=["images"],
        output_names=["probs", "embedding"],
        dynamic_shapes={"images": {0: "batch"}},
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    # Each node says which line of which file it came from: folders of this machine, which are nobody's business.
    for node in itertools.chain(model.graph.node, *(function.node for function in model.functions)):
        del node.metadata_props[:]
    return bytes(model.SerializeToString())


def _deployed(predictor: Predictor) -> Deployed:
    # The predictor's weights lie channels last; torch.export.save keeps only the contiguous ones whole.
    network = cast(Network, copy.deepcopy(predictor.network)).to(memory_format=torch.contiguous_format)
    return Deployed(network, predictor.decision.temperature, predictor.decision.tta).eval()


def _example(predictor: Predictor) -> Tensor:
    # Two images: a batch of one would be taken for a constant.
    return torch.zeros(2, predictor.decode["channels"], *predictor.decode["size"], dtype=torch.uint8)


Format = Literal["onnx", "torch"]
SUFFIXES: Mapping[str, str] = {"onnx": ".onnx", "torch": ".pt2"}
TOLERANCE = 1e-4  # largest difference of a probability between the runtimes; in fp32 1e-6 is usual
_ROUNDS = 3
_TIMED = 64  # images, of those that are compared


@dataclass(frozen=True)
class Runtime:
    """How one of the models compared did.

    Attributes:
        name: of the model and its runtime.
        megabytes: of its file or files.
        images_per_second: median over interleaved rounds.
        difference: largest difference of a probability from the bundle's, over `Evidence.images`.
        agreement: share of these images that get the bundle's label.
    """

    name: str
    megabytes: float
    images_per_second: float
    difference: float
    agreement: float


@dataclass(frozen=True)
class Export:
    """What became of an export.

    Attributes:
        path: the file; None if it differed from the bundle and was not written.
        runtimes: the bundle, the file in full precision and, where asked for, the quantised one.
        cost: of quantisation, if that was asked for.
    """

    path: Path | None
    runtimes: tuple[Runtime, ...]
    cost: Cost | None


def export(
    bundle: Path,
    out: Path,
    evidence: Evidence,
    *,
    format: Format = "onnx",
    quantize: Quantisation = "none",
) -> Export:
    """Write a bundle as one file, unless the file predicts otherwise than the bundle.

    Args:
        bundle: a bundle or the directory of a run that has one.
        out: the file; one that exists is replaced.
        evidence: the images on which both are compared, and on which quantisation is calibrated and measured.
        format: "onnx", or "torch" for `torch.export.load`.
        quantize: "none" or "static"; see `medvision.inference.quantize`.

    Raises:
        BundleError: if the bundle cannot be loaded.
        ConfigError: if the format is unknown, a package is missing, or the model or the images cannot be used so.
        RunError: if the file cannot be written.
    """
    check_choices(format, quantize)
    predictor = exportable(bundle)
    facts = _facts(predictor, bundle)
    made: OnnxFile | TorchFile = TorchFile(predictor) if format == "torch" else OnnxFile(predictor)
    content = made.content(facts)
    predicts: dict[str, Predict] = {
        "bundle, torch": predictor.predict_probs,
        f"{format} file, fp32": made.opened(content),
    }
    sizes = [_megabytes(predictor), len(content) / 1e6]
    cost = None
    if isinstance(made, OnnxFile) and quantize != "none":
        made = OnnxFile(predictor, quantise(made.graph, evidence))
        content = made.content(facts)
        predicts[f"{format} file, int8 {quantize}"] = made.opened(content)
        cost = measure(predictor, OnnxPredictor(content), evidence)
        sizes.append(len(content) / 1e6)
    runtimes = _compare(predicts, sizes, evidence.images)
    exact = runtimes[1]
    if not (exact.difference <= TOLERANCE and exact.agreement == 1):
        return Export(None, runtimes, cost)
    facts["tested"] = {
        "images": evidence.source,
        "n": len(evidence.images),
        "max_difference": exact.difference,
        "equal_labels": True,
        "images_per_second": {one.name: round(one.images_per_second, 1) for one in runtimes},
    }
    facts["quantisation"] = cost and {"method": quantize, **cost.to_json()}
    content = made.content(facts)
    made.opened(content)
    _write(out, content)
    return Export(out, runtimes, cost)


def check_choices(format: str, quantize: str) -> None:
    """Refuse what `export` cannot make, before anything is loaded.

    Raises:
        ConfigError: if a choice is unknown, the two exclude each other, or a package is missing.
    """
    for key, value, choices in (("format", format, get_args(Format)), ("quantize", quantize, get_args(Quantisation))):
        if value not in choices:
            raise ConfigError(f"{key}={value}: expected one of {', '.join(choices)}.")
    if format == "torch" and quantize != "none":
        raise ConfigError(f"quantize={quantize} is for format=onnx; leave it out for format=torch.")
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if format == "onnx" and find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"format=onnx needs the package(s) {', '.join(missing)}. Install them: pip install 'medvision[export]'."
        )


def exportable(bundle: Path) -> Predictor:
    """The predictor of a bundle with a network, on the CPU.

    Raises:
        BundleError: if the bundle cannot be loaded.
        ConfigError: if it holds a classical model.
    """
    predictor = load_bundle(bundle)
    if not predictor.has_embeddings:
        raise ConfigError(
            f"{bundle} holds a classical model ({predictor.model}); export is offered for networks only.\n"
            "Carry the bundle itself: medvision.load opens it wherever medvision is installed."
        )
    return predictor


def _facts(predictor: Predictor, bundle: Path) -> dict[str, Any]:
    """What the bundle says of the model, for a file that is to need nothing else."""
    manifest = read_manifest(model_directory(bundle))
    return {
        "medvision": __version__,
        "torch": torch.__version__,
        "task": predictor.task.to_json(),
        "decode": predictor.decode,
        **predictor.decision.to_json(),
        "licence": manifest["licence"],
        "fingerprint": manifest["fingerprint"],
        "bundle": {"sha256": manifest["sha256"], "files": manifest["files"]},
    }


def _compare(predicts: Mapping[str, Predict], sizes: list[float], images: NDArray[np.uint8]) -> tuple[Runtime, ...]:
    """Each model's probabilities against the first one's, and how fast they come."""
    probs = [predict(images) for predict in predicts.values()]
    seconds: dict[str, list[float]] = {name: [] for name in predicts}
    for _ in range(_ROUNDS):
        for name, predict in predicts.items():
            seconds[name].append(_seconds(predict, images[:_TIMED]))
    return tuple(
        Runtime(
            name,
            megabytes,
            len(images[:_TIMED]) / statistics.median(seconds[name]),
            float(np.abs(found - probs[0]).max()),
            float((found.argmax(axis=1) == probs[0].argmax(axis=1)).mean()),
        )
        for name, megabytes, found in zip(predicts, sizes, probs, strict=True)
    )


def _seconds(predict: Predict, images: NDArray[np.uint8]) -> float:
    """Mean time of a call, over as many as take a tenth of a second."""
    calls, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < 0.1:
        predict(images)
        calls += 1
    return elapsed / calls


def _megabytes(predictor: Predictor) -> float:
    return sum(int(value.nbytes) for value in predictor.network.state_dict().values()) / 1e6


def _write(out: Path, content: bytes) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise RunError(
            f"{out} cannot be written ({error.strerror or error}); what was there is as it was.\n"
            "Make room, or choose another place by out=FILE."
        ) from error
