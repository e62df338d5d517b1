"""What an ONNX file says of itself, and the checksum that shows whether it is still the file that was exported.

A protocol buffer may be followed by more of its fields. So the facts, and after them the SHA-256 of everything before,
are appended to the finished model as two entries of its `metadata_props`: every reader of ONNX sees them, and to check
the hash takes no parser.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medvision import __version__
from medvision.errors import BundleError

# As in bundle.py: raise it when a reader of the version before would misread.
SCHEMA_VERSION = 1
FACTS = "medvision"  # the entry of metadata_props that holds the facts, as JSON
_HASH = "medvision_sha256"
_METADATA_PROPS = 14  # field numbers of onnx.proto: in ModelProto, ...
_KEY, _VALUE = 1, 2  # ... and in StringStringEntryProto


def seal(graph: bytes, facts: Mapping[str, Any]) -> bytes:
    """A serialized ONNX model with facts and checksum.

    Args:
        graph: the model, as onnx serializes it.
        facts: plain JSON values.

    Raises:
        ValueError: if a value is NaN or infinite, which JSON has no words for.
    """
    text = json.dumps({"schema_version": SCHEMA_VERSION, **facts}, ensure_ascii=False, allow_nan=False)
    content = graph + _entry(FACTS, text)
    return content + _entry(_HASH, hashlib.sha256(content).hexdigest())


def check_seal(data: bytes, path: str | Path) -> None:
    """Make sure that a file is what `seal` made.

    Args:
        data: the file's content.
        path: where it is from, for the message.

    Raises:
        BundleError: if the checksum is missing or differs.
    """
    content, ending = data[: -len(_entry(_HASH, "0" * 64))], data[-len(_entry(_HASH, "0" * 64)) :]
    if not ending.startswith(_entry(_HASH, "0" * 64)[:-64]):
        raise BundleError(
            f"{path} is no model that medvision exported, or it was cut short: expected a checksum at its end.\n"
            "Make one by python -m medvision.export run=DIR format=onnx."
        )
    if ending != _entry(_HASH, hashlib.sha256(content).hexdigest()):
        raise BundleError(f"{path} was changed after it was written (SHA-256 differs). Copy it again, or export again.")


def read_facts(metadata: Mapping[str, str], path: str | Path) -> dict[str, Any]:
    """The facts among the metadata of a model whose seal is intact.

    Args:
        metadata: `metadata_props` as a mapping.
        path: where it is from, for the message.

    Raises:
        BundleError: if there are none, or they were written for a newer medvision.
    """
    try:
        facts = dict(json.loads(metadata[FACTS]))
        version = facts["schema_version"]
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{path} lacks what medvision needs to know of a model: {error!r}. Export again.") from error
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise BundleError(
            f"{path} has schema_version {version}, written by medvision {facts.get('medvision')}; "
            f"medvision {__version__} reads up to {SCHEMA_VERSION}. Update medvision."
        )
    return facts


def _entry(key: str, value: str) -> bytes:
    """One StringStringEntryProto as a field of ModelProto."""
    return _field(_METADATA_PROPS, _field(_KEY, key.encode()) + _field(_VALUE, value.encode()))


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    groups = []
    while True:
        value, low = value >> 7, value & 0x7F
        groups.append(low | 0x80 if value else low)
        if not value:
            return bytes(groups)
