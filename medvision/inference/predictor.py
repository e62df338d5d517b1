"""A trained model that takes raw uint8 images and says how probable each class is."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from medvision.errors import ConfigError, ModelError
from medvision.inference.decision import Decision
from medvision.inference.prediction import MIN_CONFIDENCE, ImageLike, Prediction, predict
from medvision.inference.predicts import batches, check_images
from medvision.inference.tta import check_tta, embed_views
from medvision.metrics.predictions import activation
from medvision.models.classical import Classical
from medvision.models.network import Network
from medvision.tasks import Task

# Above 64 a network's activations leave a CPU's cache: 10,000 MNIST images took 0.22 s, and 0.85 s with 512 at a time.
_MOST_ON_CPU = 64
_MOST = 512


class Predictor:
    """Predicts with a network whose normalisation is inside, or with a classical model.

    Args:
        model: a network, (B, C, H, W) uint8 to logits (B, K): it is moved, frozen and put in evaluation mode. Of a
            classical model only a network that makes its features is on the device.
        task: what is asked of an image.
        decode: `size` (H, W), `channels`, `resize`, `window` and `frames`, as `medvision.data.decode.decode` takes it.
        decision: what turns logits into an answer.
        device: "cpu", "cuda", "cuda:1", "mps", ...; "gpu" is any accelerator, "auto" one where there is one.

    Raises:
        ConfigError: if there is no such device, or the views are unknown or need embeddings that the model lacks.
    """

    def __init__(
        self,
        model: nn.Module | Classical,
        task: Task,
        *,
        decode: Mapping[str, Any],
        decision: Decision | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.task = task
        self.decode = dict(decode)
        self.decision = decision or Decision()
        check_tta(self.decision.tta)
        if self.decision.tta != "none" and not getattr(model, "has_embeddings", False):
            raise ConfigError(
                f"tta={self.decision.tta} averages the embeddings of a network; {model} has none: set tta=none."
            )
        self.device = choose_device(device)
        self.model = model.to(self.device)
        on_cpu = isinstance(model, nn.Module) and self.device.type == "cpu"
        self._most = _MOST_ON_CPU if on_cpu else _MOST
        self._logits: Callable[[NDArray[np.uint8]], NDArray[np.float32]]
        if isinstance(model, Classical):
            self._logits = model.logits
        else:
            model.eval().requires_grad_(False).to(memory_format=torch.channels_last)
            self._logits = self._forward

    @classmethod
    def uncalibrated(
        cls, model: nn.Module | Classical, task: Task, decode: Mapping[str, Any], *, tta: str, device: str
    ) -> "Predictor":
        """A trained model that has no decision but its views yet."""
        return cls(model, task, decode=decode, decision=Decision(tta=tta), device=device)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The K class names of the task."""
        return self.task.class_names

    @property
    def has_embeddings(self) -> bool:
        """Whether `probs_and_embeddings` works."""
        return bool(getattr(self.model, "has_embeddings", False))

    @property
    def embed_dim(self) -> int:
        """Length D of an embedding."""
        return cast(Network, self.network).head.in_features

    @property
    def network(self) -> nn.Module:
        """The network.

        Raises:
            ModelError: if the model is a classical one.
        """
        if isinstance(self.model, nn.Module):
            return self.model
        raise ModelError(f"This model ({self.model}) is a classical one: there is no network in it.")

    def predict(
        self, images: ImageLike | Iterable[ImageLike], min_confidence: float = MIN_CONFIDENCE
    ) -> Prediction | list[Prediction]:
        """Label, probabilities, conformal set and status of paths, PIL images or pixels; see `prediction.predict`."""
        return predict(self, images, min_confidence)

    def predict_logits(self, images: NDArray[np.uint8], batch_size: int | None = None) -> NDArray[np.float32]:
        """Logits of images; on a CPU the same bits however many are passed, from 16 on.

        Args:
            images: (N, C, H, W) uint8, in memory or memory-mapped, at the size and channels of `decode`.
            batch_size: images at a time; by default as many as hold 4 million pixels, within 16 and 512, or 64
                for a network on a CPU.

        Returns:
            (N, K) float32.

        Raises:
            DataError: if `images` has another dtype or shape.
        """
        check_images(images, self.decode)
        logits = np.empty((len(images), len(self.class_names)), dtype=np.float32)
        for rows in batches(images, batch_size, self._most):
            logits[rows] = self._logits(images[rows])
        return logits

    def predict_probs(self, images: NDArray[np.uint8], batch_size: int | None = None) -> NDArray[np.float64]:
        """Calibrated probabilities of images, (N, K) float64; arguments and errors as `predict_logits`."""
        return activation(self.task, self.predict_logits(images, batch_size), self.decision.temperature)

    @torch.inference_mode()
    def probs_and_embeddings(
        self, images: NDArray[np.uint8], batch_size: int | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Calibrated probabilities (N, K) and what the network's head sees, (N, D), for the price of one.

        Args:
            images: as for `predict_logits`.
            batch_size: as for `predict_logits`.

        Raises:
            DataError: as `predict_logits`.
            ModelError: if the model is a classical one.
        """
        check_images(images, self.decode)
        network = cast(Network, self.network)
        logits = np.empty((len(images), len(self.class_names)), dtype=np.float32)
        embeddings = np.empty((len(images), self.embed_dim), dtype=np.float32)
        for rows in batches(images, batch_size, self._most):
            found = embed_views(network, self._batch(images[rows]), self.decision.tta)
            embeddings[rows] = found.float().cpu().numpy()
            logits[rows] = network.head(found).float().cpu().numpy()
        return activation(self.task, logits, self.decision.temperature), embeddings

    @torch.inference_mode()
    def _forward(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        batch = self._batch(images)
        if self.decision.tta == "none":
            logits: torch.Tensor = self.network(batch)
        else:
            network = cast(Network, self.network)
            logits = network.head(embed_views(network, batch, self.decision.tta))
        return np.asarray(logits.float().cpu().numpy())

    def _batch(self, images: NDArray[np.uint8]) -> torch.Tensor:
        # A copy, because torch wants memory it could write to and a memory map may not offer it.
        return torch.from_numpy(np.array(images)).to(self.device).contiguous(memory_format=torch.channels_last)


def choose_device(name: str | torch.device) -> torch.device:
    """The device of this name; see `Predictor`.

    Raises:
        ConfigError: if there is no such device here.
    """
    if name in ("auto", "gpu") and torch.accelerator.is_available():
        return torch.device(torch.accelerator.current_accelerator() or "cpu")
    try:
        device = torch.device("cpu" if name == "auto" else name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device {str(name)!r} is not available here. Use 'cpu', or 'auto' for the best there is."
        ) from error
    return device
