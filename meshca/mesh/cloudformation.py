"""CloudFormation templates: resources of type `AWS::AppMesh::…`.

Rules kept here (appmesh.md §4.1):
- A1 The tree is the API's with the first letter upper case, and nine keys all upper case. A key in the API's spelling
  is an error: CloudFormation would have refused it.
- A2 A resource that gives no name of its own has its logical ID for one, which is noted: CloudFormation made one up.
- A3 Resources of other types are ignored with a note, and not worked out; a resource whose condition does not hold is
  left out with a note.
- A4 Numbers and truth values may be written as text.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from meshca.mesh.cfntemplate import PREFIX, Template, pascal
from meshca.mesh.described import Context, Described, agree
from meshca.mesh.evaluation import EvaluationError
from meshca.mesh.model import MESH, PARENT_KINDS
from meshca.mesh.tree import UNKNOWN, Member, Node, Report, Subject, Unknown
from meshca.mesh.validation import known_keys

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_LOOP = "Fn::ForEach"
_NAME_REMEDY = "give the property, or --mesh M"


def describe_template(
    document: Node, values: Mapping[str, str], context: Context, report: Report
) -> Iterator[Described]:
    """Yield the App Mesh objects of a template; what is wrong with it is reported."""
    resources = document.child("Resources")
    if resources is None or not isinstance(resources.value, dict):
        report.error(document.offset, "a template has Resources, which is a mapping")
        return
    template = Template(document, values, report)
    others = 0
    for logical_id, member in resources.members().items():
        kind_text = member.node.text("Type") or ""
        if not kind_text.startswith(PREFIX):
            others += 1
            _refuse_hidden(logical_id, member, report)
            continue
        found = _Resource(template, logical_id, member, report).described(context)
        if found is not None and agree(found, context, report):
            yield found
    if others:
        several = f"{others} resources are" if others > 1 else "one resource is"
        report.add("note", resources.offset, f"{several} ignored: the type is not {PREFIX}…")


def _refuse_hidden(logical_id: str, member: Member, report: Report) -> None:
    """Report a loop, or a resource without a type, that may hold resources of App Mesh."""
    if _LOOP in logical_id and _mentions(member.node):
        rule = f"the function {_LOOP} is not read here"
        report.error(member.offset, rule, Subject(value=logical_id, remedy="write the resources out"))


def _mentions(node: Node) -> bool:
    if isinstance(node.value, str):
        return node.value.startswith(PREFIX)
    inner = node.items() or [member.node for member in node.members().values()]
    return any(_mentions(item) for item in inner)


class _Resource:
    """One resource of App Mesh."""

    def __init__(self, template: Template, logical_id: str, member: Member, report: Report) -> None:
        self._template = template
        self._id = logical_id
        self._member = member
        self._report = report

    def described(self, context: Context) -> Described | None:
        """Return the object, or None where there is none or something was reported."""
        resource = self._member.node
        self._template.evaluator.subject = self._id
        kind = self._template.kind(resource)
        if kind is None:
            about = Subject(value=str(resource.text("Type")))
            self._report.error(resource.place_of("Type"), "App Mesh has no resource of this type", about)
            return None
        if not self._exists(resource):
            return None
        name = self._named(f"{pascal(kind)}Name", self._id)
        mesh = name if kind == MESH else self._named("MeshName", context.mesh)
        parent: str | None = ""
        if kind in PARENT_KINDS:
            given = context.named.parent if context.named else None
            parent = self._named(f"{pascal(PARENT_KINDS[kind])}Name", given)
        properties = self._properties(kind)
        if name is None or mesh is None or parent is None:
            return None
        spec = properties.child("spec")
        if spec is None and kind != MESH:
            about = Subject(self._id, "Spec")
            self._report.error(resource.place_of("Properties"), "this key is required", about)
            return None
        spec = spec or Node(self._member.offset, {})
        offset = self._place_of(f"{pascal(kind)}Name")
        owner, tags = properties.child("meshOwner"), properties.child("tags")
        return Described(kind, mesh, name, parent, spec, offset, owner, tags, loose=True)

    def _exists(self, resource: Node) -> bool:
        try:
            if self._template.exists(resource):
                return True
        except EvaluationError as error:
            self._report.error(error.offset, error.rule, Subject(self._id, "Condition", error.value, error.remedy))
            return False
        self._report.add("note", self._member.offset, f"{self._id} is left out: its condition does not hold")
        return False

    def _named(self, key: str, fallback: str | None) -> str | None:
        """Return a name, or None where there is none or it was reported."""
        try:
            found = self._template.name(self._id, key)
        except EvaluationError as error:
            self._template.evaluator.report(error, key)
            return None
        if found is None:
            if fallback is None:
                about = Subject(self._id, key, remedy=_NAME_REMEDY)
                self._report.error(self._place_of("Properties"), f"{key} is missing", about)
            elif fallback == self._id:
                rule = f"{key} is not given: the logical ID {self._id} is taken, where CloudFormation made a name up"
                self._report.add("note", self._member.offset, rule)
            return fallback
        if isinstance(found.value, Unknown):
            return None
        if isinstance(found.value, str | int) and not isinstance(found.value, bool):
            return self._agreed(key, str(found.value), fallback, found)
        self._report.error(found.offset, "a name is text", Subject(self._id, key, str(found.plain())))
        return None

    def _agreed(self, key: str, name: str, fallback: str | None, found: Node) -> str | None:
        if key != "MeshName" or fallback in {None, name, self._id}:
            return name
        about = Subject(self._id, key, remedy="make them agree, or leave one out")
        self._report.error(found.offset, f"the file says {name!r}, the command line {fallback!r}", about)
        return None

    def _place_of(self, key: str) -> int:
        properties = self._member.node.child("Properties")
        member = properties.members().get(key) if properties is not None else None
        return self._member.offset if member is None else member.offset

    def _properties(self, kind: str) -> Node:
        """Return the properties that are no names, worked out and in the API's spelling."""
        written = self._member.node.child("Properties") or Node(self._member.offset, {})
        names = {f"{pascal(part)}Name" for part in (MESH, kind, PARENT_KINDS.get(kind, kind))}
        if not isinstance(written.value, dict):
            self._report.error(written.offset, "Properties is a mapping", Subject(self._id))
            return Node(written.offset, {})
        kept = {key: member for key, member in written.value.items() if key not in names}
        found = self._template.evaluator.value(Node(written.offset, kept))
        if found is None or not isinstance(found.value, dict):
            return Node(written.offset, {"spec": Member(written.offset, Node(written.offset, UNKNOWN))})
        for key, member in kept.items():
            if key not in {"Spec", "Tags", "MeshOwner"}:
                rule = f"App Mesh knows no property {key!r} here; it is ignored"
                self._report.add("warning", member.offset, rule, Subject(self._id, key))
        return self._respelt(found)

    def _respelt(self, node: Node) -> Node:
        """A1."""
        if isinstance(node.value, list):
            return Node(node.offset, [self._respelt(item) for item in node.value])
        if not isinstance(node.value, dict):
            return node
        members: dict[str, Member] = {}
        for key, member in node.value.items():
            own, api = _spellings()
            if key in api:
                about = Subject(self._id, key, remedy=f"write {api[key]}")
                self._report.error(member.offset, f"CloudFormation spells this key {api[key]!r}", about)
            else:
                members[own.get(key, key)] = Member(member.offset, self._respelt(member.node))
        return Node(node.offset, members)


@cache
def _spellings() -> tuple[dict[str, str], dict[str, str]]:
    """Return CloudFormation's spellings with the API's, and the other way round."""
    keys = (*known_keys(), "spec", "tags", "meshOwner", "key", "value")
    return {pascal(key): key for key in keys}, {key: pascal(key) for key in keys}
