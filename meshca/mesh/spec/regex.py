"""Regular expressions as Envoy takes them: RE2's syntax, within its program size.

Envoy refuses what RE2 cannot compile, and what takes more instructions than `re2.max_program_size.error_level` (1,000
in our bootstrap, as in App Mesh's), with a NACK that names no object. So specs are checked before; nothing is compiled.

Rules kept here (RE2 syntax; **measured** on Envoy 1.40: it compiles for bytes, and has 4 instructions of its own):
- E1 No lookaround, back reference, atomic or conditional group: RE2 has none. Octal escapes and quoting with Q
  and E, which it has, are not read here.
- E2 A repetition counts to 1,000 at most, nested ones multiplied.
- E3 The size is estimated as RE2 counts it, or above: a literal byte or range 1, a capture 2, a repetition as often as
  it repeats.
"""

from __future__ import annotations

import re

MOST_REPETITIONS = 1000
LARGEST_PROGRAM = 1000
_OWN_SIZE = 4
_DEEPEST = 40
_REPETITION = re.compile(r"\{(?P<least>[0-9]{1,6})(?P<comma>,(?P<most>[0-9]{1,6})?)?\}")
_GROUP = re.compile(r"\?(?:P?<(?P<name>[A-Za-z_][A-Za-z0-9_]*)>|(?P<flags>[imsU]*(?:-[imsU]+)?)(?P<end>[:)]))")
_CODE = re.compile(r"x(?:[0-9A-Fa-f]{2}|\{0{0,4}[0-9A-Fa-f]{1,2}\})")
_PROPERTY = re.compile(r"[pP](?:[A-Z]|\{\^?[A-Za-z_]+\})")
_NAMED_CLASS = re.compile(
    r"\[:\^?(?:alnum|alpha|ascii|blank|cntrl|digit|graph|lower|print|punct|space|upper|word|xdigit):\]"
)
_ANY_NAMED_CLASS = re.compile(r"\[:\^?[^:\]]*:\]")
_CONTROLS = {"a": "\a", "f": "\f", "t": "\t", "n": "\n", "r": "\r", "v": "\v", "C": "\xff"}
_CLASSES = {"d": 1, "D": 2, "s": 3, "S": 4, "w": 4, "W": 5}
_ESCAPES = "aftnrvC"
_EDGES = "bBAz"
_PROPERTY_SIZE = 32


