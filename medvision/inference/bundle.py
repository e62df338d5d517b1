"""Bundle: a directory that is a trained model and nothing else: weights or an estimator, JSON, no pickle."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from medvision import __version__
from medvision.config.renames import updated
from medvision.errors import BundleError, DataError
from medvision.files import replacing_directory, restore_directory, write_text
from medvision.inference.decision import Decision
from medvision.inference.parts import from_files, to_files, without_weights
from medvision.inference.predictor import Predictor
from medvision.models.classical import Classical
from medvision.models.features import Embedding
from medvision.models.network import Network
from medvision.tasks import Task

# 1: first version; 2: `tta`; 3: `task` for `class_names`, `ood` for `gate`. Raise it when a reader of the version
# before would misread; a new key that may be ignored does not.
SCHEMA_VERSION = 3
MANIFEST = "bundle.json"
CARD = "README.md"
RESEARCH_USE = "Research use only. Not a medical device: not for diagnosis or treatment."


def save_bundle(
    directory: str | Path,
    model: Network | Classical,
    *,
    architecture: Mapping[str, Any],
    task: Task,
    decode: Mapping[str, Any],
    fingerprint: str,
    decision: Decision | None = None,
    licence: str = RESEARCH_USE,
) -> Path:
    """Write a bundle, whole or not at all; a bundle that is there already is replaced once the new one is on disk.

    Args:
        directory: of the bundle; its parents are made.
        model: trained.
        architecture: the model's config node: `_target_` and its arguments, with `num_classes`, `in_channels` and
            `image_size`.
        task: what the model was trained for.
        decode: `size` (H, W), `channels`, `resize`, `window` and `frames`, as `medvision.data.decode.decode` takes it.
        fingerprint: SHA-256 of the data it was trained on.
        decision: what turns logits into an answer.
        licence: what the model may be used for.

    Returns:
        The directory.

    Raises:
        BundleError: if `directory` exists and is something else than a bundle.
        ValueError: if a value is NaN or infinite, which JSON cannot hold.
    """
    directory = Path(directory).resolve()
    if directory.exists() and not (directory / MANIFEST).is_file() and any(directory.iterdir()):
        raise BundleError(f"{directory} exists and is not a bundle; it was left as it is. Choose another directory.")
    parts, facts = to_files(model)
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "medvision": __version__,
        "architecture": without_weights(architecture),
        "task": task.to_json(),
        "decode": dict(decode),
        **facts,
        **(decision or Decision()).to_json(),
        "fingerprint": fingerprint,
        "licence": licence,
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in parts.items()},
    }
    with replacing_directory(directory) as staged:
        for name, content in parts.items():
            (staged / name).write_bytes(content)
        _write_manifest(staged, manifest)
    return directory


def write_card(directory: Path, card: str) -> None:
    """Write the model card, Markdown, as README.md of a bundle; it is for readers and not part of the model.

    Raises:
        BundleError: if there is no bundle.
    """
    manifest = read_manifest(directory)
    if CARD in manifest["files"]:  # bundles of version 0.1 listed it
        del manifest["files"][CARD]
        _write_manifest(directory, manifest | {"schema_version": SCHEMA_VERSION})
    write_text(directory / CARD, card)


def load_bundle(directory: str | Path, device: str | torch.device = "cpu", tta: str | None = None) -> Predictor:
    """Load a bundle, or the bundle of a run directory, after checking that every file is as it was written.

    The hashes show damage, not malice: whoever can write the weights can write their hash. Nothing that is read is
    executed, and only what `medvision.config.targets` allows is built.

    Args:
        directory: the bundle, or a run directory that has one in `model`.
        device: see `Predictor`.
        tta: the views of an image to average; None takes those that the model was calibrated with.

    Raises:
        BundleError: if a file is missing or changed, or the bundle was written for a newer medvision.
        ConfigError: if the architecture is not allowed, or there are no such device or views.
    """
    directory = model_directory(directory)
    manifest = read_manifest(directory)
    contents = _read_files(directory, manifest["files"])
    try:
        task = Task.from_json(manifest["task"])
        decision = Decision.from_json(manifest, task)
    except (DataError, KeyError) as error:
        raise BundleError(f"{directory / MANIFEST} cannot be used: {error}. Do not use it.") from error
    return Predictor(
        from_files(directory, contents, manifest),
        task,
        decode=manifest["decode"] | {"size": tuple(manifest["decode"]["size"])},
        decision=decision if tta is None else replace(decision, tta=tta),
        device=device,
    )


def load_embedding(directory: str | Path) -> Embedding:
    """The network of a bundle, or of a run directory's, as features for a classical model; raises as `load_bundle`."""
    directory, embedding = model_directory(directory), Embedding()
    embedding.use(load_network(directory), read_manifest(directory)["architecture"])
    return embedding


