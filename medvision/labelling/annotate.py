"""Labels any number of files in constant memory, and resumes where it was interrupted. Knows no torch."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from medvision.data.decode import Unusable, decode_chunks
from medvision.errors import RunError
from medvision.files import sync, write_text
from medvision.inference.predicts import Model
from medvision.inference.triage import Annotation, label, unreadable
from medvision.labelling.inputs import Inputs
from medvision.randomness import generator

JOB = "job.json"
PARTIAL = "annotations.partial.jsonl"
ANNOTATIONS = "annotations.jsonl"
EMBEDDINGS = "embeddings.f32"
EMBEDDING_DIM = 128  # at most; longer ones are projected at random, which keeps their distances to some 10 %
_PIXELS_PER_BLOCK = 2**22
_BLOCK = 32, 512  # fewest and most images at a time


def annotate(
    model: Model,
    inputs: Inputs,
    out: Path,
    job: Mapping[str, Any],
    *,
    min_confidence: float,
    keep_embeddings: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Label files, in order, into `out`/annotations.jsonl: a line for each, unreadable ones included.

    Files are decoded on all cores while the model works. Each block of images is on disk before the next one is
    labelled; a stopped program loses at most a block, and the same call continues from there, with the same bytes as a
    result as if it had never been stopped.

    Args:
        model: a predictor.
        inputs: the N files.
        out: a folder, which exists.
        job: everything that determines the result, as JSON; a folder with the result of another job is refused.
        min_confidence: see `label`.
        keep_embeddings: also write `embeddings.f32`, N rows of at most `EMBEDDING_DIM` little-endian float32.
        progress: called with the number of files done and N.

    Raises:
        RunError: if `out` belongs to another job or cannot be written.
    """
    _claim(out, dict(job))
    total = len(inputs.paths)
    if (out / ANNOTATIONS).exists():
        return
    with _writing(out), (out / PARTIAL).open("ab") as lines, (out / EMBEDDINGS).open("ab") as vectors:
        block = _block_size(model.decode)
        start, offset = _resume_point(out / PARTIAL, block, total)
        lines.truncate(offset)
        if progress is not None:
            progress(start, total)
        for images, bad in _blocks(inputs.paths[start:], model.decode, block):
            found, embeddings = label(model, images, min_confidence)
            for row, reason in (bad | _unnameable(inputs.paths[start : start + len(images)])).items():
                found[row] = unreadable(reason)
            if keep_embeddings and embeddings is not None:
                _append_rows(vectors, _projected(embeddings), start)
            stop = start + len(images)
            truths = inputs.truths[start:stop] if inputs.truths else None
            texts = _texts(inputs.paths[start:stop], found, truths, model.class_names)
            lines.write("".join(f"{text}\n" for text in texts).encode())
            _flush(lines)
            start = stop
            if progress is not None:
                progress(start, total)
        _flush(lines)
    with _writing(out):
        if not keep_embeddings:
            (out / EMBEDDINGS).unlink()
        (out / PARTIAL).replace(out / ANNOTATIONS)
        sync(out)


def read_annotations(out: Path) -> Iterator[dict[str, Any]]:
    """The lines of a finished annotations.jsonl, one at a time."""
    with (out / ANNOTATIONS).open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def read_embeddings(out: Path, total: int) -> NDArray[np.float32] | None:
    """The N embeddings kept beside the annotations, memory-mapped; None where the model has none."""
    path = out / EMBEDDINGS
    if not path.is_file() or path.stat().st_size == 0:
        return None
    return np.memmap(path, np.dtype("<f4"), "r").reshape(total, -1)


def _claim(out: Path, job: dict[str, Any]) -> None:
    """Make sure that what is in `out` belongs to this job."""
    path = out / JOB
    if not path.exists():
        if (out / PARTIAL).exists() or (out / ANNOTATIONS).exists():
            raise RunError(
                f"{out} holds annotations without {JOB}, which says whose they are.\nChoose another out=DIR."
            )
        with _writing(out):
            write_text(path, json.dumps(job, indent=2, ensure_ascii=False) + "\n")
        return
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        differing = sorted(key for key in {*known, *job} if known.get(key) != job.get(key))
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{path} cannot be read: {error}.\nChoose another out=DIR.") from error
    if differing:
        raise RunError(
            f"{out} holds the annotations of another job: {', '.join(differing)} differ(s).\n"
            "Choose another out=DIR, or delete that folder to begin again."
        )


