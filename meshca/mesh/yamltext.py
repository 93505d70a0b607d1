"""YAML, read from its events so that limits hold before anything is built.

Rules kept here:
- YAML 1.2's core schema: `yes`, `on` and `12:30` are text, `0123` is text, `true` is a boolean. `1e3` is text as well:
  dumpers of YAML 1.1, ours among them, write such text without quotes.
- A key occurs once, and is text; what a merge key (`<<`) brings gives way to what is written out.
- An alias is what its anchor was; aliases and merges together add few nodes (no 'alias bomb'), nest no deeper than
  what is written out, and none is inside itself.
- Tags other than YAML's own are kept for the form that knows them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import yaml

from meshca.mesh.tree import (
    DEEPEST,
    FLATTER,
    MOST_NODES,
    NO_NUL,
    TOO_DEEP,
    Member,
    Node,
    Report,
    Scalar,
    Subject,
    UnreadableError,
)

MOST_ALIASED_NODES = 10_000

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_YAML_TAG = "tag:yaml.org,2002:"
_MERGE = "<<"
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"(?:[-+]?[0-9]{1,18}\.[0-9]{0,18}|\.[0-9]{1,18})(?:[eE][-+][0-9]{1,3})?")
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


def read_yaml(report: Report) -> list[Node]:
    """Return the documents of a text, empty ones left out.

    Raises:
        UnreadableError: it is not YAML, or breaks a limit.
    """
    builder = _Builder(report)
    try:
        for event in yaml.parse(report.text, Loader=_Loader):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = error.problem or error.context or "not YAML"
        raise UnreadableError(mark.index if mark else 0, f"not YAML: {problem}") from None
    except (yaml.YAMLError, UnicodeError) as error:
        offset = getattr(error, "position", 0)
        raise UnreadableError(
            offset if isinstance(offset, int) else 0, "not YAML: a character that YAML forbids"
        ) from None
    return builder.documents


@dataclass(slots=True)
class _Open:
    """A mapping or list that is being read."""

    node: Node
    anchor: str | None
    nodes_before: int
    key: tuple[int, str] | None = None
    height: int = 1
    merging: bool = False
    merged: list[Node] = field(default_factory=list)


@dataclass(slots=True)
class _Anchored:
    node: Node
    size: int
    height: int


@dataclass(slots=True)
class _Builder:
    report: Report
    documents: list[Node] = field(default_factory=list)
    _open: list[_Open] = field(default_factory=list)
    _anchors: dict[str, _Anchored] = field(default_factory=dict)
    _nodes: int = 0
    _aliased: int = 0

    def take(self, event: yaml.Event) -> None:
        """Build on with one event."""
        if isinstance(event, yaml.ScalarEvent):
            self._scalar(event)
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            self._begin(event)
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            self._end()
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event)
        elif isinstance(event, yaml.DocumentStartEvent):
            self._anchors.clear()

    def _begin(self, event: yaml.MappingStartEvent | yaml.SequenceStartEvent) -> None:
        offset = _offset(event)
        if len(self._open) >= DEEPEST:
            raise UnreadableError(offset, TOO_DEEP, remedy=FLATTER)
        self._require_no_key_open(offset)
        value: dict[str, Member] | list[Node] = {} if isinstance(event, yaml.MappingStartEvent) else []
        self._open.append(_Open(Node(offset, value, self._foreign(event.tag)), event.anchor, self._nodes))

    def _end(self) -> None:
        closed = self._open.pop()
        self._count(closed.node.offset)
        for source in closed.merged:
            self._merge(closed.node, source)
        if closed.anchor is not None:
            self._anchors[closed.anchor] = _Anchored(closed.node, self._nodes - closed.nodes_before, closed.height)
        self._add(closed.node, closed.height)

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        offset = _offset(event)
        self._count(offset)
        if "\0" in event.value:
            raise UnreadableError(offset, NO_NUL, remedy="remove it")
        if self._wants_key():
            self._key(event, offset)
            return
        # The style of a plain scalar is None to PyYAML's own parser and empty to libyaml's.
        is_plain = not event.style and event.tag is None
        is_bare = is_plain and "$" in event.value
        value = resolve(event.value) if is_plain and not is_bare else event.value
        node = Node(offset, value, self._foreign(event.tag), is_bare)
        if event.anchor is not None:
            self._anchors[event.anchor] = _Anchored(node, 1, 0)
        self._add(node)

    def _alias(self, event: yaml.AliasEvent) -> None:
        offset = _offset(event)
        self._require_no_key_open(offset)
        anchored = self._anchors.get(event.anchor or "")
        if anchored is None:
            raise UnreadableError(offset, "an alias follows its anchor, and is not inside it", value=f"*{event.anchor}")
        self._nodes += anchored.size
        self._count_aliased(anchored.size, offset)
        if len(self._open) + anchored.height > DEEPEST:
            raise UnreadableError(offset, TOO_DEEP, remedy=FLATTER)
        self._add(anchored.node, anchored.height)

    def _wants_key(self) -> bool:
        return bool(self._open) and isinstance(self._open[-1].node.value, dict) and self._open[-1].key is None

    def _require_no_key_open(self, offset: int) -> None:
        if self._wants_key():
            raise UnreadableError(offset, "a key is plain text")

    def _key(self, event: yaml.ScalarEvent, offset: int) -> None:
        if self._foreign(event.tag):
            raise UnreadableError(offset, "a key is plain text", value=event.tag or "")
        parent, key = self._open[-1], event.value
        if key in parent.node.members():
            self.report.error(offset, "a key occurs once", Subject(value=key, remedy="remove one of the two"))
        parent.key = (offset, key)
        parent.merging = key == _MERGE and not event.style

    def _merge(self, into: Node, source: Node) -> None:
        """Add what an alias after `<<` brings; of several, the first that has a key."""
        sources = source.items() if isinstance(source.value, list) else [source]
        for found in sources:
            if not isinstance(found.value, dict):
                raise UnreadableError(source.offset, "a merge key (<<) takes a mapping, or a list of them")
            self._count_aliased(len(found.value), source.offset)
            for key, member in found.value.items():
                into.members().setdefault(key, member)

    def _foreign(self, tag: str | None) -> str:
        """Return a tag that is not one of YAML's own."""
        if tag is None or tag == "!" or tag.startswith(_YAML_TAG):
            return ""
        self.report.has_tags = True
        return tag

    def _count_aliased(self, nodes: int, offset: int) -> None:
        self._aliased += nodes
        if self._aliased > MOST_ALIASED_NODES:
            remedy = "write the parts out"
            raise UnreadableError(offset, f"aliases add more than {MOST_ALIASED_NODES} nodes", remedy=remedy)

    def _add(self, node: Node, height: int = 0) -> None:
        if not self._open:
            if node.value is not None:
                self.documents.append(node)
            return
        parent = self._open[-1]
        parent.height = max(parent.height, height + 1)
        if isinstance(parent.node.value, list):
            parent.node.value.append(node)
        elif isinstance(parent.node.value, dict) and parent.key is not None:
            offset, key = parent.key
            parent.key = None
            if parent.merging:
                parent.merged.append(node)
            else:
                parent.node.value.setdefault(key, Member(offset, node))

    def _count(self, offset: int) -> None:
        self._nodes += 1
        if self._nodes > MOST_NODES:
            raise UnreadableError(
                offset, f"more than {MOST_NODES} values in one text", remedy="split it into several files"
            )


def resolve(text: str) -> Scalar:
    """Return what plain text stands for in YAML 1.2's core schema."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def _offset(event: yaml.Event) -> int:
    return event.start_mark.index if event.start_mark is not None else 0
