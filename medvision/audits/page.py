"""The page of an audit: one HTML file that needs nothing else."""

import base64
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from medvision.audits.checks import Example
from medvision.audits.data_audit import Audit
from medvision.reports.pages import render as render_page

SHOWN = 24  # examples of each check; audit.json has all of them
_EACH = 6  # pictures of an example
_SIDE = 96  # pixels of the longer side


def render(audit: Audit, title: str, written: str) -> str:
    """The page.

    Args:
        audit: what was found.
        title: of the data.
        written: date and versions, for the foot.
    """
    table = audit.data.findings.table
    return render_page(
        "audit.html.j2",
        title=title,
        written=written,
        images=len(table),
        findings=audit.findings,
        results=audit.results,
        pictures={
            result.check.name: [(example, list(_pictures(audit, example))) for example in result.examples[:SHOWN]]
            for result in audit.findings
        },
        quarantine=audit.data.quarantine.head(20 * SHOWN).to_dict("records"),
        balance=audit.balance,
        sizes=audit.sizes.head(SHOWN).to_dict("records"),
        other_sizes=max(0, len(audit.sizes) - SHOWN),
        guesses=audit.guesses,
    )


def _pictures(audit: Audit, example: Example) -> Iterator[dict[str, Any]]:
    table = audit.data.findings.table
    rows = np.array(example.rows[:_EACH], np.intp)
    for row, image in zip(rows, audit.data.pixels(rows), strict=True):
        yield {
            "uri": _data_uri(image),
            "id": table.ids[row],
            "split": table.splits[row],
            "label": table.class_names[table.labels[row]],
        }


def _data_uri(image: NDArray[np.uint8]) -> str:
    """A thumbnail of a (C, H, W) image, as JPEG."""
    height, width = image.shape[1:]
    ratio = _SIDE / max(height, width)
    size = max(1, round(width * ratio)), max(1, round(height * ratio))
    rule = cv2.INTER_AREA if ratio < 1 else cv2.INTER_NEAREST
    pixels = cv2.resize(np.ascontiguousarray(image[::-1].transpose(1, 2, 0)), size, interpolation=rule)
    written, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 80])
    assert written
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()
