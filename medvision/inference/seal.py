"""Seal of an ONNX file: what it says of itself, and the checksum that shows whether it was changed.

A protocol buffer may be followed by more of its fields. So the facts, and after them the SHA-256 of everything before,
are appended to the finished model as two entries of its `metadata_props`: every reader of ONNX sees them, and to check
the hash takes neither onnx nor a parser.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medvision import __version__
from medvision.errors import BundleError

# As in bundle.py: raise it when a reader of the version before would misread. 2: `task` for `class_names`.
SCHEMA_VERSION = 2
FACTS = "medvision"  # the entry of metadata_props that holds the facts, as JSON
_HASH = "medvision_sha256"
# How the last entry begins: its field, its length, its key, and the field and length of its value of 64 digits.
_LAST = b"r\x54\n\x10medvision_sha256\x12\x40"
_DIGITS = 64


def seal(graph: bytes, facts: Mapping[str, Any]) -> bytes:
    """A serialized ONNX model with facts and checksum.

    Args:
        graph: the model, as onnx serializes it.
        facts: plain JSON values.

    Raises:
        ValueError: if a value is NaN or infinite, which JSON cannot hold.
    """
    text = json.dumps({"schema_version": SCHEMA_VERSION, **facts}, ensure_ascii=False, allow_nan=False)
    content = graph + _entry(FACTS, text)
    return content + _entry(_HASH, hashlib.sha256(content).hexdigest())


def check_seal(data: bytes, path: str | Path) -> None:
    """Make sure that a file is as `seal` made it.

    Args:
        data: the file's content.
        path: of the file, for the message.

    Raises:
        BundleError: if the checksum is missing or differs.
    """
    content, ending = data[: -len(_LAST) - _DIGITS], data[-len(_LAST) - _DIGITS :]
    if not ending.startswith(_LAST):
        raise BundleError(
            f"{path} was not exported by medvision, or it is incomplete: expected a checksum at its end.\n"
            "Export it: medvision export run=RUN format=onnx."
        )
    if ending[len(_LAST) :] != hashlib.sha256(content).hexdigest().encode():
        raise BundleError(f"{path} was changed after it was written (SHA-256 differs). Copy it again, or export again.")


def read_facts(metadata: Mapping[str, str], path: str | Path) -> dict[str, Any]:
    """The facts among the metadata of a model whose seal is intact.

    Args:
        metadata: `metadata_props` as a mapping.
        path: of the file, for the message.

    Raises:
        BundleError: if there are none, or they were written for a newer medvision.
    """
    try:
        facts = dict(json.loads(metadata[FACTS]))
        version = facts["schema_version"]
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{path} lacks the facts of an exported model: {error!r}. Export again.") from error
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise BundleError(
            f"{path} has schema_version {version}, written by medvision {facts.get('medvision')}; "
            f"medvision {__version__} reads up to {SCHEMA_VERSION}. Update medvision."
        )
    return facts


def _entry(key: str, value: str) -> bytes:
    """One entry of `metadata_props`, serialized as the part of a model."""
    import onnx

    entry = onnx.StringStringEntryProto(key=key, value=value)
    return bytes(onnx.ModelProto(metadata_props=[entry]).SerializeToString())
