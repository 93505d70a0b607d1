"""Text from elsewhere, as every database takes it.

Rule: what a stranger wrote (a node id, a name, a NACK) is storable whatever it holds. PostgreSQL refuses NUL, and a
refused row takes with it all that commits at the same time.
"""

from __future__ import annotations


def storable(text: str) -> str:
    """Return ``text`` with NUL and lone surrogates as escapes."""
    if "\0" not in text and text.isascii():
        return text
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()
