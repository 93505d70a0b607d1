"""All objects of all meshes, and what leads where.

Rules kept here:
- A MeshSet is immutable and whole: every reference leads to an object of the same mesh (references.py); a change makes
  a new set or raises ``SpecError`` with all that is wrong, and the old one stands.
- An object exists once.
- A set made from another checks only what the change concerns (links.py), and is equal to one made from scratch.
- A route of weight 0 leads to its target as any other: the next apply, or an outlier, may send calls there, and Envoy
  keeps the cluster. Who is reachable by configuration is what policy must know.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

from meshca.errors import NotFoundError
from meshca.mesh.findings import Finding, require_no_error
from meshca.mesh.links import Links, is_far_reaching
from meshca.mesh.model import (
    MESH,
    PARENT_KINDS,
    VIRTUAL_GATEWAY,
    VIRTUAL_NODE,
    VIRTUAL_ROUTER,
    VIRTUAL_SERVICE,
    Caller,
    GatewayRoute,
    Mesh,
    MeshObject,
    ObjectKey,
    Route,
    VirtualGateway,
    VirtualNode,
    VirtualRouter,
    VirtualService,
)
from meshca.mesh.references import broken_references, references_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from meshca.mesh.links import Changes

O = TypeVar("O", bound=MeshObject)  # noqa: E741 - an object


@dataclass(frozen=True, slots=True)
class Target:
    """A virtual node that a service leads to."""

    node: VirtualNode
    weight: int
    port: int | None
    """The node's port; None where the node itself provides the service: then whichever port is called."""
    route: Route | None = None
    """The route that leads there; None where the node itself provides the service."""

    @property
    def ports(self) -> tuple[int, ...]:
        """Return the listener ports that can be reached this way."""
        listeners = tuple(listener.port_mapping.port for listener in self.node.spec.listeners)
        return listeners if self.port is None else (self.port,)


