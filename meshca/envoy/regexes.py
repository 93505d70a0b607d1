"""What a regular expression takes behind a text: derivatives after Brzozowski, in a time that nobody can blow up.

A gateway that rewrites a path must know what a router's regular expression means for the path that came in. The
derivative of an expression by a text is the expression for all that may follow that text (Brzozowski, "Derivatives of
Regular Expressions", JACM 1964); it is printed as a regular expression again. Nothing is guessed or backtracks.

Rules kept here:
- The syntax is RE2's as far as paths need it; what is not understood (flags, word boundaries, named classes) is an
  error, as is an expression that grows too large.
- A match is of the whole path, so that ``^`` at the beginning and ``$`` at the end say nothing new.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from meshca.errors import ConflictError

_LARGEST = 1000  # nodes, and characters of what is printed
_MOST_REPEATED = 1000  # RE2's own limit
_CLASS = re.compile(r"\[\^?\]?(?:\\[^\WpPQECbBAzZ_0-9]|\\[\W_]|[^\]\\\[]|\[(?!:))*\]")
_ESCAPE = re.compile(r"\\(?:[dDsSwWtnrfav]|[^A-Za-z0-9])")
_GROUP = re.compile(r"\((?:\?:|\?P?<[A-Za-z_]\w*>|(?!\?))")
_COUNT = re.compile(r"\{(\d{1,4})(,(\d{0,4}))?\}")
_SIMPLE_COUNTS = {"*": (0, None), "+": (1, None), "?": (0, 1)}
_SPECIAL = frozenset("\\.+*?()[]{}|^$")


class UndecidedError(ConflictError):
    """A regular expression is not understood here, though Envoy may well understand it."""


@dataclass(frozen=True, slots=True)
class Chars:
    """One character of those that an atom takes, in the words of the expression."""

    text: str


@dataclass(frozen=True, slots=True)
class Cat:
    """One after the other; none: the empty text."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Alt:
    """One of these; none: nothing at all."""

    options: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Rep:
    """So many times; ``high`` None: any number."""

    inner: Node
    low: int
    high: int | None


Node: TypeAlias = "Chars | Cat | Alt | Rep"
EMPTY, NOTHING = Cat(()), Alt(())


def after(regex: str, literal: str) -> str | None:
    """Return the expression for all that may follow a text, or None where it takes nothing that begins with it.

    Raises:
        UndecidedError: the expression is not understood.
    """
    rest = _derived(regex, literal)
    return None if rest == NOTHING else _printed(regex, rest)


def takes(regex: str, text: str) -> bool:
    """Tell whether an expression takes a whole text.

    Raises:
        UndecidedError: the expression is not understood.
    """
    return _nullable(_derived(regex, text))


def _derived(regex: str, text: str) -> Node:
    node = _Parser(regex).whole()
    for char in text:
        node = _derive(node, char)
        if _size(node) > _LARGEST:
            raise _undecided(regex)
    return node


def _derive(node: Node, char: str) -> Node:
    match node:
        case Chars(text):
            return EMPTY if re.fullmatch(text, char, re.ASCII) else NOTHING
        case Alt(options):
            return _alt(_derive(option, char) for option in options)
        case Rep(inner, low, high):
            return _cat((_derive(inner, char), _rep(inner, max(0, low - 1), None if high is None else high - 1)))
        case Cat(parts):
            return _alt(_of_sequence(parts, char))


def _of_sequence(parts: tuple[Node, ...], char: str) -> Iterator[Node]:
    for at, part in enumerate(parts):
        yield _cat((_derive(part, char), *parts[at + 1 :]))
        if not _nullable(part):
            return


def _nullable(node: Node) -> bool:
    match node:
        case Chars():
            return False
        case Cat(parts):
            return all(map(_nullable, parts))
        case Alt(options):
            return any(map(_nullable, options))
        case Rep(inner, low, _):
            return low == 0 or _nullable(inner)


def _cat(parts: tuple[Node, ...]) -> Node:
    flat: list[Node] = []
    for part in parts:
        if part == NOTHING:
            return NOTHING
        flat += part.parts if isinstance(part, Cat) else (part,)
    return flat[0] if len(flat) == 1 else Cat(tuple(flat))


