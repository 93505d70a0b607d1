"""Specs of meshes, virtual nodes, services, routers and gateways.

Rules kept here:
- Two listeners never share a port.
- A backend may be named by ARN; the name is what is kept, and its mesh is the node's own.
- Nobody lists the same backend twice, nor two that differ in the case of letters: Envoy compares hosts without it.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from meshca.mesh.arn import ARN_PREFIX, parse_arn
from meshca.mesh.spec.base import Items, Name, OneOf, Shape, Text
from meshca.mesh.spec.listeners import GatewayListener, Listener
from meshca.mesh.spec.tls import BackendDefaults, ClientPolicy
from meshca.mesh.spec.transport import IpPreference, Logging, PortMapping, ServiceDiscovery

if TYPE_CHECKING:
    from collections.abc import Iterable


class EgressFilter(Shape):
    """What a node may call that is no backend."""

    type: Literal["ALLOW_ALL", "DROP_ALL"]


class MeshDiscovery(Shape):
    """The IP version preferred in the whole mesh."""

    ip_preference: IpPreference | None = None


class MeshSpec(Shape):
    """A mesh; outside calls are dropped where nothing is said."""

    egress_filter: EgressFilter = EgressFilter(type="DROP_ALL")
    service_discovery: MeshDiscovery | None = None


class VirtualServiceBackend(Shape):
    """A virtual service that a node calls."""

    virtual_service_name: Text
    client_policy: ClientPolicy | None = None

    @field_validator("virtual_service_name")
    @classmethod
    def _name_of_arn(cls, text: str, info: ValidationInfo) -> str:
        if not text.startswith(ARN_PREFIX):
            return text
        resource = parse_arn(text)
        if resource is None or resource.kind != "virtualService" or resource.rest:
            raise ValueError("an ARN here must name a virtual service: arn:…:mesh/MESH/virtualService/NAME")
        if info.context and info.context.get("mesh", resource.mesh) != resource.mesh:
            raise ValueError(f"the ARN is of mesh {resource.mesh}, the node is of mesh {info.context['mesh']}")
        return resource.name


class Backend(OneOf):
    """What a node calls; App Mesh's union has the one member."""

    virtual_service: VirtualServiceBackend | None = None

    @property
    def service(self) -> VirtualServiceBackend:
        """Return the one member."""
        assert self.virtual_service is not None  # noqa: S101 - the union's rule, for the type checker
        return self.virtual_service


class VirtualNodeSpec(Shape):
    """A virtual node: what it serves and whom it calls."""

    service_discovery: ServiceDiscovery | None = None
    listeners: Items[Listener] = ()
    backend_defaults: BackendDefaults | None = None
    backends: Items[Backend] = ()
    logging: Logging | None = None

    @model_validator(mode="after")
    def _nothing_twice(self) -> Self:
        require_distinct("listener port", (listener.port_mapping.port for listener in self.listeners))
        require_distinct("backend", (backend.service.virtual_service_name.lower() for backend in self.backends))
        return self


class NodeProvider(Shape):
    """A virtual node provides the service."""

    virtual_node_name: Name


class RouterProvider(Shape):
    """A virtual router provides the service."""

    virtual_router_name: Name


class Provider(OneOf):
    """What provides a virtual service."""

    virtual_node: NodeProvider | None = None
    virtual_router: RouterProvider | None = None


class VirtualServiceSpec(Shape):
    """A virtual service; without a provider it takes no traffic."""

    provider: Provider | None = None


class RouterListener(Shape):
    """A port of a virtual router."""

    port_mapping: PortMapping


class VirtualRouterSpec(Shape):
    """A virtual router; its routes are objects of their own."""

    listeners: Items[RouterListener] = ()

    @model_validator(mode="after")
    def _nothing_twice(self) -> Self:
        require_distinct("listener port", (listener.port_mapping.port for listener in self.listeners))
        return self


class VirtualGatewaySpec(Shape):
    """A virtual gateway: where calls enter the mesh."""

    listeners: Annotated[Items[GatewayListener], Field(min_length=1)]
    backend_defaults: BackendDefaults | None = None
    logging: Logging | None = None

    @model_validator(mode="after")
    def _nothing_twice(self) -> Self:
        require_distinct("listener port", (listener.port_mapping.port for listener in self.listeners))
        return self


def require_distinct(what: str, values: Iterable[object]) -> None:
    """Raise where a value occurs twice."""
    twice = sorted(str(value) for value, count in Counter(values).items() if count > 1)
    if twice:
        raise ValueError(f"the same {what} twice: {', '.join(twice)}")