class MeshSet:
    """The objects of all meshes, checked."""

    def __init__(self, objects: Iterable[MeshObject] = ()) -> None:
        """Check and index the objects.

        Raises:
            SpecError: an object occurs twice, or a reference leads nowhere.
        """
        every = tuple(objects)
        self._objects: dict[ObjectKey, MeshObject] = {item.key: item for item in every}
        self._children: dict[ObjectKey, list[MeshObject]] = defaultdict(list)
        for key in sorted(self._objects):
            self._adopt(self._objects[key])
        self._found = broken_references(self._objects)
        self._links: Links | None = None
        require_no_error((*_twice(every), *self.findings))

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Return warnings about the set as a whole."""
        return tuple(finding for key in sorted(self._found) for finding in self._found[key])

    @property
    def links(self) -> Links:
        """Return who names whom."""
        if self._links is None:
            self._links = Links.among(self._objects)
        return self._links

    def _adopt(self, item: MeshObject) -> None:
        if isinstance(item, Route):
            self._children[ObjectKey(item.mesh, VIRTUAL_ROUTER, "", item.parent)].append(item)
        elif isinstance(item, GatewayRoute):
            self._children[ObjectKey(item.mesh, VIRTUAL_GATEWAY, "", item.parent)].append(item)

    # -- change

    def with_applied(self, objects: Iterable[MeshObject], *, prune: bool = False) -> MeshSet:
        """Return the set with the objects added or replaced; pruned, their meshes hold nothing else.

        Raises:
            SpecError: the result would not be whole.
        """
        applied = tuple(objects)
        require_no_error(_twice(applied))
        changes: dict[ObjectKey, MeshObject | None] = {}
        if prune:
            keys, meshes = {item.key for item in applied}, {item.mesh for item in applied}
            changes = {key: None for key in self._objects if key.mesh in meshes and key not in keys}
        changes |= {item.key: item for item in applied if self._objects.get(item.key) != item}
        return self.changed(changes)

    def without(self, key: ObjectKey) -> MeshSet:
        """Return the set without one object.

        Raises:
            NotFoundError: there is no such object.
            SpecError: something still leads to it.
        """
        self.get(key)
        return self.changed({key: None})

    def changed(self, changes: Changes) -> MeshSet:
        """Return the set with these objects as they are to be; None removes one.

        Raises:
            SpecError: the result would not be whole.
        """
        if not changes:
            return self
        objects = {key: item for key, item in self._objects.items() if changes.get(key, item) is not None}
        objects |= {key: item for key, item in changes.items() if item is not None}
        if is_far_reaching(self._objects, changes):
            return MeshSet(objects.values())
        return self._derive(objects, changes)

    def _derive(self, objects: dict[ObjectKey, MeshObject], changes: Changes) -> MeshSet:
        """Return the set of these objects, of which all but the changes have been checked."""
        links = self.links.changed(self._objects, changes)
        children = self._children.copy()
        for parent in {ObjectKey(key.mesh, PARENT_KINDS[key.kind], "", key.parent) for key in changes if key.parent}:
            named_by = sorted(key for key in links.to(parent) if key.parent == parent.name)
            children[parent] = [objects[key] for key in named_by]
        concerned = {*self.links.concerned(changes), *links.concerned(changes)}
        found = {key: findings for key, findings in self._found.items() if key not in concerned}
        for key in concerned & objects.keys():
            if findings := references_of(objects[key], objects):
                found[key] = findings
        derived = MeshSet.__new__(MeshSet)
        vars(derived).update(_objects=objects, _children=children, _found=found, _links=links)
        require_no_error(derived.findings)
        return derived

    # -- look up

    @property
    def objects(self) -> Mapping[ObjectKey, MeshObject]:
        """Return all objects by key."""
        return MappingProxyType(self._objects)

    def get(self, key: ObjectKey) -> MeshObject:
        """Return an object by key, or raise ``NotFoundError``."""
        found = self._objects.get(key)
        if found is None:
            raise NotFoundError("there is no such object", field=key.kind, value=str(key), remedy="see `meshca get`")
        return found

    def find(self, key: ObjectKey) -> MeshObject | None:
        """Return an object by key, if there is one."""
        return self._objects.get(key)

    def mesh(self, name: str) -> Mesh:
        """Return a mesh, or raise ``NotFoundError``."""
        return _as(Mesh, self.get(ObjectKey(name, MESH, "", name)))

    def node(self, mesh: str, name: str) -> VirtualNode:
        """Return a virtual node, or raise ``NotFoundError``."""
        return _as(VirtualNode, self.get(ObjectKey(mesh, VIRTUAL_NODE, "", name)))

    def service(self, mesh: str, name: str) -> VirtualService:
        """Return a virtual service, or raise ``NotFoundError``."""
        return _as(VirtualService, self.get(ObjectKey(mesh, VIRTUAL_SERVICE, "", name)))

    def router(self, mesh: str, name: str) -> VirtualRouter:
        """Return a virtual router, or raise ``NotFoundError``."""
        return _as(VirtualRouter, self.get(ObjectKey(mesh, VIRTUAL_ROUTER, "", name)))

    def gateway(self, mesh: str, name: str) -> VirtualGateway:
        """Return a virtual gateway, or raise ``NotFoundError``."""
        return _as(VirtualGateway, self.get(ObjectKey(mesh, VIRTUAL_GATEWAY, "", name)))

    def caller(self, key: ObjectKey) -> Caller:
        """Return a virtual node or gateway by key, or raise ``NotFoundError``."""
        found = self.get(key)
        if isinstance(found, VirtualNode | VirtualGateway):
            return found
        raise NotFoundError("neither a virtual node nor a virtual gateway", field="node", value=str(key))

    def all_of(self, kind: type[O]) -> tuple[O, ...]:
        """Return all objects of one class in the order of their keys."""
        found = [item for item in self._objects.values() if isinstance(item, kind)]
        return tuple(sorted(found, key=lambda item: item.key))

    def meshes(self) -> tuple[Mesh, ...]:
        """Return all meshes."""
        return self.all_of(Mesh)

    def nodes(self) -> tuple[VirtualNode, ...]:
        """Return all virtual nodes."""
        return self.all_of(VirtualNode)

    def gateways(self) -> tuple[VirtualGateway, ...]:
        """Return all virtual gateways."""
        return self.all_of(VirtualGateway)

    def callers(self) -> tuple[Caller, ...]:
        """Return all that hold an identity: virtual nodes and gateways."""
        return (*self.nodes(), *self.gateways())

    def services(self) -> tuple[VirtualService, ...]:
        """Return all virtual services."""
        return self.all_of(VirtualService)

    # -- what leads where

    def routes_of(self, router: VirtualRouter) -> tuple[Route, ...]:
        """Return the routes of a router: by priority, those without one last, then by name."""
        routes = [item for item in self._children.get(router.key, ()) if isinstance(item, Route)]
        return tuple(sorted(routes, key=_precedence))

    def gateway_routes_of(self, gateway: VirtualGateway) -> tuple[GatewayRoute, ...]:
        """Return the routes of a gateway: by priority, those without one last, then by name."""
        routes = [item for item in self._children.get(gateway.key, ()) if isinstance(item, GatewayRoute)]
        return tuple(sorted(routes, key=_precedence))

    def services_of(self, caller: Caller) -> tuple[VirtualService, ...]:
        """Return the services that a node's backends or a gateway's routes lead to, each once, by name."""
        if isinstance(caller, VirtualNode):
            names = {backend.service.virtual_service_name for backend in caller.spec.backends}
        else:
            names = {route.spec.target.virtual_service.virtual_service_name for route in self.gateway_routes_of(caller)}
        return tuple(self.service(caller.mesh, name) for name in sorted(names))

    def router_of(self, service: VirtualService) -> VirtualRouter | None:
        """Return the router that provides a service, if it is a router."""
        provider = service.spec.provider
        if provider is None or provider.virtual_router is None:
            return None
        return self.router(service.mesh, provider.virtual_router.virtual_router_name)

    def targets(self, service: VirtualService) -> tuple[Target, ...]:
        """Return the virtual nodes that a service leads to."""
        provider = service.spec.provider
        if provider is None:
            return ()
        if provider.virtual_node is not None:
            return (Target(self.node(service.mesh, provider.virtual_node.virtual_node_name), 1, None),)
        router = self.router_of(service)
        assert router is not None  # noqa: S101 - a provider is a node or a router
        return tuple(target for route in self.routes_of(router) for target in self._targets_of(route))

    def _targets_of(self, route: Route) -> Iterable[Target]:
        for weighted in route.spec.targets:
            node = self.node(route.mesh, weighted.virtual_node)
            # Without listeners a node takes no traffic; references.py has warned of it.
            listeners = node.spec.listeners
            port = weighted.port or (listeners[0].port_mapping.port if listeners else None)
            yield Target(node, weighted.weight, port, route)


def _precedence(item: Route | GatewayRoute) -> tuple[int, str]:
    # App Mesh: 0 comes first, none comes after the lowest, which is 1000.
    return (1001 if item.spec.priority is None else item.spec.priority, item.name)


def _twice(objects: tuple[MeshObject, ...]) -> tuple[Finding, ...]:
    seen: set[ObjectKey] = set()
    twice: set[ObjectKey] = set()
    for item in objects:
        (twice if item.key in seen else seen).add(item.key)
    rule = "an object is described once"
    return tuple(Finding("error", rule, object=str(key), remedy="remove one of the two") for key in sorted(twice))


def _as(kind: type[O], item: MeshObject) -> O:
    assert isinstance(item, kind)  # noqa: S101 - the key names the kind
    return item
