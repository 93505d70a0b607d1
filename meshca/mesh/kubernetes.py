"""Kubernetes resources of the App Mesh controller (`appmesh.k8s.aws/v1beta2`).

Rules kept here (appmesh.md §4.2):
- K1 A resource is an object of App Mesh under its App Mesh name (resource.py); routes lie in their router, and keep
  their names.
- K2 A reference without a namespace means the referrer's. One to a resource that is not in the input means its default
  name.
- K3 The mesh and the gateway of a resource follow from selectors (membership.py).
- K4 Lists are read item by item; other kinds are ignored with a note; the old controller's v1beta1 is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshca.mesh.crdspec import Crd, Resources
from meshca.mesh.described import Context, Described, agree
from meshca.mesh.membership import Membership
from meshca.mesh.model import GATEWAY_ROUTE, MESH, ROUTE, VIRTUAL_ROUTER
from meshca.mesh.resource import CRDS, GROUP, NAMESPACE, Resource
from meshca.mesh.tree import Member, Node, Report, Subject

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from meshca.mesh.variables import Variables

__all__ = ["Cluster", "Resource", "is_kubernetes", "note_ignored", "resources_of"]

_VERSION = f"{GROUP}/v1beta2"
_OLD_VERSION = f"{GROUP}/v1beta1"
_OLD_REMEDY = (
    "convert it to v1beta2: names become references, and routes of a VirtualService move to a VirtualRouter; "
    "`kubectl get … -o yaml` of a cluster with the new controller gives that"
)
_KNOWN_KEYS = {"apiVersion", "kind", "metadata", "spec", "status"}


def is_kubernetes(document: Node) -> bool:
    """Tell whether a document is a Kubernetes resource, of whatever kind."""
    return document.text("apiVersion") is not None and document.text("kind") is not None


def resources_of(
    document: Node, report: Report, variables: Variables, ignored: dict[str, list[int]]
) -> Iterator[Resource]:
    """Yield the resources of a document that matter here, their variables filled; the others are counted."""
    version, kind = document.text("apiVersion") or "", document.text("kind") or ""
    items = document.child("items")
    if kind.endswith("List") and items is not None:
        for item in items.items():
            yield from resources_of(_with_type(item, version, kind), report, variables, ignored)
    elif version == _OLD_VERSION:
        rule = f"resources of the old controller ({_OLD_VERSION}) are not read"
        report.error(document.offset, rule, Subject(value=kind, remedy=_OLD_REMEDY))
    elif version.startswith(f"{GROUP}/") and (version != _VERSION or kind not in CRDS):
        rule = f"a resource of App Mesh is one of {', '.join(CRDS)}, of {_VERSION}"
        report.error(document.offset, rule, Subject(value=f"{version} {kind}"))
    elif version == _VERSION or (version == "v1" and kind == NAMESPACE):
        variables.fill_tree(document)
        resource = Resource.read(document, kind, report)
        if resource is not None:
            yield resource
    else:
        ignored.setdefault(f"{kind} ({version})", []).append(document.offset)


def note_ignored(ignored: dict[str, list[int]], report: Report) -> None:
    """Say once for each kind what was ignored."""
    for kind, offsets in ignored.items():
        several = (
            f"{len(offsets)} resources of kind {kind} are" if len(offsets) > 1 else f"a resource of kind {kind} is"
        )
        report.add("note", offsets[0], f"{several} ignored: App Mesh has no such kind")


def _with_type(item: Node, version: str, kind: str) -> Node:
    """Return an item of a typed list with the type that its list says."""
    if not isinstance(item.value, dict) or is_kubernetes(item) or kind == "List":
        return item
    typed = {"apiVersion": version, "kind": kind.removesuffix("List")}
    members = {key: Member(item.offset, Node(item.offset, value)) for key, value in typed.items()}
    return Node(item.offset, {**members, **item.value})


class Cluster:
    """All resources of a run, so that references, groups and selectors can be followed."""

    def __init__(self, resources: Iterable[Resource], meshes: Iterable[str]) -> None:
        """Index the resources; the meshes are those that other forms describe."""
        every = list(resources)
        self._crds = Resources(every)
        self._membership = Membership(every, frozenset(meshes))
        self._noted: set[tuple[int, str]] = set()

    def describe(self, resource: Resource, context: Context, report: Report) -> Iterator[Described]:
        """Yield the objects that a resource describes; what is wrong with it is reported."""
        if resource.object_kind is None:
            return
        self._note_namespace(resource, report)
        self._membership.check_selectors(resource, report)
        mesh = resource.aws_name if resource.object_kind == MESH else self._membership.mesh(resource, context, report)
        parent: str | None = ""
        if resource.object_kind == GATEWAY_ROUTE:
            parent = self._membership.gateway(resource, context, report)
        if mesh is None or parent is None:
            return
        for key, member in resource.document.members().items():
            if key not in _KNOWN_KEYS:
                about = Subject(field=key)
                report.add("warning", member.offset, f"Kubernetes knows no key {key!r} here; it is ignored", about)
        spec = Crd(self._crds, mesh, resource, report).spec()
        kind, name, at = resource.object_kind, resource.aws_name, resource.name_offset
        described = Described(kind, mesh, name, parent, spec, at, owner=resource.spec.child("meshOwner"))
        if agree(described, context, report):
            yield described
            if kind == VIRTUAL_ROUTER:
                yield from self._routes(described, resource, report)

    def _routes(self, router: Described, resource: Resource, report: Report) -> Iterator[Described]:
        routes = resource.spec.child("routes")
        for item in routes.items() if routes is not None else []:
            name = item.text("name")
            if name is None:
                about = Subject(f"mesh/{router.mesh}/virtualRouter/{router.name}", "spec.routes")
                report.error(item.offset, "a route needs a name, which is text", about)
                continue
            spec = Crd(self._crds, router.mesh, resource, report).route(item)
            yield Described(ROUTE, router.mesh, name, router.name, spec, item.place_of("name"))

    def _note_namespace(self, resource: Resource, report: Report) -> None:
        if resource.object_kind == MESH or resource.has_namespace or (id(report), resource.id.namespace) in self._noted:
            return
        self._noted.add((id(report), resource.id.namespace))
        rule = (
            f"no namespace is given: {resource.id.namespace!r} is taken, also in the App Mesh name {resource.aws_name}"
        )
        report.add("note", resource.name_offset, rule, Subject(remedy="add metadata.namespace"))