def check_regex(text: str) -> str:
    """Return the text of a regular expression that Envoy takes.

    Raises:
        ValueError: it does not, and why.
    """
    size = _Parser(text).size() + _OWN_SIZE
    if size > LARGEST_PROGRAM:
        raise ValueError(f"the regular expression is too large for Envoy: about {size} steps of {LARGEST_PROGRAM}")
    return text


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def size(self) -> int:
        size, _ = self._alternatives(0)
        if self._at < len(self._text):
            raise self._error("a closing parenthesis without an opening one")
        return size

    def _alternatives(self, depth: int) -> tuple[int, int]:
        """Return the size of what stands before a closing parenthesis, and how often it repeats inside."""
        if depth > _DEEPEST:
            raise self._error(f"groups nested deeper than {_DEEPEST}")
        size, repeats = self._sequence(depth)
        while self._take("|"):
            more, inner = self._sequence(depth)
            size, repeats = size + more + 1, max(repeats, inner)
        return size, repeats

    def _sequence(self, depth: int) -> tuple[int, int]:
        size, repeats = 0, 1
        while self._at < len(self._text) and self._text[self._at] not in "|)":
            more, inner = self._repeated(depth)
            size, repeats = size + more, max(repeats, inner)
        return size, repeats

    def _repeated(self, depth: int) -> tuple[int, int]:
        size, repeats = self._atom(depth)
        found = self._repetition()
        if found is None:
            return size, repeats
        least, most = found
        repeats *= max(least, most or 1, 1)
        if repeats > MOST_REPETITIONS:
            raise self._error(f"more than {MOST_REPETITIONS} repetitions, nested ones multiplied")
        copies = least * size + (1 if most is None else (most - least) * (size + 1))
        size = max(copies, size + 1) if least <= 1 and most is None else max(copies, 1)
        if self._repetition() is not None:
            raise self._error("a repetition of a repetition")
        return size, repeats

    def _repetition(self) -> tuple[int, int | None] | None:
        """Pass a repetition and return its bounds; the upper one is None where there is none."""
        simple = {"*": (0, None), "+": (1, None), "?": (0, 1)}
        character = self._text[self._at : self._at + 1]
        match = _REPETITION.match(self._text, self._at)
        if character in simple:
            self._at += 1
            self._take("?")
            return simple[character]
        if match is None:
            return None
        least = int(match["least"])
        most = least if match["comma"] is None else (int(match["most"]) if match["most"] else None)
        if max(least, most or 0) > MOST_REPETITIONS or (most is not None and most < least):
            raise self._error(f"a repetition of {match[0]}")
        self._at = match.end()
        self._take("?")
        return least, most

    def _atom(self, depth: int) -> tuple[int, int]:
        character = self._text[self._at]
        if character == "(":
            return self._group(depth)
        if character == "[":
            return self._class(), 1
        if character == "\\":
            return self._escape(), 1
        if character in "*+?" or _REPETITION.match(self._text, self._at):
            raise self._error("a repetition of nothing")
        self._at += 1
        return {".": 2, "^": 1, "$": 1}.get(character, len(character.encode(errors="replace"))), 1

    def _group(self, depth: int) -> tuple[int, int]:
        self._at += 1
        captures = True
        if self._text[self._at : self._at + 1] == "?":
            match = _GROUP.match(self._text, self._at)
            if match is None:
                raise self._error("a group that RE2 does not know (lookaround, atomic or conditional)")
            self._at, captures = match.end(), match["name"] is not None
            if match["end"] == ")":
                return 0, 1
        size, repeats = self._alternatives(depth + 1)
        if not self._take(")"):
            raise self._error("an opening parenthesis without a closing one")
        return size + (2 if captures else 0), repeats

    def _class(self) -> int:
        self._at += 1
        negated, members, size, first = self._take("^"), set[int](), 0, True
        while first or not self._take("]"):
            if self._at >= len(self._text):
                raise self._error("an opening bracket without a closing one")
            more, extra = self._class_item()
            members, size, first = members | more, size + extra, False
        found = set(range(256)) - members if negated else members
        return size + max(1, sum(byte - 1 not in found for byte in found))

    def _class_item(self) -> tuple[set[int], int]:
        """Return the bytes that a part of a class adds, and the size of what is not known byte by byte."""
        named = _NAMED_CLASS.match(self._text, self._at)
        if named is not None:
            self._at = named.end()
            return set(), 4
        if _ANY_NAMED_CLASS.match(self._text, self._at):
            raise self._error("a named class that RE2 does not know")
        low, size = self._class_end()
        if low is None:
            return set(), size
        if self._text[self._at : self._at + 1] != "-" or self._text[self._at + 1 : self._at + 2] in {"]", ""}:
            return {low}, 0
        self._at += 1
        high, _ = self._class_end()
        if high is None or high < low:
            raise self._error("a range in brackets that holds nothing")
        return set(range(low, min(high, 255) + 1)), 0

    def _class_end(self) -> tuple[int | None, int]:
        """Return a character of a class by its number, or None for a class in it, and the size."""
        start = self._at
        if self._text[start] != "\\":
            self._at += 1
            return ord(self._text[start]), 1
        size = self._escape(inside=True)
        escaped = self._text[start + 1 : self._at]
        if escaped[0] == "x":
            return int(escaped[1:].strip("{}"), 16), 1
        return (None if escaped in _CLASSES or escaped[0] in "pP" else ord(_CONTROLS.get(escaped, escaped))), size

    def _escape(self, *, inside: bool = False) -> int:
        """Pass a backslash and what belongs to it."""
        self._at += 1
        character = self._text[self._at : self._at + 1]
        for pattern, size in ((_CODE, 1), (_PROPERTY, _PROPERTY_SIZE)):
            match = pattern.match(self._text, self._at)
            if match is not None:
                self._at = match.end()
                return size
        if not character or (character.isalnum() and not self._is_known(character, inside=inside)):
            raise self._error(f"the escape \\{character}, which RE2 does not know")
        self._at += 1
        return _CLASSES.get(character, 1)

    def _is_known(self, character: str, *, inside: bool) -> bool:
        known = character in _CLASSES or character in _ESCAPES
        return known or (character in _EDGES and not inside)

    def _take(self, character: str) -> bool:
        if self._text[self._at : self._at + 1] != character:
            return False
        self._at += 1
        return True

    def _error(self, what: str) -> ValueError:
        return ValueError(f"Envoy takes RE2's regular expressions; at character {self._at + 1} is {what}")
