"""The review page: thumbnails of what a human should look at, in one HTML file that needs nothing else."""

import base64
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from medvision.data.decode import decode
from medvision.errors import BadImage
from medvision.files import write_text
from medvision.labelling.annotations import Index, read_rows

PER_PAGE = 2000  # images; a thumbnail takes about 3 kB
PREVIEWS = 400  # larger pictures on a page; one takes about 20 kB
MAPS = 100  # class activation maps on a page
_THUMBNAIL, _PREVIEW = 96, 320  # pixels of the longer side
_QUALITY = 80
_UNREADABLE_SHOWN = 200

# PNG or JPEG of each image (n, C, H, W) with what spoke for its class (n,); None where there is no such picture.
DrawMaps = Callable[[NDArray[np.uint8], NDArray[np.intp]], list[bytes | None]]


def write_review(
    out: Path,
    index: Index,
    class_names: Sequence[str],
    settings: Mapping[str, Any],
    *,
    title: str,
    written: str,
    key: str,
    limit: int,
    draw_maps: DrawMaps | None,
    no_map: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write review.html, and review_2.html and so on where there are more than `PER_PAGE` images to show.

    Args:
        out: the folder of a finished job.
        index: of its annotations.
        class_names: K names.
        settings: of the model, as `medvision.data.decode.decode` takes them.
        title: of the images.
        written: date and versions, for the foot.
        key: of the job, under which the browser keeps what was decided.
        limit: images to show at most, those that need a human most.
        draw_maps: see `DrawMaps`; None where the model has no maps.
        no_map: what is said of images without a map.
        progress: called with the number of images done and of all.
    """
    counts = index.counts
    rows = index.by_need()
    unreadable = rows[len(rows) - counts["unreadable"] :]
    rows, left_out = rows[: len(rows) - len(unreadable)][:limit], max(0, len(rows) - len(unreadable) - limit)
    starts = list(range(0, len(rows), PER_PAGE)) or [0]
    names = ["review.html", *(f"review_{number}.html" for number in range(2, len(starts) + 1))]
    shared = {
        "title": title,
        "written": written,
        "summary": ", ".join(
            f"{counts[status]:,} {words}"
            for status, words in (
                ("review", "for review"),
                ("rejected", "out of range"),
                ("auto", "auto"),
                ("unreadable", "unreadable"),
            )
            if counts[status]
        ),
        "unreadable": list(read_rows(out, index, unreadable[:_UNREADABLE_SHOWN])),
        "unreadable_count": len(unreadable),
    }
    for number, (start, name) in enumerate(zip(starts, names, strict=True), 1):
        part = rows[start : start + PER_PAGE]
        images, notes = _entries(list(read_rows(out, index, part)), class_names, settings, draw_maps)
        if left_out:
            notes.append(f"{left_out:,} image(s) that need a human less are on no page, but in annotations.csv.")
        csv_name = "annotations_corrected.csv" if number == 1 else f"annotations_corrected_{number}.csv"
        data = {
            "classes": list(class_names),
            "images": images,
            "key": f"medvision review {key} {number}",
            "csv": csv_name,
            "no_map": no_map or "No heat map was computed for this image.",
        }
        others = [other for other in names if other != name]
        write_text(out / name, _render(data, shared | {"notes": notes, "others": others, "csv_name": csv_name}))
        if progress is not None:
            progress(min(start + PER_PAGE, len(rows)), len(rows))
    return [out / name for name in names]


def _entries(
    records: list[dict[str, Any]],
    class_names: Sequence[str],
    settings: Mapping[str, Any],
    draw_maps: DrawMaps | None,
) -> tuple[list[dict[str, Any]], list[str]]:
    """What the script knows of each image, and what the reader should know of all."""
    places = {name: place for place, name in enumerate(class_names)}
    prefix = _common_folder([record["image"] for record in records])
    images: list[dict[str, Any]] = []
    with ThreadPoolExecutor() as pool:  # threads: OpenCV releases the GIL
        sides = [_PREVIEW] * PREVIEWS + [_THUMBNAIL] * max(0, len(records) - PREVIEWS)
        pictures = list(pool.map(lambda record, side: _pictures(record["image"], settings, side), records, sides))
    for record, (thumbnail, preview) in zip(records, pictures, strict=True):
        path = record["image"]
        image = {
            "i": path,
            "n": path.removeprefix(prefix),
            "u": Path(path).as_uri(),
            "s": record["status"],
            "r": record["reason"],
            "l": places[record["label"]],
            "p": [round(record["probs"][name], 4) for name in class_names],
            "c": None if record["set"] is None else [places[name] for name in record["set"]],
            "t": thumbnail,
        }
        if preview:
            image["b"] = preview
        images.append(image)
    notes = []
    if len(images) > PREVIEWS:
        notes.append(
            f"Larger pictures are in this page for the first {PREVIEWS} images; of the others a small one and "
            "the link to the file."
        )
    if draw_maps is not None and images:
        drawn = _draw(records[:MAPS], places, settings, draw_maps)
        for image, picture in zip(images, drawn, strict=False):
            if picture is not None:
                image["g"] = base64.b64encode(picture).decode()
        if len(images) > MAPS:
            notes.append(f"Heat maps are in this page for the first {MAPS} images.")
    return images, notes


def _draw(
    records: list[dict[str, Any]], places: Mapping[str, int], settings: Mapping[str, Any], draw_maps: DrawMaps
) -> list[bytes | None]:
    height, width = settings["size"]
    images = np.zeros((len(records), settings["channels"], height, width), np.uint8)
    for row, record in enumerate(records):
        try:
            images[row] = decode(record["image"], **settings)
        except BadImage:
            continue  # changed since it was labelled; the thumbnail is black as well
    return draw_maps(images, np.array([places[record["label"]] for record in records], np.intp))


def _pictures(path: str, settings: Mapping[str, Any], side: int) -> tuple[str, str]:
    """A thumbnail of a file and, if `side` is larger, a picture of that side; black where the file has gone since."""
    try:
        # A reader sees the whole image in its colours, at any size and channels of the model.
        pixels = decode(path, **{**settings, "size": (side, side), "channels": 3, "resize": "letterbox"})
    except BadImage:
        pixels = np.zeros((3, _THUMBNAIL, _THUMBNAIL), np.uint8)
    picture = _without_bars(np.ascontiguousarray(pixels[::-1].transpose(1, 2, 0)))
    return _jpeg(_shrunk(picture, _THUMBNAIL)), _jpeg(picture) if side > _THUMBNAIL else ""


def _without_bars(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture without the black bars of letterboxing, which lie on two sides only."""
    lit = np.asarray(pixels.max(axis=2) > 0)
    rows, columns = np.flatnonzero(lit.any(axis=1)), np.flatnonzero(lit.any(axis=0))
    if not len(rows):
        return pixels
    height, width = pixels.shape[:2]
    rows = rows if len(columns) and columns[0] == 0 and columns[-1] == width - 1 else np.arange(height)
    columns = columns if rows[0] == 0 and rows[-1] == height - 1 else np.arange(width)
    return pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _shrunk(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    ratio = side / max(height, width)
    if ratio >= 1:
        return pixels
    size = max(1, round(width * ratio)), max(1, round(height * ratio))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def _jpeg(pixels: NDArray[np.uint8]) -> str:
    if (pixels == pixels[..., :1]).all():
        pixels = pixels[..., 0]
    written, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    assert written
    return base64.b64encode(data.tobytes()).decode()


def _common_folder(paths: Sequence[str]) -> str:
    """The folder that holds all files, with a separator at its end."""
    return str(Path(os.path.commonpath([Path(path).parent for path in paths]), "_"))[:-1] if paths else ""


def _render(data: Mapping[str, Any], words: Mapping[str, Any]) -> str:
    # Names of files and classes come from strangers: every value is escaped, in the data of the script as well.
    environment = Environment(
        loader=PackageLoader("medvision.labelling", "review"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    folder = Path(__file__).parent
    script, style = ((folder / name).read_text(encoding="utf-8") for name in ("review.js", "review.css"))
    return environment.get_template("review.html.j2").render(
        **words,
        script=Markup(script),
        style=Markup(style),
        script_hash=_hash(script),
        style_hash=_hash(style),
        data=Markup(_in_script(data)),
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _in_script(data: Mapping[str, Any]) -> str:
    """JSON that no text in it can end early."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
