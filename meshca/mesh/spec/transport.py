"""Ports, health checks, timeouts, pools, discovery and logs, as nodes and gateways use them."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from meshca.mesh.spec.base import AtLeastOne, Count, HostName, Items, OneOf, Port, Shape, ShortText

Protocol = Literal["http", "http2", "grpc", "tcp"]
GatewayProtocol = Literal["http", "http2", "grpc"]
IpPreference = Literal["IPv6_PREFERRED", "IPv4_PREFERRED", "IPv4_ONLY", "IPv6_ONLY"]


_LONGEST_DURATION = 315_576_000_000
_COMMAND = re.compile(r"%(?:%|[A-Z0-9_]+(?:\(.*?\))?(?::[0-9]+)?%)", re.DOTALL)
"""What Envoy reads in an access log's format: a command with arguments and a length, or a percent sign."""
"""Seconds that a protobuf Duration holds: 10,000 years."""


class Duration(Shape):
    """A time span; 0 disables what it limits."""

    unit: Literal["s", "ms"]
    value: Annotated[int, Field(ge=0, le=_LONGEST_DURATION)]

    @property
    def milliseconds(self) -> int:
        """Return the span in milliseconds."""
        return self.value * 1000 if self.unit == "s" else self.value


class PortMapping(Shape):
    """A port and what is spoken there."""

    port: Port
    protocol: Protocol


class GatewayPortMapping(Shape):
    """A gateway's port and what is spoken there; gateways have no tcp."""

    port: Port
    protocol: GatewayProtocol


class AnyHealthCheck(Shape):
    """What every health check has."""

    healthy_threshold: Annotated[int, Field(ge=2, le=10)]
    unhealthy_threshold: Annotated[int, Field(ge=2, le=10)]
    interval_millis: Annotated[int, Field(ge=5000, le=300000)]
    timeout_millis: Annotated[int, Field(ge=2000, le=60000)]
    path: str | None = None
    port: Port | None = None


class HealthCheck(AnyHealthCheck):
    """An active health check of a node's listener."""

    protocol: Protocol


class GatewayHealthCheck(AnyHealthCheck):
    """An active health check of a gateway's listener."""

    protocol: GatewayProtocol


class RequestTimeout(Shape):
    """Timeouts of requests; a request has 15 s where nothing is said."""

    per_request: Duration | None = None
    idle: Duration | None = None


class IdleTimeout(Shape):
    """The idle timeout of a TCP connection."""

    idle: Duration | None = None


class ListenerTimeout(OneOf):
    """Timeouts, under the key of the listener's protocol."""

    http: RequestTimeout | None = None
    http2: RequestTimeout | None = None
    grpc: RequestTimeout | None = None
    tcp: IdleTimeout | None = None


class HttpPool(Shape):
    """Limits of an HTTP/1.1 pool."""

    max_connections: AtLeastOne
    max_pending_requests: AtLeastOne = 2147483647


class RequestPool(Shape):
    """Limits of an HTTP/2 or gRPC pool."""

    max_requests: AtLeastOne


class TcpPool(Shape):
    """Limits of a TCP pool."""

    max_connections: AtLeastOne


class ConnectionPool(OneOf):
    """Pool limits, under the key of the listener's protocol."""

    http: HttpPool | None = None
    http2: RequestPool | None = None
    grpc: RequestPool | None = None
    tcp: TcpPool | None = None


class GatewayConnectionPool(OneOf):
    """Pool limits of a gateway's listener."""

    http: HttpPool | None = None
    http2: RequestPool | None = None
    grpc: RequestPool | None = None


class OutlierDetection(Shape):
    """When a host that answers with server errors is left out, and for how long."""

    max_server_errors: Annotated[Count, Field(ge=1)]
    interval: Duration
    base_ejection_duration: Duration
    max_ejection_percent: Annotated[int, Field(ge=0, le=100)]


class DnsDiscovery(Shape):
    """Find a node by DNS."""

    hostname: HostName
    response_type: Literal["LOADBALANCER", "ENDPOINTS"] = "LOADBALANCER"
    ip_preference: IpPreference | None = None


class CloudMapAttribute(Shape):
    """An attribute that an instance in Cloud Map must have."""

    key: Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[!-~]+$")]
    value: Annotated[str, StringConstraints(min_length=1, max_length=1024)]


class CloudMapDiscovery(Shape):
    """Find a node in AWS Cloud Map."""

    namespace_name: HostName
    service_name: HostName
    attributes: Items[CloudMapAttribute] = ()
    ip_preference: IpPreference | None = None


class ServiceDiscovery(OneOf):
    """How clients find a node."""

    dns: DnsDiscovery | None = None
    aws_cloud_map: CloudMapDiscovery | None = None


def _readable(text: str) -> str:
    if "%" in _COMMAND.sub("", text):
        raise ValueError("a percent sign here begins no command that Envoy could read; write %% for the sign itself")
    return text


def _is_log_path(text: str) -> str:
    if ".." in text.split("/") or not text.isprintable():
        raise ValueError("the path of a log has no segment '..' and no control character")
    return text


class JsonField(Shape):
    """One member of a JSON access log line."""

    key: Annotated[str, StringConstraints(min_length=1, max_length=100)]
    value: Annotated[str, StringConstraints(min_length=1, max_length=100), AfterValidator(_readable)]


class LogFormat(OneOf):
    """The form of an access log line."""

    text: Annotated[str, StringConstraints(min_length=1, max_length=1000), AfterValidator(_readable)] | None = None
    json_: Annotated[Items[JsonField] | None, Field(alias="json")] = None


class LogFile(Shape):
    """A file that access is logged to."""

    path: Annotated[ShortText, AfterValidator(_is_log_path)]
    format: LogFormat | None = None


class AccessLog(OneOf):
    """Where access is logged; App Mesh's union has the one member."""

    file: LogFile | None = None


class Logging(Shape):
    """Access logs."""

    access_log: AccessLog | None = None
