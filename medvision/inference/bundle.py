"""A directory that is a trained model and nothing else: weights or an estimator, the rest as JSON, no pickle."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import EllipsisType
from typing import Any, cast

import torch

from medvision import __version__
from medvision.errors import BundleError
from medvision.files import link, replacing_directory, restore_directory
from medvision.inference.parts import from_files, to_files, without_weights
from medvision.inference.predictor import Predictor
from medvision.models.classical import Classical
from medvision.models.features import Embedding
from medvision.models.network import Network

# 1: first version; 2: `tta`. Raise it when a reader of the version before would misread; a new key that may be ignored
# does not.
SCHEMA_VERSION = 2
MANIFEST = "bundle.json"
CARD = "README.md"
RESEARCH_USE = "Research use only. Not a medical device: not for diagnosis or treatment."


def save_bundle(
    directory: str | Path,
    model: Network | Classical,
    *,
    architecture: Mapping[str, Any],
    class_names: Sequence[str],
    decode: Mapping[str, Any],
    fingerprint: str,
    temperature: float = 1.0,
    operating_point: Mapping[str, Any] | None = None,
    conformal: Mapping[str, Any] | None = None,
    gate: Mapping[str, Any] | None = None,
    tta: str = "none",
    licence: str = RESEARCH_USE,
) -> Path:
    """Write a bundle, whole or not at all; a bundle that is there already is replaced once the new one is on disk.

    Args:
        directory: where; its parents are made.
        model: trained.
        architecture: the model's config node: `_target_` and its arguments, with `num_classes`, `in_channels` and
            `image_size`.
        class_names: K names, in the order of the logits.
        decode: `size` (H, W), `channels`, `resize`, `window` and `frames`, as `medvision.data.decode.decode` takes it.
        fingerprint: SHA-256 of the data it was trained on.
        temperature: T > 0 in probs = softmax(logits / T).
        operating_point: see `Predictor`; plain JSON without NaN or infinities, as the next two.
        conformal: see `Predictor`.
        gate: see `Predictor`.
        tta: see `Predictor`.
        licence: what the model may be used for.

    Returns:
        The directory.

    Raises:
        BundleError: if `directory` exists and is something else than a bundle.
    """
    directory = Path(directory).resolve()
    if directory.exists() and not (directory / MANIFEST).is_file() and any(directory.iterdir()):
        raise BundleError(f"{directory} exists and is not a bundle; it was left as it is. Choose another directory.")
    parts, facts = to_files(model)
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "medvision": __version__,
        "architecture": without_weights(architecture),
        "class_names": list(class_names),
        "decode": dict(decode),
        **facts,
        "temperature": temperature,
        "operating_point": operating_point,
        "conformal": conformal,
        "gate": gate,
        "tta": tta,
        "fingerprint": fingerprint,
        "licence": licence,
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in parts.items()},
    }
    with replacing_directory(directory) as staged:
        for name, content in parts.items():
            (staged / name).write_bytes(content)
        _write_manifest(staged, manifest)
    return directory


def amend_bundle(
    directory: str | Path,
    *,
    temperature: float | EllipsisType = ...,
    operating_point: Mapping[str, Any] | EllipsisType | None = ...,
    conformal: Mapping[str, Any] | EllipsisType | None = ...,
    gate: Mapping[str, Any] | EllipsisType | None = ...,
    card: str | EllipsisType = ...,
) -> None:
    """Write down what is known only once the model has been evaluated; the weights stay the file that they are.

    What is left out stays as it was. The bundle is replaced by the amended one as a whole, as `save_bundle` does it.

    Args:
        directory: the bundle.
        temperature: T > 0 in probs = softmax(logits / T).
        operating_point: see `Predictor`; None takes it away, here and for the next two.
        conformal: see `Predictor`.
        gate: see `Predictor`.
        card: the model card, Markdown, for README.md.

    Raises:
        BundleError: if there is no bundle, its manifest was changed, or it was written for a newer medvision.
        ValueError: if a value is NaN or infinite, which JSON has no words for.
    """
    directory = Path(directory).resolve()
    changes = {
        "temperature": temperature,
        "operating_point": operating_point,
        "conformal": conformal,
        "gate": gate,
    }
    restore_directory(directory)
    manifest = _read_manifest(directory) | {name: value for name, value in changes.items() if value is not ...}
    with replacing_directory(directory) as staged:
        for name in manifest["files"]:
            # Not read, so not blessed: a file that was damaged before still differs from its SHA-256.
            try:
                link(_inside(directory, name), staged / name)
            except FileNotFoundError as error:
                raise _unreadable(directory / name, error) from error
        if not isinstance(card, EllipsisType):
            content = card.encode()
            (staged / CARD).unlink(missing_ok=True)
            (staged / CARD).write_bytes(content)
            manifest["files"] |= {CARD: hashlib.sha256(content).hexdigest()}
        _write_manifest(staged, manifest)


def load_bundle(directory: str | Path, device: str | torch.device = "cpu", tta: str | None = None) -> Predictor:
    """Load a bundle, or the bundle of a run directory, after checking that every file is as it was written.

    The hashes show damage, not malice: whoever can write the weights can write their hash. Nothing that is read is
    executed, and only what `medvision.targets` allows is built.

    Args:
        directory: the bundle, or a run directory that has one in `model`.
        device: see `Predictor`.
        tta: see `Predictor`; None takes that of the bundle, with which it was calibrated.

    Raises:
        BundleError: if a file is missing or changed, or the bundle was written for a newer medvision.
        ConfigError: if the architecture is not on the allow-list, or there are no such device or views.
    """
    directory = _model_directory(directory)
    manifest = _read_manifest(directory)
    contents = _read_files(directory, manifest["files"])
    return Predictor(
        from_files(directory, contents, manifest),
        manifest["class_names"],
        decode=manifest["decode"] | {"size": tuple(manifest["decode"]["size"])},
        temperature=manifest["temperature"],
        operating_point=manifest.get("operating_point"),
        conformal=manifest.get("conformal"),
        gate=manifest.get("gate"),
        tta=manifest.get("tta", "none") if tta is None else tta,
        device=device,
    )


def load_embedding(directory: str | Path) -> Embedding:
    """The network of a bundle, or of a run directory's, as features for a classical model; raises as `load_bundle`."""
    directory = _model_directory(directory)
    manifest = _read_manifest(directory)
    network, embedding = cast(Network, load_bundle(directory).network), Embedding()
    embedding.use(network, manifest["architecture"])
    return embedding


def _model_directory(directory: str | Path) -> Path:
    """The bundle, where a run directory stands for the one in its `model`."""
    directory = Path(directory)
    inside = not (directory / MANIFEST).is_file() and (directory / "model" / MANIFEST).is_file()
    return directory / "model" if inside else directory


def _write_manifest(directory: Path, manifest: Mapping[str, Any]) -> None:
    # The digest is of what a reader will find: lists for tuples, text for the keys of mappings.
    values = json.loads(json.dumps(manifest, allow_nan=False))
    text = json.dumps(values | {"sha256": _digest(values)}, indent=2, ensure_ascii=False)
    (directory / MANIFEST).write_text(text + "\n", encoding="utf-8")


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
        path = _inside(directory, name)
        try:
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
