"""App Mesh objects as its API has them.

Rules kept here (appmesh.md §4.3):
- F1 Create-input `{meshName, virtualNodeName, spec}`, describe-output `{virtualNode: {…, metadata, status}}`, and a
  bare spec that `-f KIND/NAME=` names; a list of these.
- F2 What an object is follows from the names it carries. One that carries none is an error, never a guess.
- F3 Two sources of one fact (name in the file and on the command line) must agree.
- F4 `list-*` output holds no specs and is refused by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshca.mesh.described import Context, Described
from meshca.mesh.model import GATEWAY_ROUTE, KINDS, MESH, PARENT_KINDS, ROUTE, SPECS
from meshca.mesh.tree import Member, Node, Report, Subject

if TYPE_CHECKING:
    from collections.abc import Iterator

_REMEDY = "use the API form: `aws appmesh describe-…` output or create input"
_NAME_REMEDY = "add meshName and its name to the file, or give -f KIND/NAME=PATH and --mesh M"
_IGNORED = {"metadata", "status", "clientToken", "ResponseMetadata", "kind"}
_COMMON = {"meshName", "meshOwner", "tags", "spec"}


def describe_api(document: Node, context: Context, report: Report) -> Iterator[Described]:
    """Yield the object of one document; what is wrong with it is reported."""
    if not isinstance(document.value, dict):
        report.error(document.offset, "an object is a mapping", Subject(remedy=_REMEDY))
        return
    listed = _listed(document)
    if listed:
        report.error(document.offset, f"a list of {listed} holds no specs: describe each", Subject(remedy=_REMEDY))
        return
    envelope = _unwrapped(document)
    described = _bare(envelope, context) or _named(envelope, context, report)
    if described is not None:
        yield described


def _listed(document: Node) -> str:
    """F4: return what `list-…` output lists, or nothing."""
    listed = sorted(f"{kind}es" if kind == MESH else f"{kind}s" for kind in KINDS)
    return next((key for key in listed if document.child(key) is not None), "")


def _unwrapped(document: Node) -> Node:
    """Return the envelope inside describe-output, or the document itself."""
    assert isinstance(document.value, dict)  # noqa: S101 - the caller has looked
    keys = [key for key in document.value if key != "ResponseMetadata"]
    if len(keys) == 1 and keys[0] in KINDS:
        inner = document.value[keys[0]].node
        if isinstance(inner.value, dict) and (_names_in(inner) or "spec" in inner.value):
            return inner
    return document


def _names_in(envelope: Node) -> set[str]:
    names = {f"{kind}Name" for kind in KINDS}
    return names & set(envelope.value) if isinstance(envelope.value, dict) else set()


def _bare(envelope: Node, context: Context) -> Described | None:
    """Return the object that is all spec: neither `spec` nor a name in it."""
    assert isinstance(envelope.value, dict)  # noqa: S101 - the caller has looked
    if context.named is None or _names_in(envelope) or _COMMON & set(envelope.value):
        return None
    named = context.named
    mesh = named.name if named.kind == MESH else context.mesh
    if mesh is None:
        return None
    return Described(named.kind, mesh, named.name, named.parent, envelope, envelope.offset)


def _named(envelope: Node, context: Context, report: Report) -> Described | None:
    """Return the object that an envelope describes, or report what it lacks."""
    kind = _kind(envelope, context, report)
    if kind is None:
        return None
    name = _name(envelope, f"{kind}Name", context.named.name if context.named else None, report)
    parent: str | None = ""
    if kind in PARENT_KINDS:
        given = context.named.parent if context.named else None
        parent = _name(envelope, f"{PARENT_KINDS[kind]}Name", given, report)
    mesh = name if kind == MESH else _name(envelope, "meshName", context.mesh, report)
    spec = _spec(envelope, kind, report)
    if name is None or parent is None or mesh is None or spec is None:
        return None
    _warn_of_strangers(envelope, kind, report)
    offset = envelope.place_of(f"{kind}Name")
    owner, tags = envelope.child("meshOwner"), envelope.child("tags")
    return Described(kind, mesh, name, parent, spec, offset, owner, tags)


def _kind(envelope: Node, context: Context, report: Report) -> str | None:
    """F2 and F3 for the kind."""
    found = _kind_of_names(envelope, report)
    said = envelope.child("kind")
    if said is not None and said.value not in KINDS:
        report.error(said.offset, f"a kind is one of {', '.join(KINDS)}", Subject(value=str(said.plain())))
        return None
    stated = [kind for kind in (found, said and str(said.value), context.named and context.named.kind) if kind]
    # A spec that carries its mesh's name alone is a mesh only if nothing else says what it is.
    if found == MESH and len(stated) > 1:
        stated = stated[1:]
    if len(set(stated)) > 1:
        report.error(envelope.offset, f"the file and the command line differ: {' and '.join(stated)}")
        return None
    if not stated:
        report.error(envelope.offset, "nothing says which object this is", Subject(remedy=_NAME_REMEDY))
        return None
    if stated == [MESH] and found == MESH and not _fits_mesh(envelope):
        report.error(envelope.offset, "this carries the name of a mesh but is no mesh", Subject(remedy=_NAME_REMEDY))
        return None
    return stated[0]


def _kind_of_names(envelope: Node, report: Report) -> str | None:
    names = _names_in(envelope) - {"meshName"}
    for kind in (ROUTE, GATEWAY_ROUTE):
        if f"{kind}Name" in names:
            names -= {f"{PARENT_KINDS[kind]}Name"}
    if len(names) > 1:
        report.error(envelope.offset, f"an object has one name, this has {' and '.join(sorted(names))}")
    if names:
        return min(names).removesuffix("Name")
    return MESH if envelope.child("meshName") is not None else None


def _fits_mesh(envelope: Node) -> bool:
    spec = envelope.child("spec")
    if spec is None or not isinstance(spec.value, dict):
        return True
    own = {info.alias for info in SPECS[MESH].model_fields.values()}
    others = {info.alias for shape in SPECS.values() for info in shape.model_fields.values()} - own
    discovery = spec.child("serviceDiscovery")
    finds_a_node = discovery is not None and bool(discovery.child("dns") or discovery.child("awsCloudMap"))
    return not spec.value or (own & set(spec.value) != set() and not others & set(spec.value) and not finds_a_node)


def _name(envelope: Node, key: str, given: str | None, report: Report) -> str | None:
    """F3: return a name from the file or from the command line."""
    node = envelope.child(key)
    if node is None or node.value is None:
        if not given:
            report.error(envelope.offset, f"{key} is missing", Subject(field=key, remedy=_NAME_REMEDY))
        return given or None
    if not isinstance(node.value, str):
        report.error(
            node.offset, "a name is text", Subject(field=key, value=str(node.plain()), remedy="put it in quotes")
        )
        return None
    if given and given != node.value:
        rule = f"the file says {node.value!r}, the command line {given!r}"
        report.error(node.offset, rule, Subject(field=key, remedy="make them agree, or leave one out"))
        return None
    return node.value


def _spec(envelope: Node, kind: str, report: Report) -> Node | None:
    spec = envelope.child("spec")
    if spec is not None and spec.value is not None:
        return spec
    if kind == MESH:  # the only spec that App Mesh lets out
        return Node(envelope.offset, {})
    report.error(envelope.offset, "this key is required", Subject(field="spec"))
    return None


def _warn_of_strangers(envelope: Node, kind: str, report: Report) -> None:
    assert isinstance(envelope.value, dict)  # noqa: S101 - only mappings get here
    known = _COMMON | _IGNORED | {f"{kind}Name", f"{PARENT_KINDS.get(kind, kind)}Name"}
    for key, member in envelope.value.items():
        if key not in known:
            report.add(
                "warning", member.offset, f"App Mesh knows no key {key!r} here; it is ignored", Subject(field=key)
            )
    _warn_of_deleted(envelope.value, report)


def _warn_of_deleted(members: dict[str, Member], report: Report) -> None:
    status = members["status"].node.child("status") if "status" in members else None
    if status is not None and status.value == "DELETED":
        report.add("warning", status.offset, "App Mesh had deleted this object; it is applied all the same")
