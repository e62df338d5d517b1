"""Passwords out of texts that are shown or kept."""

import re


def without_passwords(text: str) -> str:
    """The text with the passwords of addresses masked.

    >>> without_passwords("storage=postgresql+psycopg://me:secret@host/study")
    'storage=postgresql+psycopg://me:***@host/study'
    """
    text = re.sub(r"(://[^/:@\s]*:)\S*@", r"\1***@", text)
    return re.sub(r"([?&]password=)[^&\s]+", r"\1***", text)
