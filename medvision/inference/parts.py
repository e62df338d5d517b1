"""What was learnt, as the files of a bundle and back: weights as safetensors, estimators by skops."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sklearn
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from medvision import __version__
from medvision.config.targets import build
from medvision.errors import BundleError
from medvision.inference.estimator_io import estimator_from_bytes, estimator_to_bytes
from medvision.models.classical import Classical
from medvision.models.features import Embedding
from medvision.models.network import Network

WEIGHTS = "weights.safetensors"
ESTIMATOR = "estimator.skops"


def to_files(model: Network | Classical) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The content of each file, by name, and what the manifest says of them."""
    if not isinstance(model, Classical):
        # The normalisation is for the reader: what is used are the buffers among the weights.
        facts = {"normalisation": {"mean": model.mean.tolist(), "std": model.std.tolist()}}
        return {WEIGHTS: _tensors(model)}, facts
    parts = {ESTIMATOR: estimator_to_bytes(model.estimator)}
    facts = {"scikit_learn": sklearn.__version__}
    if isinstance(model.features, Embedding) and model.features.network is not None:
        parts[WEIGHTS] = _tensors(model.features.network)
        facts["embedding"] = without_weights(model.features.architecture)
    return parts, facts


def from_files(directory: Path, contents: Mapping[str, bytes], manifest: Mapping[str, Any]) -> Network | Classical:
    """The model of a bundle.

    Args:
        directory: of the bundle, for messages.
        contents: what each file holds.
        manifest: bundle.json.

    Raises:
        BundleError: if the files and the manifest do not belong together.
        ConfigError: if an architecture is not on the allow-list.
    """
    if ESTIMATOR in contents:
        return _read_classical(directory, contents, manifest)
    return _read_network(directory, contents, manifest, manifest["architecture"])


def without_weights(node: Any) -> Any:
    """A config node without the files of its weights.

    Pretrained weights were the beginning of those in the bundle; to load the bundle must not fetch them again.
    """
    if not isinstance(node, Mapping):
        return node
    return {key: None if key == "weights" else without_weights(value) for key, value in node.items()}


def _tensors(network: Network) -> bytes:
    return save_tensors({name: value.cpu().contiguous() for name, value in network.state_dict().items()})


def _read_network(
    directory: Path, contents: Mapping[str, bytes], manifest: Mapping[str, Any], architecture: Mapping[str, Any]
) -> Network:
    if WEIGHTS not in contents:
        raise BundleError(f"{directory / 'bundle.json'} lists no {WEIGHTS} and no {ESTIMATOR}.")
    # Building draws initial weights; they are thrown away, and the caller's random numbers stay what they were.
    with torch.random.fork_rng(devices=[]):
        # Pretrained weights would be downloaded, and thrown away.
        network = build(without_weights(architecture), "model", image_size=tuple(architecture["image_size"]))
    if not isinstance(network, Network):
        raise BundleError(f"{directory / 'bundle.json'}: {architecture['_target_']} does not build a network.")
    try:
        network.load_state_dict(load_tensors(contents[WEIGHTS]), assign=True)
    except (RuntimeError, SafetensorError) as error:
        raise BundleError(
            f"{directory / WEIGHTS} does not fit {architecture['_target_']} of medvision {__version__}.\n"
            f"Load it with medvision {manifest['medvision']}, which wrote it."
        ) from error
    return network


def _read_classical(directory: Path, contents: Mapping[str, bytes], manifest: Mapping[str, Any]) -> Classical:
    architecture = manifest["architecture"]
    model = build(without_weights(architecture), "model", image_size=tuple(architecture["image_size"]))
    if not isinstance(model, Classical):
        raise BundleError(f"{directory / 'bundle.json'}: {architecture['_target_']} does not build a classical model.")
    model.estimator = estimator_from_bytes(contents[ESTIMATOR], model.num_classes, str(directory / ESTIMATOR))
    if isinstance(model.features, Embedding):
        embedding = manifest["embedding"]
        model.features.use(_read_network(directory, contents, manifest, embedding), embedding)
    return model