def _block_size(decode: Mapping[str, Any]) -> int:
    """Images that are decoded, labelled and written together; it depends on the model alone, for resuming."""
    height, width = decode["size"]
    return int(min(_BLOCK[1], max(_BLOCK[0], _PIXELS_PER_BLOCK // (height * width) // 32 * 32)))


def _resume_point(path: Path, block: int, total: int) -> tuple[int, int]:
    """How many images are done in whole blocks, and where their lines end; a torn line does not count."""
    count = offset = 0
    point = 0, 0
    with path.open("rb") as file:
        for line in file:
            count, offset = count + 1, offset + len(line)
            if line.endswith(b"\n") and (count % block == 0 or count == total):
                point = count, offset
    return point


def _blocks(
    paths: tuple[str, ...], decode: Mapping[str, Any], size: int
) -> Iterator[tuple[NDArray[np.uint8], dict[int, str]]]:
    """Images in blocks of `size`, and the reason of each bad one by its place in the block."""
    waiting: list[NDArray[np.uint8]] = []
    bad: list[Unusable] = []
    begun = 0  # images handed out
    for chunk, unusable in decode_chunks(paths, **decode):
        waiting.append(chunk)
        bad += unusable
        while sum(map(len, waiting)) >= size:
            images = np.concatenate(waiting)
            yield images[:size], _within(bad, begun, size)
            waiting, begun = [images[size:]], begun + size
            bad = [one for one in bad if one[0] >= begun]
    if sum(map(len, waiting)):
        yield np.concatenate(waiting), _within(bad, begun, size)


def _unnameable(paths: Iterable[str]) -> dict[int, str]:
    """Files whose names are no valid text: no table could hold a path that leads back to them."""
    return {row: "its name is not valid UTF-8; rename it" for row, path in enumerate(paths) if not _is_text(path)}


def _is_text(path: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in path)


def _within(bad: Iterable[Unusable], begun: int, size: int) -> dict[int, str]:
    return {index - begun: reason for index, reason, _ in bad if index < begun + size}


def _texts(
    paths: tuple[str, ...], found: list[Annotation], truths: tuple[str, ...] | None, class_names: tuple[str, ...]
) -> Iterator[str]:
    for index, (path, one) in enumerate(zip(paths, found, strict=True)):
        record: dict[str, Any] = {
            "image": os.fsencode(path).decode(errors="backslashreplace"),
            "label": one.label,
            "confidence": None if one.confidence is None else round(one.confidence, 6),
            "status": one.status,
            "reason": one.reason,
            "set": None if one.classes is None else list(one.classes),
            "probs": None if one.probs is None else dict(zip(class_names, _rounded(one.probs), strict=True)),
        }
        if truths is not None:
            record["truth"] = truths[index] or None
        yield json.dumps(record, ensure_ascii=False)


def _rounded(probs: Iterable[float]) -> list[float]:
    return [round(prob, 6) for prob in probs]


def _projected(embeddings: NDArray[np.floating]) -> NDArray[np.float32]:
    dim = embeddings.shape[1]
    if dim <= EMBEDDING_DIM:
        return embeddings.astype("<f4")
    directions = generator("embedding projection", dim).standard_normal((dim, EMBEDDING_DIM))
    return np.asarray(embeddings @ (directions / np.sqrt(EMBEDDING_DIM)), "<f4")


def _append_rows(file: IO[bytes], rows: NDArray[np.float32], start: int) -> None:
    """Append after row `start`; what an interrupted run wrote beyond it goes."""
    file.truncate(start * rows.shape[1] * rows.itemsize)
    file.write(rows.tobytes())
    _flush(file)


def _flush(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{out} cannot be written: {error.strerror or error}.\n"
            "What is done so far is kept: repair this, and the same command continues from there."
        ) from error
