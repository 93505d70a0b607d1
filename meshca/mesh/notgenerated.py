"""What the generator does not make yet: said by `apply`, and why ADS and `render` of it answer an error.

Rules kept here:
- This is the one list; the generator (envoy/) asks it and leaves nothing out silently.
- All of it is accepted, kept, and used by `can` and SDS.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshca.mesh.findings import Finding
from meshca.mesh.model import GatewayRoute, Mesh, MeshObject, Route, VirtualGateway, VirtualNode, VirtualRouter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meshca.mesh.spec.listeners import Listener

_RULE = "not generated yet; kept, and used by `can` and SDS"
_HTTP_MATCHERS = {
    "path": "path",
    "method": "method",
    "scheme": "scheme",
    "headers": "headers",
    "query_parameters": "queryParameters",
}
_GRPC_MATCHERS = {"service_name": "serviceName", "method_name": "methodName", "metadata": "metadata"}


def not_generated(item: MeshObject) -> tuple[Finding, ...]:
    """Return a warning for each field of an object that the generator does not do yet."""
    where = str(item.key)
    return tuple(Finding("warning", _RULE, object=where, field=field, value=value) for field, value in _fields(item))


def _fields(item: MeshObject) -> Iterator[tuple[str, str]]:
    if isinstance(item, Mesh) and item.spec.egress_filter.type == "ALLOW_ALL":
        yield "spec.egressFilter.type", "ALLOW_ALL"
    elif isinstance(item, VirtualNode):
        yield from _of_node(item)
    elif isinstance(item, VirtualRouter) and len(item.spec.listeners) > 1:
        yield "spec.listeners", f"{len(item.spec.listeners)} listeners"
    elif isinstance(item, Route):
        yield from _of_route(item)
    elif isinstance(item, VirtualGateway | GatewayRoute):
        yield "spec", item.kind


def _of_node(node: VirtualNode) -> Iterator[tuple[str, str]]:
    discovery = node.spec.service_discovery
    if discovery is not None and discovery.aws_cloud_map is not None:
        yield "spec.serviceDiscovery.awsCloudMap", discovery.aws_cloud_map.service_name
    if len(node.spec.listeners) > 1:
        yield "spec.listeners", f"{len(node.spec.listeners)} listeners"
    for index, listener in enumerate(node.spec.listeners):
        yield from _of_listener(f"spec.listeners[{index}]", listener)


def _of_listener(field: str, listener: Listener) -> Iterator[tuple[str, str]]:
    if listener.tls is not None and listener.tls.mode == "PERMISSIVE":
        yield f"{field}.tls.mode", "PERMISSIVE"


def _of_route(route: Route) -> Iterator[tuple[str, str]]:
    field, spec = f"spec.{route.spec.protocol}Route", route.spec
    http = spec.http_route or spec.http2_route
    if http is not None:
        for part in _present(http.match, _HTTP_MATCHERS):
            yield f"{field}.match.{part}", ""
    if spec.grpc_route is not None:
        for part in _present(spec.grpc_route.match, _GRPC_MATCHERS):
            yield f"{field}.match.{part}", ""
    retrying = http or spec.grpc_route
    if retrying is not None and retrying.retry_policy is not None:
        yield f"{field}.retryPolicy", ""


def _present(shape: Any, parts: dict[str, str]) -> Iterator[str]:
    return (key for name, key in parts.items() if getattr(shape, name) is not None)
