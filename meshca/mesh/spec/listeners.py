"""Listeners of nodes and gateways.

Rules kept here:
- A timeout or pool stands under the key of its listener's protocol.
- A health check asks its listener's own port.
"""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from meshca.mesh.spec.base import OneOf, Shape
from meshca.mesh.spec.tls import ListenerTls
from meshca.mesh.spec.transport import (
    AnyHealthCheck,
    ConnectionPool,
    GatewayConnectionPool,
    GatewayHealthCheck,
    GatewayPortMapping,
    HealthCheck,
    ListenerTimeout,
    OutlierDetection,
    PortMapping,
)


class AnyListener(Shape):
    """What every listener has; its health check asks its own port."""

    port_mapping: PortMapping | GatewayPortMapping
    health_check: AnyHealthCheck | None = None
    connection_pool: OneOf | None = None
    tls: ListenerTls | None = None

    @model_validator(mode="after")
    def _health_check_on_own_port(self) -> Self:
        if self.health_check is not None and self.health_check.port not in {None, self.port_mapping.port}:
            raise ValueError(f"healthCheck.port must equal portMapping.port {self.port_mapping.port}")
        return self

    @model_validator(mode="after")
    def _pool_of_own_protocol(self) -> Self:
        require_protocol("connectionPool", self.connection_pool, self.port_mapping.protocol)
        return self


class Listener(AnyListener):
    """A port of a virtual node."""

    port_mapping: PortMapping
    health_check: HealthCheck | None = None
    timeout: ListenerTimeout | None = None
    connection_pool: ConnectionPool | None = None
    outlier_detection: OutlierDetection | None = None

    @model_validator(mode="after")
    def _timeout_of_own_protocol(self) -> Self:
        require_protocol("timeout", self.timeout, self.port_mapping.protocol)
        return self


class GatewayListener(AnyListener):
    """A port of a virtual gateway."""

    port_mapping: GatewayPortMapping
    health_check: GatewayHealthCheck | None = None
    connection_pool: GatewayConnectionPool | None = None


def require_protocol(field: str, union: OneOf | None, protocol: str) -> None:
    """Raise unless a union that is keyed by protocol uses the listener's own."""
    if union is not None and union.chosen != protocol:
        raise ValueError(f"{field} is for {union.chosen}, but portMapping.protocol is {protocol}")
