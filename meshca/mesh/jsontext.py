"""JSON as App Mesh users keep it: strict, but with bare `$VAR` where jq would fill one in.

Rules kept here (RFC 8259):
- One text may hold several values, one after the other, also with YAML's `---` between them.
- A key occurs once (RFC 8259 §4 leaves it open; two readers would see two specs).
- Text is Unicode without NUL: an escaped half of a surrogate pair is refused.
"""

from __future__ import annotations

import re
from json import JSONDecodeError
from json.decoder import scanstring  # type: ignore[attr-defined]  # undocumented, but CPython's own parser stands on it

from meshca.mesh.tree import (
    DEEPEST,
    FLATTER,
    MOST_NODES,
    NO_NUL,
    TOO_DEEP,
    Member,
    Node,
    Report,
    Subject,
    UnreadableError,
)
from meshca.mesh.variables import VARIABLE

_SPACE = re.compile(r"[ \t\r\n]*")
_BETWEEN = re.compile(r"(?:[ \t\r\n]+|^---[ \t]*\r?$)*", re.MULTILINE)
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?P<fraction>\.[0-9]+)?(?P<exponent>[eE][+-]?[0-9]+)?")
_SURROGATE = re.compile("[\ud800-\udfff]")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WORDS: dict[str, bool | None] = {"true": True, "false": False, "null": None}
_LONGEST_NUMBER = 18


def read_json(report: Report) -> list[Node]:
    """Return the values of a text.

    Raises:
        UnreadableError: it is not JSON.
    """
    return _Reader(report).values()


class _Reader:
    def __init__(self, report: Report) -> None:
        self._text = report.text
        self._report = report
        self._at = 0
        self._nodes = 0

    def values(self) -> list[Node]:
        found = []
        self._skip(_BETWEEN)
        while self._at < len(self._text):
            found.append(self._value(0))
            self._skip(_BETWEEN)
        return found

    def _skip(self, what: re.Pattern[str] = _SPACE) -> None:
        match = what.match(self._text, self._at)
        self._at = match.end() if match else self._at

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _value(self, depth: int) -> Node:
        self._nodes += 1
        if self._nodes > MOST_NODES:
            raise UnreadableError(self._at, f"more than {MOST_NODES} values in one text", remedy="split it into files")
        start, first = self._at, self._peek()
        if depth >= DEEPEST and first in {"{", "["}:
            raise UnreadableError(start, TOO_DEEP, remedy=FLATTER)
        if first == "{":
            return self._mapping(depth)
        if first == "[":
            return self._list(depth)
        if first == '"':
            return Node(start, self._string())
        if first == "$":
            return self._variable()
        if first == "-" or first.isdecimal():
            return self._number()
        return self._word()

    def _mapping(self, depth: int) -> Node:
        members: dict[str, Member] = {}
        node = Node(self._at, members)
        self._at += 1
        self._skip()
        while self._peek() != "}":
            start = self._at
            if self._peek() != '"':
                raise self._expected("a key in double quotes")
            key = self._string()
            self._skip()
            self._take(":")
            self._skip()
            member = Member(start, self._value(depth + 1))
            if key in members:
                self._report.error(start, "a key occurs once", Subject(value=key, remedy="remove one of the two"))
            members.setdefault(key, member)
            self._separator("}")
        self._at += 1
        return node

    def _list(self, depth: int) -> Node:
        items: list[Node] = []
        node = Node(self._at, items)
        self._at += 1
        self._skip()
        while self._peek() != "]":
            items.append(self._value(depth + 1))
            self._separator("]")
        self._at += 1
        return node

    def _separator(self, end: str) -> None:
        """Pass a comma that something follows, or stop before the end."""
        self._skip()
        if self._peek() == end:
            return
        self._take(",")
        self._skip()
        if self._peek() == end:
            raise self._expected("another value after the comma")

    def _string(self) -> str:
        start = self._at
        try:
            value, self._at = scanstring(self._text, start + 1, True)
        except JSONDecodeError as error:
            raise UnreadableError(error.pos, f"not JSON: {error.msg}") from None
        if _SURROGATE.search(value):
            raise UnreadableError(start, "half of a surrogate pair is no character")
        if "\0" in value:
            raise UnreadableError(start, NO_NUL, remedy="remove it")
        return str(value)

    def _variable(self) -> Node:
        match = VARIABLE.match(self._text, self._at)
        if match is None:
            raise self._expected("a variable name after the dollar")
        start, self._at = self._at, match.end()
        return Node(start, match[0], bare=True)

    def _number(self) -> Node:
        start = self._at
        match = _NUMBER.match(self._text, start)
        if match is None:
            raise self._expected("a number")
        if len(match[0]) > _LONGEST_NUMBER:
            raise UnreadableError(start, f"a number has at most {_LONGEST_NUMBER} characters")
        self._at = match.end()
        is_float = match["fraction"] is not None or match["exponent"] is not None
        return Node(start, float(match[0]) if is_float else int(match[0]))

    def _word(self) -> Node:
        match = _WORD.match(self._text, self._at)
        if match is None or match[0] not in _WORDS:
            raise self._expected("a value")
        start, self._at = self._at, match.end()
        return Node(start, _WORDS[match[0]])

    def _take(self, character: str) -> None:
        if self._peek() != character:
            raise self._expected(f"{character!r}")
        self._at += 1

    def _expected(self, what: str) -> UnreadableError:
        found = self._text[self._at : self._at + 20].split("\n")[0]
        return UnreadableError(self._at, f"not JSON: {what} was expected here", value=found or "the end of the text")
