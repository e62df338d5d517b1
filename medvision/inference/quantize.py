"""Weights and activations in 8 bits, and what that costs in labels and accuracy."""

import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from medvision.errors import ConfigError
from medvision.inference.evidence import Evidence
from medvision.inference.predicts import Predicts
from medvision.metrics.estimates import Estimate
from medvision.metrics.intervals import wilson

if TYPE_CHECKING:
    import onnx

Quantisation = Literal["none", "static"]
_BATCH = 16  # of calibration images
_CONFIDENCE = 0.95
# Softmax is not among them: probabilities in steps of 1/256 are of no use.
_STATIC = ("Conv", "Gemm", "MatMul", "Add", "MaxPool", "AveragePool", "GlobalAveragePool", "Relu")
_PRODUCTS = ("Gemm", "MatMul")


@dataclass(frozen=True)
class Cost:
    """What quantisation costs on images that it was not calibrated on.

    Attributes:
        agreement: share of them whose label stays.
        accuracy: of the quantised model; None where targets are unknown.
        accuracy_before: of the model in full precision, on the same images.
        max_difference: largest difference of a probability.
    """

    agreement: Estimate
    accuracy: Estimate | None
    accuracy_before: Estimate | None
    max_difference: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def quantise(graph: bytes, evidence: Evidence) -> bytes:
    """A serialized ONNX model with 8-bit integers inside; inputs, outputs and softmax stay as they are.

    The range of every activation is fixed by what calibration images reach, and convolutions are computed in integers;
    the last layer stays in full precision. Ranges computed for each batch ("dynamic") were tried and made nothing
    faster (experiments/speed/onnx_over_torch.py).

    Args:
        graph: as onnx serializes it, without a seal.
        evidence: with calibration images.

    Raises:
        ConfigError: if there are no real images to calibrate and measure on.
    """
    if len(evidence.held_out) == 0 or len(evidence.calibration) == 0:
        raise ConfigError(
            "quantize=static is measured on real images, and the run's own are not at hand.\n"
            "Give a folder of such images by images=DIR."
        )
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        source, prepared, result = (Path(folder) / f"{name}.onnx" for name in ("source", "prepared", "quantised"))
        source.write_bytes(graph)
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        model = onnx.load(prepared)
        quantize_static(
            model,
            result,
            _Reader(evidence.calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(_STATIC),
            nodes_to_exclude=_head(model),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return result.read_bytes()


def measure(exact: Predicts, quantised: Predicts, evidence: Evidence) -> Cost:
    """Compare a quantised model with the one it came from on `evidence.held_out`."""
    before, after = exact.predict_probs(evidence.held_out), quantised.predict_probs(evidence.held_out)
    labels, changed, targets = before.argmax(axis=1), after.argmax(axis=1), evidence.targets
    return Cost(
        _share(labels == changed),
        None if targets is None else _share(changed == targets),
        None if targets is None else _share(labels == targets),
        float(np.abs(before - after).max()),
    )


def _share(hits: NDArray[np.bool_]) -> Estimate:
    low, high = wilson(int(hits.sum()), len(hits), _CONFIDENCE)
    return Estimate(float(hits.mean()), low, high, len(hits))


def _head(model: "onnx.ModelProto") -> list[str]:
    """The name of the last matrix product, which makes the logits."""
    products = [node.name for node in model.graph.node if node.op_type in _PRODUCTS]
    return products[-1:]


class _Reader:
    """Hands out calibration images in the way that onnxruntime asks for them."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self._batches: Iterator[NDArray[np.uint8]] = (
            images[start : start + _BATCH] for start in range(0, len(images), _BATCH)
        )

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """The next batch, or None after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {"images": batch}
