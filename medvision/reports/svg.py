"""A drawing as inline SVG: small, sharp, its text is text, and its colours follow the page's theme."""

import io
import re
import warnings
from collections.abc import Callable
from typing import Any

from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medvision.reports import plots

# Colours of the drawings to custom properties that the page's style defines for light, dark and print.
_VARIABLES = {
    plots.INK: "text",
    plots.DIM: "dim",
    plots.RULE: "rule",
    plots.BLUE: "blue",
    plots.VERMILION: "vermilion",
    plots.GREEN: "green",
    plots.PURPLE: "purple",
    plots.ORANGE: "orange",
    plots.SKY: "sky",
}
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that everybody's drawing is laid out alike
    "font.size": 9,
    "text.color": plots.INK,
    "text.parse_math": False,  # a class may be called "$x_1$"
    "svg.fonttype": "none",
    "svg.hashsalt": "medvision",  # equal drawings get equal ids
    "hatch.linewidth": 0.6,
    "path.simplify_threshold": 0.3,  # pixels
}


def to_svg(draw: Callable[[Axes], Axes], name: str, alt: str, size: tuple[float, float] = (4.4, 3.5)) -> Markup:
    """Draw, and give the picture as an element that stands in a page.

    Equal drawings give equal text.

    Args:
        draw: draws on the axes it is given.
        name: prefix of every id in the picture, unique in the page.
        alt: what the picture shows, in words.
        size: width and height in inches of 72 units.
    """
    file = io.StringIO()
    with rc_context(_STYLE), warnings.catch_warnings():
        # A character that this font lacks is drawn by the reader's own.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.add_subplot())
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    text = file.getvalue()
    body = text[text.index("<svg") :]
    body = body[body.index(">") + 1 : body.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", body)
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, f"var(--{variable})")
    body = body.replace("'DejaVu Sans'", "system-ui, sans-serif")
    body = re.sub(r"\n\s*", "\n", body)
    width, height = (72 * side for side in size)
    return Markup('<svg viewBox="0 0 {0:g} {1:g}" width="{0:g}" height="{1:g}" role="img" aria-label="{2}">').format(
        width, height, escape(alt)
    ) + Markup(body + "</svg>")
