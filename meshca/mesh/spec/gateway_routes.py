"""Specs of gateway routes.

Rules kept here:
- Exactly one of the kinds of route; a prefix or a path, never both; something to match.
- App Mesh reserves the prefixes /aws-appmesh and /aws-app-mesh and the gRPC services aws.appmesh and aws.app-mesh.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, StringConstraints, model_validator

from meshca.mesh.spec.base import OneOf, Port, Shape, ShortText, Text, looked_up
from meshca.mesh.spec.routes import GrpcMatch, HttpMatch, RouteKinds

Switch = Literal["ENABLED", "DISABLED"]

_RESERVED_PREFIXES = ("/aws-appmesh", "/aws-app-mesh")
_RESERVED_SERVICES = ("aws.appmesh", "aws.app-mesh")


def _without_star(text: str) -> str:
    # Envoy would take a star for one of its own, and match more than App Mesh's exact or suffix.
    if "*" in text:
        raise ValueError("a host name here is compared as it stands, and holds no *")
    return text


_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
HostPart = Annotated[
    str, StringConstraints(min_length=1, max_length=253), AfterValidator(looked_up), AfterValidator(_without_star)
]


class HostnameMatch(OneOf):
    """How a host name is compared."""

    exact: HostPart | None = None
    suffix: HostPart | None = None


def _one_line(text: str) -> str:
    if _CONTROL.search(text):
        raise ValueError("a path that is sent on holds no control character")
    return text


class TargetService(Shape):
    """A virtual service by name."""

    virtual_service_name: Text


class GatewayRouteTarget(Shape):
    """The virtual service that a gateway route leads to."""

    virtual_service: TargetService
    port: Port | None = None


class HostnameRewrite(Shape):
    """Whether the host name becomes that of the virtual service."""

    default_target_hostname: Switch = "ENABLED"


class PrefixRewrite(OneOf):
    """What the matched prefix becomes."""

    default_prefix: Switch | None = None
    value: (
        Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^/(.*/)?$"), AfterValidator(_one_line)]
        | None
    ) = None


class PathRewrite(Shape):
    """What the whole path becomes."""

    exact: Annotated[ShortText, AfterValidator(_one_line)]


class HttpRewrite(Shape):
    """What changes in a request on its way in."""

    hostname: HostnameRewrite | None = None
    prefix: PrefixRewrite | None = None
    path: PathRewrite | None = None

    @model_validator(mode="after")
    def _prefix_or_path(self) -> Self:
        if self.prefix is not None and self.path is not None:
            raise ValueError("prefix and path exclude each other")
        return self


class GrpcRewrite(Shape):
    """What changes in a call on its way in."""

    hostname: HostnameRewrite | None = None


class HttpGatewayRouteMatch(HttpMatch):
    """Which requests a gateway route takes."""

    hostname: HostnameMatch | None = None

    @model_validator(mode="after")
    def _something_not_reserved(self) -> Self:
        if self.prefix is None and self.path is None and self.hostname is None:
            raise ValueError("one of prefix, path and hostname is needed")
        if (self.prefix or "").startswith(_RESERVED_PREFIXES):
            raise ValueError("the prefixes /aws-appmesh and /aws-app-mesh are reserved on gateways")
        return self


class HttpGatewayRouteAction(Shape):
    """Where a gateway route leads."""

    target: GatewayRouteTarget
    rewrite: HttpRewrite | None = None


class HttpGatewayRoute(Shape):
    """A gateway route of HTTP requests."""

    match: HttpGatewayRouteMatch
    action: HttpGatewayRouteAction


class GrpcGatewayRouteMatch(GrpcMatch):
    """Which calls a gateway route takes."""

    hostname: HostnameMatch | None = None

    @model_validator(mode="after")
    def _something_not_reserved(self) -> Self:
        if self.service_name is None and self.hostname is None:
            raise ValueError("serviceName or hostname is needed")
        if (self.service_name or "").lstrip("/").startswith(_RESERVED_SERVICES):
            raise ValueError("the gRPC services aws.appmesh and aws.app-mesh are reserved on gateways")
        return self


class GrpcGatewayRouteAction(Shape):
    """Where a gRPC gateway route leads."""

    target: GatewayRouteTarget
    rewrite: GrpcRewrite | None = None


class GrpcGatewayRoute(Shape):
    """A gateway route of gRPC calls."""

    match: GrpcGatewayRouteMatch
    action: GrpcGatewayRouteAction


class GatewayRouteSpec(RouteKinds):
    """A gateway route: priority 0 comes first, none comes last."""

    http_route: HttpGatewayRoute | None = None
    http2_route: HttpGatewayRoute | None = None
    grpc_route: GrpcGatewayRoute | None = None

    @property
    def route(self) -> HttpGatewayRoute | GrpcGatewayRoute:
        """Return the one kind that is present."""
        route = self.http_route or self.http2_route or self.grpc_route
        assert route is not None  # noqa: S101 - the rule above, for the type checker
        return route

    @property
    def protocol(self) -> str:
        """Return the protocol of the kind that is present."""
        kinds = {"http": self.http_route, "http2": self.http2_route, "grpc": self.grpc_route}
        return next(protocol for protocol, route in kinds.items() if route is not None)

    @property
    def target(self) -> GatewayRouteTarget:
        """Return the virtual service that the route leads to."""
        return self.route.action.target