def load_network(directory: str | Path) -> Network:
    """The network of a bundle, or of a run directory's; raises as `load_bundle`, ModelError for a classical model."""
    network = load_bundle(directory).network
    assert isinstance(network, Network)
    return network


def model_directory(directory: str | Path) -> Path:
    """The bundle, where a run directory stands for the one in its `model`."""
    directory = Path(directory)
    inside = not (directory / MANIFEST).is_file() and (directory / "model" / MANIFEST).is_file()
    return directory / "model" if inside else directory


def _write_manifest(directory: Path, manifest: Mapping[str, Any]) -> None:
    # The digest is of what a reader will find: lists for tuples, text for the keys of mappings.
    values = json.loads(json.dumps(manifest, allow_nan=False))
    text = json.dumps(values | {"sha256": _digest(values)}, indent=2, ensure_ascii=False)
    (directory / MANIFEST).write_text(text + "\n", encoding="utf-8")


_REQUIRED = {
    "architecture": ("_target_", "num_classes", "in_channels", "image_size"),
    "decode": ("size", "channels", "resize"),
    "task": ("kind", "class_names"),
    "files": (),
}


def read_manifest(directory: Path) -> dict[str, Any]:
    """bundle.json, with the keys of this version.

    Raises:
        BundleError: if it is missing, was changed, or was written for a newer medvision.
    """
    restore_directory(directory)
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
    manifest = dict(manifest)
    if version < 3:
        manifest["task"] = {"kind": "classes", "class_names": manifest.pop("class_names")}
        manifest["ood"] = manifest.pop("gate", None)
    manifest |= {name: updated(manifest[name]) for name in ("architecture", "embedding") if name in manifest}
    for part, keys in _REQUIRED.items():
        node = manifest.get(part)
        missing = [part] if not isinstance(node, Mapping) else [f"{part}.{key}" for key in keys if key not in node]
        if missing:
            raise BundleError(f"{path} lacks {', '.join(missing)}. Do not use this bundle.")
    return manifest


def _read_files(directory: Path, hashes: Mapping[str, str]) -> dict[str, bytes]:
    """Read each file once, so that what was checked is what is used."""
    contents = {}
    for name, expected in hashes.items():
        path = _inside(directory, name)
        try:
            if path.exists() and not path.is_file():  # to read a pipe would wait for ever
                raise BundleError(f"{path} is not a regular file. Do not use this bundle.")
            contents[name] = path.read_bytes()
        except OSError as error:
            raise _unreadable(path, error) from error
        if hashlib.sha256(contents[name]).hexdigest() != expected:
            raise BundleError(f"{path} was changed after it was written (SHA-256 differs). Copy the bundle again.")
    return contents


def _unreadable(path: Path, error: OSError) -> BundleError:
    return BundleError(f"{path} cannot be read: {error.strerror}. Copy the bundle again.")


def _inside(directory: Path, name: str) -> Path:
    if (directory / name).name != name:
        raise BundleError(f"{directory / MANIFEST} lists {name!r}, which is not a file of the bundle.")
    return directory / name


def _digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest's values, its own digest excepted; independent of layout."""
    values = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
