"""A model in one ONNX file, run by onnxruntime alone: neither torch nor the code of the network is needed."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvision.errors import BundleError, ConfigError, DataError
from medvision.inference.decision import Decision
from medvision.inference.prediction import MIN_CONFIDENCE, ImageLike, Prediction, predict
from medvision.inference.predicts import batches, check_images
from medvision.inference.seal import check_seal, read_facts
from medvision.tasks import Task

_QUIET = 3  # onnxruntime's severity from which it writes to stderr: errors


class OnnxPredictor:
    """Predicts with a file that `medvision export` wrote; see `medvision.inference.predictor.Predictor`.

    Args:
        source: the file, or its content.
        threads: at work on one batch; None takes OMP_NUM_THREADS where it is set, else one for each core that this
            process may use.

    Attributes:
        task: what is asked of an image.
        decode: as `medvision.data.decode.decode` takes it.
        decision: what turns logits into an answer; temperature and views are inside the file already.
        facts: all that the file says of itself: the bundle it came from, how it was tested, what it may be used for.

    Raises:
        BundleError: if the file is missing, damaged, not ours, or for a newer medvision or onnxruntime.
        ConfigError: if onnxruntime is not installed.
    """

    has_embeddings = True

    def __init__(self, source: str | Path | bytes, *, threads: int | None = None) -> None:
        onnxruntime = _import_onnxruntime()
        name = "the ONNX model" if isinstance(source, bytes) else str(source)
        data = source if isinstance(source, bytes) else _read(Path(source))
        check_seal(data, name)
        options = onnxruntime.SessionOptions()
        # Left to itself it starts a thread for each core of the machine, also where a container grants two.
        options.intra_op_num_threads = threads or _threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = _QUIET
        try:
            self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors have no common class; the file is intact, so the runtime is too old
            reason = str(error).splitlines()[0]
            raise BundleError(
                f"{name} cannot be run by onnxruntime {onnxruntime.__version__} ({reason}).\n"
                "Update it: pip install -U 'medvision[export]'."
            ) from error
        self.facts: dict[str, Any] = read_facts(self._session.get_modelmeta().custom_metadata_map, name)
        self.decode: dict[str, Any] = self.facts["decode"] | {"size": tuple(self.facts["decode"]["size"])}
        try:
            # Files of version 0.1 have the class names alone.
            self.task = Task.from_json(self.facts.get("task", {"kind": "classes", **self.facts}))
            self.decision = Decision.from_json(self.facts, self.task)
        except DataError as error:
            raise BundleError(f"{name} holds facts that cannot be used: {error}. Do not use it.") from error

    @property
    def class_names(self) -> tuple[str, ...]:
        """The K class names of the task."""
        return self.task.class_names

    def predict(
        self, images: ImageLike | Iterable[ImageLike], min_confidence: float = MIN_CONFIDENCE
    ) -> Prediction | list[Prediction]:
        """Label, probabilities, prediction set and status of paths, PIL images or pixels; see `prediction.predict`."""
        return predict(self, images, min_confidence)

    def predict_probs(self, images: NDArray[np.uint8], batch_size: int | None = None) -> NDArray[np.float64]:
        """Calibrated probabilities of images; the same bits however many are passed, from 16 on.

        Args:
            images: (N, C, H, W) uint8, in memory or memory-mapped, at the size and channels of `decode`.
            batch_size: images at a time; see `medvision.inference.predicts`.

        Returns:
            (N, K) float64; rows sum to 1.

        Raises:
            DataError: if `images` has another dtype or shape.
        """
        return self.probs_and_embeddings(images, batch_size)[0]

    def embed(self, images: NDArray[np.uint8], batch_size: int | None = None) -> NDArray[np.float32]:
        """Embeddings of images, (N, D) float32: what the last layer sees; arguments and errors as `predict_probs`."""
        return self.probs_and_embeddings(images, batch_size)[1]

    def probs_and_embeddings(
        self, images: NDArray[np.uint8], batch_size: int | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Both outputs for the price of one; arguments and errors as `predict_probs`."""
        check_images(images, self.decode)
        probs = np.empty((len(images), len(self.class_names)))
        embeddings = np.empty((len(images), self._session.get_outputs()[1].shape[1]), np.float32)
        for rows in batches(images, batch_size):
            probs[rows], embeddings[rows] = self._session.run(["probs", "embedding"], {"images": images[rows]})
        # The file works in single precision, where a row adds up to 1 only to 7 digits.
        return probs / probs.sum(axis=1, keepdims=True), embeddings


def _import_onnxruntime() -> Any:
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ConfigError(
            "ONNX models need the package onnxruntime. Install it: pip install 'medvision[export]'."
        ) from error
    return onnxruntime


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}. Expected an ONNX file.") from error


def _threads() -> int:
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    if asked.isdecimal() and int(asked):
        return int(asked)
    # sched_getaffinity, which knows what a container or `taskset` grants, is Linux's.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
