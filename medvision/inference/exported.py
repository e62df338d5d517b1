"""What an exported file holds: raw images in, probabilities and embeddings out, in the format of a runtime."""

import copy
import io
import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medvision.inference.batches import batches
from medvision.inference.onnx import OnnxPredictor
from medvision.inference.predictor import Predictor
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