def _alt(options: Iterator[Node]) -> Node:
    flat: dict[Node, None] = {}
    for option in options:
        flat.update(dict.fromkeys(option.options if isinstance(option, Alt) else (option,)))
    return next(iter(flat)) if len(flat) == 1 else Alt(tuple(flat))


def _rep(inner: Node, low: int, high: int | None) -> Node:
    if high == 0 or inner == EMPTY:
        return EMPTY
    return inner if (low, high) == (1, 1) else Rep(inner, low, high)


def _size(node: Node) -> int:
    match node:
        case Chars():
            return 1
        case Cat(inner) | Alt(inner):
            return 1 + sum(map(_size, inner))
        case Rep(one, _, _):
            return 1 + _size(one)


def _printed(regex: str, node: Node) -> str:
    text = _text(node)
    if len(text) > _LARGEST:
        raise _undecided(regex)
    return text


def _text(node: Node) -> str:
    match node:
        case Chars(text):
            return text
        case Cat(parts):
            return "".join(map(_text, parts))
        case Alt(options):
            return f"(?:{'|'.join(map(_text, options))})"
        case Rep(inner, low, high):
            body = _text(inner) if isinstance(inner, Chars | Alt) else f"(?:{_text(inner)})"
            return body + _count(low, high)


def _count(low: int, high: int | None) -> str:
    simple = next((sign for sign, bounds in _SIMPLE_COUNTS.items() if bounds == (low, high)), None)
    return simple or f"{{{low},{'' if high is None else high}}}"


@dataclass
class _Parser:
    """Reads one expression from left to right."""

    regex: str
    at: int = 0

    def whole(self) -> Node:
        self._skip("^")
        node = self._alternatives()
        if self.at != len(self.regex):
            raise _undecided(self.regex)
        return node

    def _alternatives(self) -> Node:
        options = [self._sequence()]
        while self._skip("|"):
            options.append(self._sequence())
        if len(options) > 1 and ("^" in self.regex[:1] or self.regex.endswith("$")):
            raise _undecided(self.regex)  # "^a|b$" anchors one of the two alone
        return _alt(iter(options))

    def _sequence(self) -> Node:
        parts: list[Node] = []
        while self.at < len(self.regex) and self.regex[self.at] not in "|)":
            if self.regex[self.at :] == "$":
                self.at += 1
            else:
                parts.append(self._repeated(self._atom()))
        return _cat(tuple(parts))

    def _atom(self) -> Node:
        for pattern in (_ESCAPE, _CLASS):
            if text := self._matched(pattern):
                return Chars(text)
        if self._matched(_GROUP):
            node = self._alternatives()
            if not self._skip(")"):
                raise _undecided(self.regex)
            return node
        char = self.regex[self.at]
        if char in _SPECIAL and char != ".":
            raise _undecided(self.regex)
        self.at += 1
        return Chars(char)

    def _repeated(self, node: Node) -> Node:
        sign = self.regex[self.at : self.at + 1]
        if sign in _SIMPLE_COUNTS:
            self.at += 1
            low, high = _SIMPLE_COUNTS[sign]
        elif found := _COUNT.match(self.regex, self.at):
            self.at = found.end()
            low = int(found[1])
            high = low if found[2] is None else int(found[3]) if found[3] else None
        else:
            return node
        self._skip("?")  # lazy or not, it takes the same
        if self.regex[self.at : self.at + 1] in _SIMPLE_COUNTS or max(low, high or 0) > _MOST_REPEATED:
            raise _undecided(self.regex)
        return _rep(node, low, high)

    def _matched(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self.regex, self.at)
        self.at = found.end() if found else self.at
        return found[0] if found else ""

    def _skip(self, text: str) -> bool:
        there = self.regex.startswith(text, self.at)
        self.at += len(text) if there else 0
        return there


def _undecided(regex: str) -> UndecidedError:
    return UndecidedError(
        "behind a gateway that rewrites the path it is not understood what a route's regular expression takes",
        field="match.path.regex",
        value=regex,
        remedy="let the gateway route keep the path (defaultPrefix DISABLED), or write the expression more simply",
    )
