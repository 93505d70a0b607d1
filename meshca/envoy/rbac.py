"""Who may send requests, checked again for each request and each TCP connection.

Rules kept here:
- The filter itself denies everybody; the virtual host, which comes by RDS, names who is allowed. So a changed
  admission is in force on open connections without touching a listener, and a lost override denies.
- Principals are exact URI SANs. Nobody admitted is an ALLOW without policies, which Envoy reads as deny
  (envoy.config.rbac.v3.RBAC, action ALLOW).
"""

from __future__ import annotations

import functools
from collections.abc import Collection
from typing import Any

from envoy.config.listener.v3 import listener_components_pb2
from envoy.config.rbac.v3 import rbac_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_rbac_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.filters.network.rbac.v3 import rbac_pb2 as network_rbac_pb2
from envoy.type.matcher.v3 import string_pb2

from meshca.envoy.resources import packed
from meshca.spiffe.id import SpiffeId

HTTP_FILTER = "envoy.filters.http.rbac"
NETWORK_FILTER = "envoy.filters.network.rbac"
_POLICY = "admitted"


@functools.cache
def http_filter() -> Any:
    """Return the HTTP filter that denies whatever no virtual host allows."""
    return http_connection_manager_pb2.HttpFilter(
        name=HTTP_FILTER, typed_config=packed(http_rbac_pb2.RBAC(rules=_rules(())))
    )


def http_override(clients: Collection[SpiffeId]) -> Any:
    """Return what a virtual host says to the HTTP filter: these clients, and nobody else."""
    return packed(http_rbac_pb2.RBACPerRoute(rbac=http_rbac_pb2.RBAC(rules=_rules(clients))))


def network_filter(clients: Collection[SpiffeId], stat_prefix: str) -> Any:
    """Return the network filter that admits the connections of these clients, and of nobody else."""
    rbac = network_rbac_pb2.RBAC(rules=_rules(clients), stat_prefix=stat_prefix)
    return listener_components_pb2.Filter(name=NETWORK_FILTER, typed_config=packed(rbac))


def _rules(clients: Collection[SpiffeId]) -> Any:
    rules = rbac_pb2.RBAC(action=rbac_pb2.RBAC.ALLOW)
    if clients:
        rules.policies[_POLICY].CopyFrom(
            rbac_pb2.Policy(
                permissions=[rbac_pb2.Permission(any=True)],
                principals=[_principal(uri) for uri in sorted(map(str, clients))],
            )
        )
    return rules


@functools.lru_cache(maxsize=65536)
def _principal(uri: str) -> Any:
    matcher = string_pb2.StringMatcher(exact=uri)
    return rbac_pb2.Principal(authenticated=rbac_pb2.Principal.Authenticated(principal_name=matcher))
