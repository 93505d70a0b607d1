"""Variables in specs: `$V` and `${V}`, filled from `--var V=…`.

Rules kept here:
- A variable is filled after the text has been read, in one scalar: no value can add keys or quotes to a document.
- A variable without a value is an error: a name like `$GATEWAY_SAN` would otherwise be taken for a host name.
- A dollar that starts no variable stays as it is (`^/path$`).
- Standing alone outside quotes, a value that reads as a number of up to nine digits, true or false is one: ports and
  weights; AWS account numbers have twelve digits and stay text.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from meshca.mesh.tree import Subject

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meshca.mesh.tree import Report, Scalar

VARIABLE = re.compile(r"\$(?:\{(?P<braced>[A-Za-z_][A-Za-z0-9_]*)\}|(?P<plain>[A-Za-z_][A-Za-z0-9_]*))")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")
_WORDS: dict[str, bool] = {"true": True, "false": False}


class Variables:
    """The values that a text is filled with; without values (None) a dollar is a dollar."""

    def __init__(self, values: Mapping[str, str] | None, report: Report) -> None:
        self._values = values
        self._report = report

    def fill(self, text: str, offset: int) -> str:
        """Return a text with its variables filled; one without a value is reported and stays."""
        if self._values is None or "$" not in text:
            return text
        return VARIABLE.sub(lambda match: self._value(match, offset), text)

    def fill_bare(self, text: str, offset: int) -> Scalar:
        """Return what a variable outside quotes stands for."""
        filled = self.fill(text, offset)
        if _NUMBER.fullmatch(filled):
            return int(filled)
        return _WORDS.get(filled, filled)

    def _value(self, match: re.Match[str], offset: int) -> str:
        name = match["braced"] or match["plain"]
        assert self._values is not None  # noqa: S101 - `fill` has looked
        value = self._values.get(name)
        if value is None:
            self._report.error(offset, f"the variable ${name} has no value", Subject(remedy=f"give --var {name}=VALUE"))
            return match[0]
        return value
