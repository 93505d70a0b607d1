"""Variables in specs: `$V` and `${V}`, filled from `--var V=…`.

Rules kept here:
- A variable is filled after the text has been read, in one scalar: no value can add keys or quotes to a document.
- Only a document whose form takes variables is filled: CloudFormation's `${…}` is not ours, and what is ignored needs
  no values.
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

    from meshca.mesh.tree import Node, Report, Scalar

VARIABLE = re.compile(r"\$(?:\{(?P<braced>[A-Za-z_][A-Za-z0-9_]*)\}|(?P<plain>[A-Za-z_][A-Za-z0-9_]*))")
MOST_TAGS_REPORTED = 50
MOST_VARIABLES = 50_000
_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")
_WORDS: dict[str, bool] = {"true": True, "false": False}


class Variables:
    """The values that a text is filled with; without values (None) a dollar is a dollar."""

    def __init__(self, values: Mapping[str, str] | None, report: Report) -> None:
        self._values = values
        self._report = report
        self._filled = 0

    def fill_tree(self, document: Node) -> None:
        """Fill all text of a document, and refuse tags, which are CloudFormation's."""
        if self._values is None and not self._report.has_tags:
            return
        waiting, met, tags = [document], {id(document)}, 0
        while waiting:
            node = waiting.pop()
            if node.tag and tags < MOST_TAGS_REPORTED:
                tags += 1
                self._report.error(node.offset, "tags are not read here", Subject(value=node.tag))
            if isinstance(node.value, str):
                node.value = (self.fill_bare if node.bare else self.fill)(node.value, node.offset)
            inner = node.items() or [member.node for member in node.members().values()]
            # An alias is the same node in several places, and filled once; the last is taken first: so they are turned.
            fresh = [found for found in reversed(inner) if id(found) not in met]
            met.update(map(id, fresh))
            waiting += fresh

    def fill(self, text: str, offset: int) -> str:
        """Return a text with its variables filled; one without a value is reported and stays."""
        if self._values is None or "$" not in text:
            return text
        self._filled += text.count("$")
        if self._filled > MOST_VARIABLES:
            if self._filled - text.count("$") <= MOST_VARIABLES:
                self._report.error(offset, f"more than {MOST_VARIABLES} variables in one text")
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
