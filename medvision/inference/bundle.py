"""A directory that is a trained model and nothing else: weights as safetensors, everything else as JSON, no pickle."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import EllipsisType
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
CARD = "README.md"
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
    operating_point: Mapping[str, Any] | None = None,
    conformal: Mapping[str, Any] | None = None,
    gate: Mapping[str, Any] | None = None,
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
        operating_point: see `Predictor`; plain JSON without NaN or infinities, as the next two.
        conformal: see `Predictor`.
        gate: see `Predictor`.
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
        "operating_point": operating_point,
        "conformal": conformal,
        "gate": gate,
        "fingerprint": fingerprint,
        "licence": licence,
        "files": {WEIGHTS: hashlib.sha256(weights).hexdigest()},
    }
    with _replacing_directory(directory) as staged:
        (staged / WEIGHTS).write_bytes(weights)
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
    _restore(directory)
    manifest = _read_manifest(directory) | {name: value for name, value in changes.items() if value is not ...}
    with _replacing_directory(directory) as staged:
        for name in manifest["files"]:
            # Not read, so not blessed: a file that was damaged before still differs from its SHA-256.
            _link(_inside(directory, name), staged / name)
        if not isinstance(card, EllipsisType):
            content = card.encode()
            (staged / CARD).unlink(missing_ok=True)
            (staged / CARD).write_bytes(content)
            manifest["files"] |= {CARD: hashlib.sha256(content).hexdigest()}
        _write_manifest(staged, manifest)


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
        operating_point=manifest.get("operating_point"),
        conformal=manifest.get("conformal"),
        gate=manifest.get("gate"),
        device=device,
    )


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
            raise BundleError(f"{path} cannot be read: {error.strerror}. Copy the bundle again.") from error
        if hashlib.sha256(contents[name]).hexdigest() != expected:
            raise BundleError(f"{path} was changed after it was written (SHA-256 differs). Copy the bundle again.")
    if WEIGHTS not in contents:
        raise BundleError(f"{directory / MANIFEST} lists no {WEIGHTS}.")
    return contents


def _inside(directory: Path, name: str) -> Path:
    if (directory / name).name != name:
        raise BundleError(f"{directory / MANIFEST} lists {name!r}, which is not a file of the bundle.")
    return directory / name


def _link(source: Path, target: Path) -> None:
    """The same file under a second name where the file system can, else a copy."""
    try:
        os.link(source, target)
    except FileNotFoundError as error:
        raise BundleError(f"{source} cannot be read: {error.strerror}. Copy the bundle again.") from error
    except OSError:
        shutil.copy2(source, target)


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
    staged, retired = _beside(directory)
    _restore(directory)
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
        _restore(directory)
        shutil.rmtree(staged, ignore_errors=True)
        shutil.rmtree(retired, ignore_errors=True)


def _restore(directory: Path) -> None:
    """Put back a bundle whose replacement was killed between its two renames."""
    _, retired = _beside(directory)
    if retired.exists() and not directory.exists():
        retired.rename(directory)


def _beside(directory: Path) -> tuple[Path, Path]:
    """Where the new directory is made and where the old one waits until the new one is in its place."""
    return directory.with_name(f".{directory.name}.new"), directory.with_name(f".{directory.name}.old")
