"""Specs of routes, and what gateway routes share with them.

Rules kept here:
- Exactly one of the kinds of route; a prefix or a path, never both.
- A regular expression is one that Envoy takes (regex.py).
- Weights are relative: App Mesh's console asks for a sum of 100, its API never did.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from meshca.mesh.spec.base import Count, Items, Name, OneOf, Port, Shape, ShortText, Text
from meshca.mesh.spec.regex import check_regex
from meshca.mesh.spec.transport import Duration, IdleTimeout, RequestTimeout

Method = Literal["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"]
HttpRetryEvent = Literal["server-error", "gateway-error", "client-error", "stream-error"]
GrpcRetryEvent = Literal["cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable"]
PathPrefix = Annotated[str, StringConstraints(pattern=r"^/")]
_HEADER = re.compile(r":?[!#$%&'*+.^_`|~0-9A-Za-z-]+")
Priority = Annotated[int, Field(ge=0, le=1000)]


Long = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
Regex = Annotated[ShortText, AfterValidator(check_regex)]


def _is_header(text: str) -> str:
    if not _HEADER.fullmatch(text):
        raise ValueError("no name of a header (RFC 9110 §5.1)")
    return text


HeaderName = Annotated[str, StringConstraints(min_length=1, max_length=50), AfterValidator(_is_header)]


class Range(Shape):
    """Whole numbers from start up to, not including, end."""

    start: Long
    end: Long

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if self.end <= self.start:
            raise ValueError(f"end must be greater than start, the range {self.start}-{self.end} holds nothing")
        return self


class ValueMatch(OneOf):
    """How the value of a header is compared."""

    exact: ShortText | None = None
    prefix: ShortText | None = None
    suffix: ShortText | None = None
    regex: Regex | None = None
    range: Range | None = None


class HeaderMatch(Shape):
    """A header that must (or, inverted, must not) match; without `match` its presence counts."""

    name: HeaderName
    match: ValueMatch | None = None
    invert: bool = False


class ExactMatch(Shape):
    """A value compared exactly."""

    exact: str | None = None


class QueryParameterMatch(Shape):
    """A query parameter that must match."""

    name: Text
    match: ExactMatch | None = None


class PathMatch(OneOf):
    """How a whole path is compared."""

    exact: ShortText | None = None
    regex: Regex | None = None


Headers = Annotated[Items[HeaderMatch], Field(min_length=1, max_length=10)]
QueryParameters = Annotated[Items[QueryParameterMatch], Field(min_length=1, max_length=10)]


class HttpMatch(Shape):
    """What HTTP requests are told apart by."""

    prefix: PathPrefix | None = None
    path: PathMatch | None = None
    method: Method | None = None
    headers: Headers | None = None
    query_parameters: QueryParameters | None = None
    port: Port | None = None

    @model_validator(mode="after")
    def _prefix_or_path(self) -> Self:
        if self.prefix is not None and self.path is not None:
            raise ValueError("prefix and path exclude each other")
        return self


class HttpRouteMatch(HttpMatch):
    """Which requests a route takes."""

    scheme: Literal["http", "https"] | None = None

    @model_validator(mode="after")
    def _something(self) -> Self:
        # The API accepts a port alone (howto-multiple-listeners), though the Kubernetes controller's webhook does not.
        if self.prefix is None and self.path is None and self.port is None:
            raise ValueError("one of prefix, path and port is needed")
        return self


class GrpcMetadataMatch(HeaderMatch):
    """A gRPC metadata key that must match."""


class GrpcMatch(Shape):
    """What gRPC calls are told apart by."""

    service_name: Text | None = None
    metadata: Annotated[Items[GrpcMetadataMatch], Field(min_length=1, max_length=10)] | None = None
    port: Port | None = None


class GrpcRouteMatch(GrpcMatch):
    """Which calls a route takes."""

    method_name: Annotated[str, StringConstraints(min_length=1, max_length=50)] | None = None

    @model_validator(mode="after")
    def _method_of_a_service(self) -> Self:
        if self.method_name is not None and self.service_name is None:
            raise ValueError("methodName needs serviceName")
        return self


class TcpRouteMatch(Shape):
    """Which connections a route takes."""

    port: Port | None = None


class WeightedTarget(Shape):
    """A virtual node and its share of the traffic."""

    virtual_node: Name
    weight: Annotated[int, Field(ge=0, le=100)]
    port: Port | None = None


class RouteAction(Shape):
    """Where a route leads."""

    weighted_targets: Annotated[Items[WeightedTarget], Field(min_length=1, max_length=10)]


class HttpRetryPolicy(Shape):
    """When a request is tried again."""

    max_retries: Count
    per_retry_timeout: Duration
    http_retry_events: Annotated[Items[HttpRetryEvent], Field(min_length=1, max_length=25)] | None = None
    tcp_retry_events: Annotated[Items[Literal["connection-error"]], Field(min_length=1, max_length=1)] | None = None


class GrpcRetryPolicy(HttpRetryPolicy):
    """When a call is tried again."""

    grpc_retry_events: Annotated[Items[GrpcRetryEvent], Field(min_length=1, max_length=5)] | None = None


class HttpRoute(Shape):
    """A route of HTTP requests."""

    match: HttpRouteMatch
    action: RouteAction
    retry_policy: HttpRetryPolicy | None = None
    timeout: RequestTimeout | None = None


class GrpcRoute(Shape):
    """A route of gRPC calls."""

    match: GrpcRouteMatch
    action: RouteAction
    retry_policy: GrpcRetryPolicy | None = None
    timeout: RequestTimeout | None = None


class TcpRoute(Shape):
    """A route of TCP connections."""

    match: TcpRouteMatch | None = None
    action: RouteAction
    timeout: IdleTimeout | None = None


class RouteKinds(Shape):
    """A route: one of the kinds, and its priority."""

    priority: Priority | None = None

    @model_validator(mode="after")
    def _exactly_one_kind(self) -> Self:
        present = [name for name in type(self).model_fields if name != "priority" and getattr(self, name) is not None]
        if len(present) != 1:
            raise ValueError("exactly one of httpRoute, http2Route, grpcRoute (and, on a router, tcpRoute) is needed")
        return self


class RouteSpec(RouteKinds):
    """A route: priority 0 comes first, none comes last."""

    http_route: HttpRoute | None = None
    http2_route: HttpRoute | None = None
    grpc_route: GrpcRoute | None = None
    tcp_route: TcpRoute | None = None

    @property
    def route(self) -> HttpRoute | GrpcRoute | TcpRoute:
        """Return the one kind that is present."""
        route = self.http_route or self.http2_route or self.grpc_route or self.tcp_route
        assert route is not None  # noqa: S101 - the rule above, for the type checker
        return route

    @property
    def protocol(self) -> str:
        """Return the protocol of the kind that is present."""
        kinds = {"http": self.http_route, "http2": self.http2_route, "grpc": self.grpc_route, "tcp": self.tcp_route}
        return next(protocol for protocol, route in kinds.items() if route is not None)

    @property
    def targets(self) -> tuple[WeightedTarget, ...]:
        """Return where the route leads."""
        return self.route.action.weighted_targets

    @property
    def port(self) -> int | None:
        """Return the router port that the route is bound to, if any."""
        return self.route.match.port if self.route.match else None
