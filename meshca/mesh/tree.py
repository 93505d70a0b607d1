"""What a document says, with the place of each part.

Rules kept here:
- A document is read once into nodes that know their offset; line and column are worked out when somebody is to be told.
- Limits hold before and while reading, not afterwards: size, values, nesting, what aliases add, errors reported.
- What cannot be read ends its text (``UnreadableError``); everything else is reported, and reading goes on.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

from meshca.mesh.findings import Finding, Severity

if TYPE_CHECKING:
    from collections.abc import Iterable

LONGEST_TEXT = 8 * 1024 * 1024
DEEPEST = 64
MOST_NODES = 300_000
MOST_ERRORS = 100
MOST_WARNINGS = 200
NO_NUL = "text holds no NUL character"
TOO_DEEP = f"nested deeper than {DEEPEST} levels"
FLATTER = "no spec needs half of that: look for a bracket or an indentation that is never closed"


class Unknown:
    """What stands for a value that could not be worked out; why has been reported."""


UNKNOWN = Unknown()
Scalar: TypeAlias = str | int | float | bool | Unknown | None
Path: TypeAlias = "tuple[str | int, ...]"

_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")


@dataclass(slots=True)
class Member:
    """A key's place, and its value."""

    offset: int
    node: Node


@dataclass(slots=True)
class Node:
    """A mapping, list or scalar, and its place."""

    offset: int
    value: dict[str, Member] | list[Node] | Scalar
    tag: str = ""
    """YAML's tag, where it is not one of YAML's own: `!Ref`."""
    bare: bool = False
    """Whether this is text outside quotes with a dollar in it; what a variable gives may then be a number."""

    def child(self, key: str) -> Node | None:
        """Return what a mapping holds under a key, if this is a mapping that has it."""
        if isinstance(self.value, dict) and key in self.value:
            return self.value[key].node
        return None

    def text(self, key: str) -> str | None:
        """Return the text that a mapping holds under a key, if it is text."""
        found = self.child(key)
        return found.value if found is not None and isinstance(found.value, str) else None

    def items(self) -> list[Node]:
        """Return what a list holds; nothing where this is no list."""
        return self.value if isinstance(self.value, list) else []

    def members(self) -> dict[str, Member]:
        """Return what a mapping holds; nothing where this is no mapping."""
        return self.value if isinstance(self.value, dict) else {}

    def place_of(self, key: str) -> int:
        """Return the place of a key, or of the mapping where it is not there."""
        member = self.members().get(key)
        return self.offset if member is None else member.offset

    def plain(self) -> Any:
        """Return the value without places."""
        if isinstance(self.value, dict):
            return {key: member.node.plain() for key, member in self.value.items()}
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        return self.value


class UnreadableError(Exception):
    """The rest of the document cannot be read."""

    def __init__(self, offset: int, rule: str, *, value: str = "", remedy: str = "") -> None:
        super().__init__(rule)
        self.offset = offset
        self.rule = rule
        self.value = value
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Subject:
    """What a finding is about."""

    object: str = ""
    field: str = ""
    value: str = ""
    remedy: str = ""


class TooManyErrorsError(Exception):
    """So much is wrong with a text that the rest is not looked at."""


class Report:
    """The findings about one text: up to 100 errors and 200 warnings."""

    def __init__(self, file: str, text: str) -> None:
        self.file = file
        self.text = text
        self.findings: list[Finding] = []
        self.errors = 0
        self.unknown_keys: set[str] = set()
        self.has_tags = False
        """Whether YAML's tags are in the text, other than its own."""

    def add(self, severity: Severity, offset: int, rule: str, subject: Subject | None = None) -> None:
        """Report something at a place.

        Raises:
            TooManyErrorsError: enough has been reported.
        """
        if severity == "error":
            self.errors += 1
            if self.errors > MOST_ERRORS:
                raise TooManyErrorsError
        elif len(self.findings) - self.errors >= MOST_WARNINGS:
            return
        about = subject or Subject()
        line, column = self.place(offset)
        self.findings.append(
            Finding(severity, rule, about.object, about.field, about.value, about.remedy, self.file, line, column)
        )

    def error(self, offset: int, rule: str, subject: Subject | None = None) -> None:
        """Report an error at a place."""
        self.add("error", offset, rule, subject)

    def place(self, offset: int) -> tuple[int, int]:
        """Return line and column of an offset, both counted from 1."""
        if not offset:
            return 1, 1  # without a look at a text that is too large to be looked at
        line = bisect_right(self._line_starts, offset)
        return line, offset - self._line_starts[line - 1] + 1

    @cached_property
    def _line_starts(self) -> list[int]:
        return [0, *(match.end() for match in re.finditer("\n", self.text))]


def offset_of(node: Node, path: Iterable[str | int]) -> int:
    """Return the place of what a path leads to, or of the last part of it that is there."""
    offset = node.offset
    for step in path:
        if isinstance(node.value, dict) and isinstance(step, str) and step in node.value:
            member = node.value[step]
            offset, node = member.offset, member.node
        elif isinstance(node.value, list) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            offset = node.offset
        else:
            break
    return offset


def field_of(path: Iterable[str | int], text: str = "spec") -> str:
    """Return a path as people write it: `spec.listeners[0].tls`."""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}"
    return text


def path_of(field: str) -> Path:
    """Return the path within a spec that `spec.listeners[0].tls` means."""
    steps = [int(index) if index else name for name, index in _STEP.findall(field)]
    return tuple(steps[1:]) if steps[:1] == ["spec"] else tuple(steps)
