"""TCP proxies, and the loopback addresses at which a client finds its TCP backends.

Rules kept here:
- A TCP connection carries no host name, so each TCP service has an address of its own in 127.128.0.0/9, derived from
  its name; where two names meet, the later one (in name order) takes the next free address.
- An idle connection has 300 s where nothing is said; 0 disables.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Sequence
from typing import Any

from envoy.config.listener.v3 import listener_components_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2

from meshca.envoy.logs import access_log
from meshca.envoy.resources import packed
from meshca.envoy.routes import DEFAULT_IDLE_MS, Share, limit
from meshca.mesh.spec.transport import Duration, Logging

PROXY = "envoy.filters.network.tcp_proxy"

_FIRST = int(ipaddress.IPv4Address("127.128.0.1"))
_COUNT = 2**23 - 2


def addresses(services: Iterable[str], egress_host: str) -> dict[str, str]:
    """Return the loopback address of each TCP service of one client.

    Two clients on one machine have different egress hosts, and so different addresses for the same service.
    """
    found: dict[str, str] = {}
    taken: set[int] = set()
    for service in sorted(set(services)):
        slot = _slot(service if egress_host == "127.0.0.1" else f"{egress_host}|{service}")
        while slot in taken:
            slot = (slot + 1) % _COUNT
        taken.add(slot)
        found[service] = str(ipaddress.IPv4Address(_FIRST + slot))
    return found


def proxy(stat_prefix: str, shares: Sequence[Share], idle: Duration | None, logging: Logging | None) -> Any:
    """Return the network filter that copies bytes to clusters by weight, one of which must have any."""
    message = tcp_proxy_pb2.TcpProxy(
        stat_prefix=stat_prefix, idle_timeout=limit(idle, DEFAULT_IDLE_MS), access_log=access_log(logging)
    )
    if len(shares) == 1:
        message.cluster = shares[0].cluster
    else:
        for share in shares:
            if share.weight:  # TcpProxy demands weights of at least 1
                message.weighted_clusters.clusters.add(name=share.cluster, weight=share.weight)
    return listener_components_pb2.Filter(name=PROXY, typed_config=packed(message))


def _slot(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % _COUNT
