"""From described objects to checked ones, gathered over all texts of a run.

Rules kept here:
- G1 The same object twice within one `-f` argument is an error; a later argument replaces what an earlier one said.
- G2 Names, owner and tags keep App Mesh's bounds.
- G3 What is found later about an object is placed where its part was written.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from meshca.mesh.findings import Finding
from meshca.mesh.model import CLASSES, IDENTITY_KINDS, MESH, PARENT_KINDS, ObjectKey, ObjectNameError, Tag, require_name
from meshca.mesh.tree import Node, Report, Subject, offset_of, path_of
from meshca.mesh.validation import checked_spec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from meshca.mesh.arnmap import ArnMap
    from meshca.mesh.described import Described
    from meshca.mesh.model import MeshObject

_OWNER = re.compile(r"[0-9]{12}")
_MOST_TAGS = 50
_LONGEST_TAG_KEY = 128
_LONGEST_TAG_VALUE = 256


@dataclass(frozen=True, slots=True)
class _Origin:
    report: Report
    spec: Node
    offset: int


@dataclass(frozen=True, slots=True)
class Parsed:
    """The objects of all texts in the order given, and warnings and notes."""

    objects: tuple[MeshObject, ...]
    findings: tuple[Finding, ...] = ()
    _origins: Mapping[str, _Origin] = field(default_factory=dict, repr=False)

    def placed(self, findings: Iterable[Finding]) -> tuple[Finding, ...]:
        """Return findings of later checks with file, line and column of the objects that came from here."""
        return tuple(self._placed(finding) for finding in findings)

    def _placed(self, finding: Finding) -> Finding:
        origin = self._origins.get(finding.object)
        if origin is None or finding.file:
            return finding
        path = path_of(finding.field) if finding.field.startswith("spec") else ()
        line, column = origin.report.place(offset_of(origin.spec, path) if path else origin.offset)
        about = (finding.object, finding.field, finding.value, finding.remedy)
        return Finding(finding.severity, finding.rule, *about, origin.report.file, line, column)


class Gathered:
    """The objects found so far."""

    def __init__(self, arns: ArnMap) -> None:
        self._arns = arns
        self._objects: dict[ObjectKey, MeshObject] = {}
        self._origins: dict[str, _Origin] = {}
        self._arguments: dict[ObjectKey, str] = {}

    @property
    def objects(self) -> tuple[MeshObject, ...]:
        """Return all objects without a fault."""
        return tuple(self._objects.values())

    def parsed(self, findings: Iterable[Finding]) -> Parsed:
        """Return the result of a run."""
        return Parsed(self.objects, tuple(findings), self._origins)

    def add(self, item: Described, argument: str, report: Report) -> None:
        """Check an object and keep it; what is wrong with it is reported."""
        key = ObjectKey(item.mesh, item.kind, item.parent, item.name)
        if not _named_well(item, report) or self._is_there(key, item, argument, report):
            return
        # G1 holds for objects with a fault as well, so that the fault is not hidden by a duplicate.
        self._arguments[key] = argument
        self._origins[str(key)] = _Origin(report, item.spec, item.name_offset)
        if item.kind in IDENTITY_KINDS:
            self._arns.replace(item.spec, report, str(key))
        spec = checked_spec(item, report, str(key))
        owner, tags = _owner(item, report, str(key)), tuple(_tags(item, report, str(key)))
        if spec is not None:
            make: Any = CLASSES[item.kind]
            self._objects.pop(key, None)
            self._objects[key] = make(item.mesh, item.name, spec, item.parent, owner, tags)

    def _is_there(self, key: ObjectKey, item: Described, argument: str, report: Report) -> bool:
        """G1."""
        if self._arguments.get(key) != argument:
            return False
        earlier = self._origins[str(key)]
        place = f"{earlier.report.file}:{earlier.report.place(earlier.offset)[0]}"
        about = Subject(str(key), remedy="remove one of the two")
        report.error(item.name_offset, f"an object is described once, this one already at {place}", about)
        return True


def _named_well(item: Described, report: Report) -> bool:
    named = [(item.kind, item.name), (MESH, item.mesh)]
    if item.parent:
        named.append((PARENT_KINDS[item.kind], item.parent))
    good = True
    for kind, name in dict.fromkeys(named):
        try:
            require_name(kind, name)
        except ObjectNameError as error:
            report.error(item.name_offset, error.message, Subject(field=f"{kind}Name", value=name))
            good = False
    return good


def _owner(item: Described, report: Report, subject: str) -> str:
    node = item.owner
    if node is None or node.value is None:
        return ""
    written = str(node.value) if item.loose and type(node.value) is int else node.value
    if isinstance(written, str) and _OWNER.fullmatch(written):
        return written
    about = Subject(subject, "meshOwner", str(node.plain()))
    report.error(node.offset, "an owner is an account number of 12 digits, in quotes", about)
    return ""


def _tags(item: Described, report: Report, subject: str) -> Iterable[Tag]:
    if item.tags is None or item.tags.value is None:
        return
    entries = item.tags.items()
    if not isinstance(item.tags.value, list) or len(entries) > _MOST_TAGS:
        report.error(item.tags.offset, f"tags are a list of at most {_MOST_TAGS}", Subject(subject, "tags"))
        return
    for entry in entries:
        key, value = _tag_part(entry, "key", item), _tag_part(entry, "value", item)
        if _is_text(key, 1, _LONGEST_TAG_KEY) and _is_text(value, 0, _LONGEST_TAG_VALUE):
            yield Tag(str(key), str(value))
        else:
            rule = f"a tag is a key of 1 to {_LONGEST_TAG_KEY} and a value of at most {_LONGEST_TAG_VALUE} characters"
            report.error(entry.offset, rule, Subject(subject, "tags", str(entry.plain())))


def _tag_part(entry: Node, key: str, item: Described) -> object:
    part = entry.child(key)
    if part is None or part.value is None:
        return "" if key == "value" and part is None else None
    return str(part.value) if item.loose and type(part.value) is int else part.value


def _is_text(value: object, shortest: int, longest: int) -> bool:
    return isinstance(value, str) and shortest <= len(value) <= longest
