"""HTTP routes with App Mesh's unwritten defaults.

Rules kept here:
- A request has 15 s where nothing is said, at the client and at the server alike; an idle stream 300 s; 0 disables.
- A table or virtual host is joined from the bytes of its parts, which callers of the same services share.
- Weights are relative. Where all of them are 0, and where a service has no provider, the answer is 503: Envoy refuses
  a total of 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from envoy.config.route.v3 import route_components_pb2
from google.protobuf.duration_pb2 import Duration as WireDuration
from google.protobuf.wrappers_pb2 import UInt32Value

from meshca.envoy import matches, wire
from meshca.envoy.resources import ROUTES, Generated, milliseconds, serialised
from meshca.mesh.spec.transport import Duration, RequestTimeout

DEFAULT_REQUEST_MS = 15_000
DEFAULT_IDLE_MS = 300_000

_ACTION = route_components_pb2.RouteAction
_UNAVAILABLE = 503
_TABLE_NAME, _TABLE_HOSTS = 1, 2  # fields of envoy.config.route.v3.RouteConfiguration


class Share(NamedTuple):
    """A cluster and its share of the requests."""

    cluster: str
    weight: int


def table(name: str, hosts: Sequence[bytes], rest: Any = None) -> Generated:
    """Return a route table; ``rest`` is a table that says all but name and hosts."""
    parts = [wire.message(_TABLE_NAME, name.encode()), *(wire.message(_TABLE_HOSTS, host) for host in hosts)]
    if rest is not None:
        parts.append(serialised(rest))
    return Generated(ROUTES, name, b"".join(parts))


def host(name: str, domains: Sequence[str], routes: Sequence[Any]) -> Any:
    """Return a virtual host."""
    return route_components_pb2.VirtualHost(name=name, domains=domains, routes=routes)


def everything() -> Any:
    """Return the match of every request."""
    return matches.message(matches.EVERYTHING)


def unavailable(matched: Any) -> Any:
    """Return a route that answers 503."""
    return answer(matched, _UNAVAILABLE)


def answer(matched: Any, status: int) -> Any:
    """Return a route that answers by itself."""
    return route_components_pb2.Route(
        match=matched, direct_response=route_components_pb2.DirectResponseAction(status=status)
    )


def forward(matched: Any, shares: Sequence[Share], timeout: RequestTimeout | None, retry: Any = None) -> Any:
    """Return a route to clusters by weight; without any weight it answers 503."""
    if not any(share.weight for share in shares):
        return unavailable(matched)
    action = _ACTION(
        timeout=limit(timeout.per_request if timeout else None, DEFAULT_REQUEST_MS),
        idle_timeout=limit(timeout.idle if timeout else None, DEFAULT_IDLE_MS),
        retry_policy=retry,
    )
    if len(shares) == 1:
        action.cluster = shares[0].cluster
    else:
        action.weighted_clusters.CopyFrom(_weighted(shares))
    return route_components_pb2.Route(match=matched, route=action)


def limit(written: Duration | None, default_ms: int) -> WireDuration:
    """Return a timeout as written, or the default; 0 disables it, for Envoy as for App Mesh."""
    return milliseconds(default_ms if written is None else written.milliseconds)


def _weighted(shares: Sequence[Share]) -> Any:
    return route_components_pb2.WeightedCluster(
        clusters=[
            route_components_pb2.WeightedCluster.ClusterWeight(
                name=share.cluster, weight=UInt32Value(value=share.weight)
            )
            for share in shares
        ]
    )
