"""A page of one table or a few, as one HTML file that needs nothing else."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render(template: str, **values: Any) -> str:
    """Fill a template that extends sheet.html.j2.

    Args:
        template: its file beside this module.
        values: what it names; among them `title`, `kicker` and `written` of the sheet itself.
    """
    return environment().get_template(template).render(**values)


def environment() -> Environment:
    """What fills every template of this package."""
    # Names, paths and messages come from strangers: every value is escaped, in attributes as well.
    return Environment(
        loader=PackageLoader("medvision.reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
