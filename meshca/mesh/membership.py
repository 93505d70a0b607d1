"""Which mesh a Kubernetes resource is in, and which gateway a gateway route is on.

Rules kept here (appmesh.md §4.2, controller):
- M1 `meshRef` and `virtualGatewayRef`, which the controller fills in, say it. Else the selectors of meshes and gateways
  do, where the Namespace is in the input: exactly one selects it.
- M2 Where the Namespace is not in the input, the one mesh (or gateway) that is there is meant. Of several: an error.
- M3 `--mesh`, and the parent in `-f gatewayRoute/GATEWAY/NAME=`, say it where nothing else does, and must agree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshca.mesh.resource import NAMESPACE, ResourceId, default_name
from meshca.mesh.selectors import check_selector, selects
from meshca.mesh.tree import Node, Report, Subject

if TYPE_CHECKING:
    from collections.abc import Iterable

    from meshca.mesh.described import Context
    from meshca.mesh.resource import Resource

_MESH_REMEDY = "give --mesh M, or the Mesh and the Namespace with the labels that it selects"
_GATEWAY_REMEDY = "give -f gatewayRoute/GATEWAY/NAME=PATH, or the VirtualGateway and the Namespace that it selects"
_MOST_ASKED = 200_000


class UnclearError(Exception):
    """Nothing, or too much, says what a resource belongs to."""


class Membership:
    """The meshes, gateways and namespaces of a run."""

    def __init__(self, resources: Iterable[Resource], other_meshes: frozenset[str]) -> None:
        by_id = {resource.id: resource for resource in resources}
        self._resources = by_id
        self._labels = {found.id.name: found.labels for found in by_id.values() if found.id.kind == NAMESPACE}
        self._meshes = [found for found in by_id.values() if found.id.kind == "Mesh"]
        self._gateways = [found for found in by_id.values() if found.id.kind == "VirtualGateway"]
        self._mesh_names = {mesh.aws_name for mesh in self._meshes} | other_meshes
        self._gateway_names = {gateway.aws_name for gateway in self._gateways}
        self._selecting: dict[tuple[str, str], list[Resource]] = {}
        self._asked = 0

    def mesh(self, resource: Resource, context: Context, report: Report) -> str | None:
        """Return the mesh that a resource is in, or None where that is unclear, which is reported."""
        reference = resource.spec.child("meshRef")
        try:
            found = self._referred("Mesh", "", reference) or self._selecting_mesh(resource)
        except UnclearError as error:
            found = None
            if context.mesh is None:
                report.error(resource.name_offset, str(error), Subject(str(resource.id), remedy=_MESH_REMEDY))
                return None
        return _agreed(found, context.mesh, "--mesh", resource, report)

    def gateway(self, resource: Resource, context: Context, report: Report) -> str | None:
        """Return the gateway that a gateway route is on, or None where that is unclear, which is reported."""
        said = (context.named.parent if context.named else "") or None
        reference = resource.spec.child("virtualGatewayRef")
        try:
            found = self._referred("VirtualGateway", resource.id.namespace, reference) or self._selecting_gateway(
                resource
            )
        except UnclearError as error:
            found = None
            if said is None:
                report.error(resource.name_offset, str(error), Subject(str(resource.id), remedy=_GATEWAY_REMEDY))
                return None
        return _agreed(found, said, "the command line", resource, report)

    def check_selectors(self, resource: Resource, report: Report) -> None:
        """Report what is wrong with the selectors of a mesh or gateway."""
        for key in ("namespaceSelector", "gatewayRouteSelector"):
            check_selector(resource.spec.child(key), f"spec.{key}", report)

    def _referred(self, kind: str, namespace: str, reference: Node | None) -> str | None:
        """M1 for references."""
        name = reference.text("name") if reference is not None else None
        if reference is None or name is None:
            return None
        target = ResourceId(kind, (reference.text("namespace") or namespace) if namespace else "", name)
        found = self._resources.get(target)
        return default_name(target) if found is None else found.aws_name

    def _selecting_mesh(self, resource: Resource) -> str:
        """M1 and M2 for meshes."""
        labels = self._labels.get(resource.id.namespace)
        if labels is None or not self._meshes:
            names = self._mesh_names
            return _the_one(
                names, "nothing says which mesh this is in", "the input has several meshes, not the Namespace"
            )
        found = {mesh.aws_name for mesh in self._those_selecting(self._meshes, resource)}
        none = f"no mesh of the input selects the namespace {resource.id.namespace}"
        return _the_one(found, none, f"several meshes select the namespace {resource.id.namespace}")

    def _selecting_gateway(self, resource: Resource) -> str:
        """M1 and M2 for gateways."""
        labels = self._labels.get(resource.id.namespace)
        if labels is None:
            names = self._gateway_names
            several = "the input has several gateways, not the Namespace"
            return _the_one(names, "nothing says which gateway this is on", several)
        selecting = self._those_selecting(self._gateways, resource)
        self._ask(len(selecting))
        found = {gateway.aws_name for gateway in selecting if _takes(gateway, resource)}
        none = f"no gateway of the input selects the namespace {resource.id.namespace} and this route"
        return _the_one(found, none, f"several gateways select the namespace {resource.id.namespace}")

    def _those_selecting(self, selecting: list[Resource], resource: Resource) -> list[Resource]:
        """Return the meshes or gateways that select the namespace of a resource, worked out once."""
        namespace = resource.id.namespace
        asked = (selecting[0].id.kind if selecting else "", namespace)
        if asked not in self._selecting:
            self._ask(len(selecting))
            labels = self._labels[namespace]
            found = [item for item in selecting if selects(item.spec.child("namespaceSelector"), labels)]
            self._selecting[asked] = found
        return self._selecting[asked]

    def _ask(self, selectors: int) -> None:
        self._asked += selectors
        if self._asked > _MOST_ASKED:
            raise UnclearError(f"more than {_MOST_ASKED} comparisons of selectors and labels")


def _takes(gateway: Resource, route: Resource) -> bool:
    # Unlike other selectors this one, which came later, selects everything where it is absent.
    selector = gateway.spec.child("gatewayRouteSelector")
    return selector is None or selector.value is None or selects(selector, route.labels)


def _the_one(names: set[str] | frozenset[str], none: str, several: str) -> str:
    if len(names) == 1:
        return next(iter(names))
    raise UnclearError(f"{several}: {', '.join(sorted(names))}" if names else none)


def _agreed(found: str | None, said: str | None, by: str, resource: Resource, report: Report) -> str | None:
    """M3."""
    if found is not None and said is not None and found != said:
        about = Subject(str(resource.id), remedy="make them agree, or leave one out")
        report.error(resource.name_offset, f"the input says {found!r}, {by} {said!r}", about)
        return None
    return found if found is not None else said
