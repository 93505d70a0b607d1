"""References between objects, and the rules that bind their ports and protocols.

Rules kept here (App Mesh User Guide, Kubernetes controller webhooks):
- R1 Every object lies in a mesh that exists, a route on a router and a gateway route on a gateway that exist.
- R2 What a backend, provider, route or gateway route names exists in the same mesh.
- R3 A route's port is a port of its router; it is needed where the router has several.
- R4 A target's port is a port of the target; it is needed where the target has several.
- R5 tcp and the HTTP family do not mix between route, router and node: an error. Within the family App Mesh left a
  mismatch undefined (roadmap issue 82), Envoy translates: a warning.
- R6 A service leads to nodes that take traffic: listeners and service discovery; without: a warning.
- R7 `scheme` is for http2Route alone, as App Mesh's API says; elsewhere it is matched all the same: a warning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from meshca.mesh.findings import Finding
from meshca.mesh.model import (
    MESH,
    PARENT_KINDS,
    VIRTUAL_NODE,
    VIRTUAL_ROUTER,
    VIRTUAL_SERVICE,
    GatewayRoute,
    MeshObject,
    ObjectKey,
    Route,
    VirtualNode,
    VirtualRouter,
    VirtualService,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Objects: TypeAlias = "Mapping[ObjectKey, MeshObject]"


def broken_references(objects: Objects) -> dict[ObjectKey, tuple[Finding, ...]]:
    """Return what is wrong (errors) or doubtful (warnings) between the objects, by the object that says it."""
    return {key: found for key, item in objects.items() if (found := references_of(item, objects))}


def references_of(item: MeshObject, objects: Objects) -> tuple[Finding, ...]:
    """Return what is wrong or doubtful about what one object leads to."""
    return tuple(_findings(item, objects))


def _findings(item: MeshObject, objects: Objects) -> Iterator[Finding]:
    yield from _surroundings(item, objects)
    if isinstance(item, VirtualNode):
        yield from _backends(item, objects)
    elif isinstance(item, VirtualService):
        yield from _provider(item, objects)
    elif isinstance(item, Route):
        yield from _route(item, objects)
    elif isinstance(item, GatewayRoute):
        yield from _gateway_route(item, objects)


def _surroundings(item: MeshObject, objects: Objects) -> Iterator[Finding]:
    """R1."""
    mesh = ObjectKey(item.mesh, MESH, "", item.mesh)
    if mesh not in objects:
        yield _dangling(item, "meshName", mesh)
    if item.parent:
        parent = ObjectKey(item.mesh, PARENT_KINDS[item.kind], "", item.parent)
        if parent not in objects:
            yield _dangling(item, f"{parent.kind}Name", parent)


def _backends(node: VirtualNode, objects: Objects) -> Iterator[Finding]:
    """R2 for backends."""
    for index, backend in enumerate(node.spec.backends):
        service = ObjectKey(node.mesh, VIRTUAL_SERVICE, "", backend.service.virtual_service_name)
        if service not in objects:
            yield _dangling(node, f"spec.backends[{index}].virtualService.virtualServiceName", service)


def _provider(service: VirtualService, objects: Objects) -> Iterator[Finding]:
    """R2 and R6 for providers."""
    provider = service.spec.provider
    if provider is None:
        return
    if provider.virtual_router is not None:
        router = ObjectKey(service.mesh, VIRTUAL_ROUTER, "", provider.virtual_router.virtual_router_name)
        if router not in objects:
            yield _dangling(service, "spec.provider.virtualRouter.virtualRouterName", router)
    if provider.virtual_node is not None:
        field = "spec.provider.virtualNode.virtualNodeName"
        key = ObjectKey(service.mesh, VIRTUAL_NODE, "", provider.virtual_node.virtual_node_name)
        node = objects.get(key)
        if isinstance(node, VirtualNode):
            yield from _takes_traffic(service, field, node)
        else:
            yield _dangling(service, field, key)


def _route(route: Route, objects: Objects) -> Iterator[Finding]:
    """R2 to R7 for routes."""
    if route.spec.http_route is not None and route.spec.http_route.match.scheme is not None:
        yield _warning(route, "spec.httpRoute.match.scheme", "App Mesh compares the scheme on an http2Route alone")
    router = objects.get(ObjectKey(route.mesh, VIRTUAL_ROUTER, "", route.parent))
    if isinstance(router, VirtualRouter):
        yield from _router_port(route, router)
    for index, target in enumerate(route.spec.targets):
        field = f"spec.{_route_key(route)}.action.weightedTargets[{index}]"
        key = ObjectKey(route.mesh, VIRTUAL_NODE, "", target.virtual_node)
        node = objects.get(key)
        if not isinstance(node, VirtualNode):
            yield _dangling(route, f"{field}.virtualNode", key)
            continue
        yield from _takes_traffic(route, f"{field}.virtualNode", node)
        yield from _target_port(route, f"{field}.port", target.port, node)


def _router_port(route: Route, router: VirtualRouter) -> Iterator[Finding]:
    """R3 and R5 between a route and its router."""
    protocols = {listener.port_mapping.port: listener.port_mapping.protocol for listener in router.spec.listeners}
    field, port = f"spec.{_route_key(route)}.match.port", route.spec.port
    if not protocols:
        return
    if port is None and len(protocols) > 1:
        yield _error(route, field, f"{router.key} has several ports ({_list(protocols)}), so the route needs one")
    elif port is not None and port not in protocols:
        yield _error(route, field, f"{router.key} has no port {port}, only {_list(protocols)}")
    else:
        spoken = protocols[port] if port is not None else next(iter(protocols.values()))
        yield from _protocols(route, spoken, router.key)


def _target_port(route: Route, field: str, port: int | None, node: VirtualNode) -> Iterator[Finding]:
    """R4 and R5 between a route and a target."""
    protocols = {listener.port_mapping.port: listener.port_mapping.protocol for listener in node.spec.listeners}
    if not protocols:
        return
    if port is None and len(protocols) > 1:
        yield _error(route, field, f"{node.key} has several ports ({_list(protocols)}), so the target needs one")
    elif port is not None and port not in protocols:
        yield _error(route, field, f"{node.key} has no port {port}, only {_list(protocols)}")
    else:
        spoken = protocols[port] if port is not None else next(iter(protocols.values()))
        yield from _protocols(route, spoken, node.key)


def _gateway_route(route: GatewayRoute, objects: Objects) -> Iterator[Finding]:
    """R2 and R4 for gateway routes."""
    target = route.spec.target
    field = f"spec.{_route_key(route)}.action.target"
    service = ObjectKey(route.mesh, VIRTUAL_SERVICE, "", target.virtual_service.virtual_service_name)
    found = objects.get(service)
    if not isinstance(found, VirtualService):
        yield _dangling(route, f"{field}.virtualService.virtualServiceName", service)
        return
    ports = _ports_of(found, objects)
    if target.port is not None and ports and target.port not in ports:
        yield _error(route, f"{field}.port", f"{service} has no port {target.port}, only {_list(ports)}")
    if target.port is None and len(ports) > 1:
        yield _error(route, f"{field}.port", f"{service} has several ports ({_list(ports)}), so the target needs one")


def _ports_of(service: VirtualService, objects: Objects) -> tuple[int, ...]:
    provider = service.spec.provider
    if provider is None:
        return ()
    if provider.virtual_router is not None:
        key = ObjectKey(service.mesh, VIRTUAL_ROUTER, "", provider.virtual_router.virtual_router_name)
    else:
        assert provider.virtual_node is not None  # noqa: S101 - a provider is a node or a router
        key = ObjectKey(service.mesh, VIRTUAL_NODE, "", provider.virtual_node.virtual_node_name)
    found = objects.get(key)
    if isinstance(found, VirtualRouter | VirtualNode):
        return tuple(listener.port_mapping.port for listener in found.spec.listeners)
    return ()


def _protocols(route: Route, spoken: str, by: ObjectKey) -> Iterator[Finding]:
    """R5."""
    wanted = route.spec.protocol
    if wanted == spoken:
        return
    field, text = f"spec.{_route_key(route)}", f"the route is for {wanted}, {by} speaks {spoken}"
    if "tcp" in {wanted, spoken}:
        yield _error(route, field, f"{text}, and tcp does not mix with the others")
    else:
        yield _warning(route, field, f"{text}; App Mesh left this undefined")


def _takes_traffic(item: MeshObject, field: str, node: VirtualNode) -> Iterator[Finding]:
    """R6."""
    if not node.spec.listeners:
        yield _warning(item, field, f"{node.key} has no listener, so nothing is delivered there")
    elif node.spec.service_discovery is None:
        yield _warning(item, field, f"{node.key} has no serviceDiscovery, so nobody finds it")


def _route_key(route: Route | GatewayRoute) -> str:
    return f"{route.spec.protocol}Route"


def _list(ports: Mapping[int, str] | tuple[int, ...]) -> str:
    return ", ".join(str(port) for port in sorted(ports))


def _dangling(item: MeshObject, field: str, missing: ObjectKey) -> Finding:
    rule = f"{missing} does not exist"
    return _error(item, field, rule, value=missing.name, remedy="apply it in the same call, or mend the name")


def _error(item: MeshObject, field: str, rule: str, value: str = "", remedy: str = "") -> Finding:
    return Finding("error", rule, object=str(item.key), field=field, value=value, remedy=remedy)


def _warning(item: MeshObject, field: str, rule: str) -> Finding:
    return Finding("warning", rule, object=str(item.key), field=field)
