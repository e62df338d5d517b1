"""Checkpoint files that survive a crash while they are written and that notice when they are damaged."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins import CheckpointIO

from medvision.errors import CheckpointError
from medvision.files import link, replacing, write_text


class AtomicCheckpointIO(CheckpointIO):
    """Writes beside the target, flushes, renames, and keeps the SHA-256 in `<name>.sha256`.

    Lightning's own writer goes through the system's temporary directory and does not flush.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write `checkpoint` to `path`; a crash leaves the previous file intact.

        Raises:
            CheckpointError: if it cannot be written, on a full disk for instance.
        """
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                torch.save(checkpoint, temporary)
                digest = _announce(path, temporary)
            write_text(_sidecar(path), digest + "\n")
        except (OSError, RuntimeError) as error:  # torch's writer raises the latter on a full disk
            raise CheckpointError(
                f"{path} cannot be written ({str(error).splitlines()[0]}).\n"
                "The checkpoint before it is kept: make room, then continue with resume=DIR."
            ) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint after checking its digest; only tensors and plain values are ever unpickled.

        Raises:
            CheckpointError: if the file is missing, damaged, or holds anything else.
        """
        path = Path(path)
        if not path.is_file():
            raise CheckpointError(f"No checkpoint at {path}.")
        known = _digests(path)
        if known and _digest(path) not in known:
            raise CheckpointError(
                f"{path} is damaged: its SHA-256 is not the one recorded when it was written.\n"
                "Restore it from a backup, or start a new run."
            )
        try:
            checkpoint: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
        except Exception as error:
            raise CheckpointError(
                f"{path} cannot be read as a checkpoint ({type(error).__name__}).\n"
                "Restore it from a backup, or start a new run."
            ) from error
        return checkpoint

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete a checkpoint and its digest."""
        path = Path(path)
        path.unlink(missing_ok=True)
        _sidecar(path).unlink(missing_ok=True)


def duplicate(source: Path, target: Path) -> None:
    """Make `target` the same checkpoint as `source`, atomically and without writing the weights again."""
    with replacing(target) as temporary:
        link(source, temporary)
        digest = _announce(target, temporary)
    write_text(_sidecar(target), digest + "\n")


def _announce(path: Path, written: Path) -> str:
    # Two files cannot change in one instant: until the rename, the digest of the file in place stays valid beside the
    # digest of the one to come.
    digest = _digest(written)
    write_text(_sidecar(path), "\n".join([digest, *_digests(path)]) + "\n")
    return digest


def _digests(path: Path) -> list[str]:
    sidecar = _sidecar(path)
    return sidecar.read_text(encoding="utf-8").split() if sidecar.is_file() else []


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")
