"""Opens a trained model of any kind by its path."""

from pathlib import Path
from typing import TYPE_CHECKING, Union

from medvision.errors import ConfigError
from medvision.inference.onnx import OnnxPredictor

if TYPE_CHECKING:
    from medvision.inference.predictor import Predictor


def load(path: str | Path, device: str = "cpu", tta: str | None = None) -> Union["Predictor", OnnxPredictor]:
    """Load a trained model: `load("outputs/.../model").predict("scan.dcm")`.

    Args:
        path: a bundle, a run directory, or an ONNX file made by `medvision export`, which needs no torch.
        device: of a bundle, see `Predictor`; an ONNX file runs on the CPU.
        tta: views to average, "none", "mirror" or "mirror_shift"; None takes those that the model was calibrated with,
            which are the only ones that an ONNX file has.

    Raises:
        BundleError: if it is missing, damaged, or newer than this version.
        ConfigError: if the model is not on the allow-list, there are no such device or views, or a package is missing.
    """
    if Path(path).suffix.lower() == ".onnx":
        if device not in ("cpu", "auto"):
            raise ConfigError(f"device {device!r}: an ONNX file runs on the CPU. Load the bundle to use a GPU.")
        predictor = OnnxPredictor(path)
        if tta not in (None, predictor.decision.tta):
            raise ConfigError(
                f"tta={tta}: {path} was exported with tta={predictor.decision.tta}, which is inside the file.\n"
                "Leave tta out, or predict with the bundle: run=DIR."
            )
        return predictor
    from medvision.inference.bundle import load_bundle  # torch, which an ONNX file does not need

    return load_bundle(path, device, tta)
