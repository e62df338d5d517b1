"""A directory that is a trained model and nothing else: weights as safetensors, everything else as JSON, no pickle."""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from medvision import __version__
from medvision.errors import BundleError
from medvision.files import sync
from medvision.inference.predictor import Predictor
from medvision.models.network import Network
from medvision.targets import build

# 1: first version. Raise it when a reader of the version before would misread; a new key that may be ignored does not.
SCHEMA_VERSION = 1
MANIFEST = "bundle.json"
WEIGHTS = "weights.safetensors"
RESEARCH_USE = "Research use only. Not a medical device: not for diagnosis or treatment."


def save_bundle(
    directory: str | Path,
    network: Network,
    *,
    architecture: Mapping[str, Any],
    class_names: Sequence[str],
    decode: Mapping[str, Any],
    fingerprint: str,
    temperature: float = 1.0,
    licence: str = RESEARCH_USE,
) -> Path:
    """Write a bundle, whole or not at all; a bundle that is there already is replaced once the new one is on disk.

    Args:
        directory: where; its parents are made.
        network: the trained network.
        architecture: the model's config node: `_target_` and its arguments, with `num_classes`, `in_channels` and
            `image_size`.
        class_names: K names, in the order of the logits.
        decode: `size` (H, W), `channels`, `resize`, `window` and `frames`, as `medvision.data.decode.decode` takes it.
        fingerprint: SHA-256 of the data it was trained on.
        temperature: T > 0 in probs = softmax(logits / T).
        licence: what the model may be used for.

    Returns:
        The directory.

    Raises:
        BundleError: if `directory` exists and is something else than a bundle.
    """
    directory = Path(directory).resolve()
    if directory.exists() and not (directory / MANIFEST).is_file() and any(directory.iterdir()):
        raise BundleError(f"{directory} exists and is not a bundle; it was left as it is. Choose another directory.")
    weights = save_tensors({name: value.cpu().contiguous() for name, value in network.state_dict().items()})
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "medvision": __version__,
        # Pretrained weights were the beginning of these; to load the bundle must not fetch them again.
        "architecture": {key: None if key == "weights" else value for key, value in architecture.items()},
        "class_names": list(class_names),
        "decode": dict(decode),
        # For the reader: what is used are the buffers among the weights.
        "normalisation": {"mean": network.mean.tolist(), "std": network.std.tolist()},
        "temperature": temperature,
        "fingerprint": fingerprint,
        "licence": licence,
        "files": {WEIGHTS: hashlib.sha256(weights).hexdigest()},
    }
    manifest["sha256"] = _digest(manifest)
    with _replacing_directory(directory) as staged:
        (staged / WEIGHTS).write_bytes(weights)
        (staged / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return directory


def load_bundle(directory: str | Path, device: str | torch.device = "cpu") -> Predictor:
    """Load a bundle, or the bundle of a run directory, after checking that every file is as it was written.

    The hashes show damage, not malice: whoever can write the weights can write their hash. Nothing that is read is
    executed, and only what `medvision.targets` allows is built.

    Args:
        directory: the bundle, or a run directory that has one in `model`.
        device: see `Predictor`.

    Raises:
        BundleError: if a file is missing or changed, or the bundle was written for a newer medvision.
        ConfigError: if the architecture is not on the allow-list, or there is no such device.
    """
    directory = Path(directory)
    if not (directory / MANIFEST).is_file() and (directory / "model" / MANIFEST).is_file():
        directory = directory / "model"
    manifest = _read_manifest(directory)
    weights = _read_files(directory, manifest["files"])[WEIGHTS]
    architecture = manifest["architecture"]
    # Building draws initial weights; they are thrown away, and the caller's random numbers stay what they were.
    with torch.random.fork_rng(devices=[]):
        network = build(architecture, image_size=tuple(architecture["image_size"]))
    if not isinstance(network, Network):
        raise BundleError(f"{directory / MANIFEST}: {architecture['_target_']} does not build a network.")
    try:
        network.load_state_dict(load_tensors(weights), assign=True)
    except (RuntimeError, SafetensorError) as error:
        raise BundleError(
            f"{directory / WEIGHTS} does not fit {architecture['_target_']} of medvision {__version__}.\n"
            f"Load it with medvision {manifest['medvision']}, which wrote it."
        ) from error
    return Predictor(
        network,
        manifest["class_names"],
        decode=manifest["decode"] | {"size": tuple(manifest["decode"]["size"])},
        temperature=manifest["temperature"],
        device=device,
    )


def _read_manifest(directory: Path) -> dict[str, Any]:
    path = directory / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version = manifest["schema_version"]
    except FileNotFoundError as error:
        raise BundleError(f"no bundle in {directory}: expected {MANIFEST} there, or in model/ of a run.") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{path} cannot be read: {error!r}. Copy the bundle again.") from error
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise BundleError(
            f"{path} has schema_version {version}, written by medvision {manifest.get('medvision')}; "
            f"medvision {__version__} reads up to {SCHEMA_VERSION}. Update medvision."
        )
    # Newer schemas may digest otherwise, so this comes after the version.
    if manifest.get("sha256") != _digest(manifest):
        raise BundleError(f"{path} was changed after it was written (SHA-256 differs). Copy the bundle again.")
    return dict(manifest)


def _read_files(directory: Path, hashes: Mapping[str, str]) -> dict[str, bytes]:
    """Read each file once, so that what was checked is what is used."""
    contents = {}
    for name, expected in hashes.items():
        path = directory / name
        if path.name != name:
            raise BundleError(f"{directory / MANIFEST} lists {name!r}, which is not a file of the bundle.")
        try:
            contents[name] = path.read_bytes()
        except OSError as error:
            raise BundleError(f"{path} cannot be read: {error.strerror}. Copy the bundle again.") from error
        if hashlib.sha256(contents[name]).hexdigest() != expected:
            raise BundleError(f"{path} was changed after it was written (SHA-256 differs). Copy the bundle again.")
    if WEIGHTS not in contents:
        raise BundleError(f"{directory / MANIFEST} lists no {WEIGHTS}.")
    return contents


def _digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest's values, its own digest excepted; independent of layout."""
    values = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


@contextmanager
def _replacing_directory(directory: Path) -> Iterator[Path]:
    """Lend an empty directory beside `directory`; when the block ends, flush it to disk and put it in its place.

    A directory cannot be renamed over another, so for an instant neither is there; should the process be killed just
    then, the old one is found beside as `.<name>.old` and the next save puts it back first.
    """
    staged, retired = (directory.with_name(f".{directory.name}.{suffix}") for suffix in ("new", "old"))
    if retired.exists() and not directory.exists():
        retired.rename(directory)
    for leftover in (staged, retired):
        shutil.rmtree(leftover, ignore_errors=True)
    staged.mkdir(parents=True)
    try:
        yield staged
        for path in (*staged.iterdir(), staged):
            sync(path)
        if directory.exists():
            directory.rename(retired)
        staged.rename(directory)
        sync(directory.parent)
    finally:
        if retired.exists() and not directory.exists():
            retired.rename(directory)
        shutil.rmtree(staged, ignore_errors=True)
        shutil.rmtree(retired, ignore_errors=True)
