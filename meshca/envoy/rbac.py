"""Who may send requests, checked again for each request and each TCP connection.

Rules kept here:
- The filter itself denies everybody; the virtual host, which comes by RDS, names who is allowed. So a changed
  admission is in force on open connections without touching a listener, and a lost override denies.
- Principals are exact URI SANs. Nobody admitted is an ALLOW without policies, which Envoy reads as deny
  (envoy.config.rbac.v3.RBAC, action ALLOW).
- Where clients of several trust domains are admitted, a certificate with IDs of two of them is nobody's (X509-SVID §2
  allows one). Measured: Envoy admits by any URI SAN, whoever signed it, RBAC looks at any, and applications read all of
  them in `x-forwarded-client-cert`; so a foreign CA could put one of our IDs beside its own.
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
from meshca.spiffe.id import SpiffeId, TrustDomain

HTTP_FILTER = "envoy.filters.http.rbac"
NETWORK_FILTER = "envoy.filters.network.rbac"
_POLICY = "admitted"


@functools.cache
def http_filter() -> Any:
    """Return the HTTP filter that denies whatever no virtual host allows."""
    return http_connection_manager_pb2.HttpFilter(
        name=HTTP_FILTER, typed_config=packed(http_rbac_pb2.RBAC(rules=_rules(())))
    )


def http_override(clients: Collection[SpiffeId], own: TrustDomain) -> Any:
    """Return what a virtual host says to the HTTP filter: these clients, and nobody else."""
    return packed(http_rbac_pb2.RBACPerRoute(rbac=http_rbac_pb2.RBAC(rules=_rules(clients, own))))


def network_filter(clients: Collection[SpiffeId], own: TrustDomain, stat_prefix: str) -> Any:
    """Return the network filter that admits the connections of these clients, and of nobody else."""
    rbac = network_rbac_pb2.RBAC(rules=_rules(clients, own), stat_prefix=stat_prefix)
    return listener_components_pb2.Filter(name=NETWORK_FILTER, typed_config=packed(rbac))


def _rules(clients: Collection[SpiffeId], *own: TrustDomain) -> Any:
    domains = frozenset({*own, *(client.trust_domain for client in clients)})
    rules = rbac_pb2.RBAC(action=rbac_pb2.RBAC.ALLOW)
    if clients:
        rules.policies[_POLICY].CopyFrom(
            rbac_pb2.Policy(
                permissions=[rbac_pb2.Permission(any=True)],
                principals=[_principal(client, domains) for client in sorted(clients, key=str)],
            )
        )
    return rules


@functools.lru_cache(maxsize=65536)
def _principal(client: SpiffeId, domains: frozenset[TrustDomain]) -> Any:
    principal = _authenticated(string_pb2.StringMatcher(exact=str(client)))
    others = sorted(domains - {client.trust_domain})
    if not others:
        return principal
    strange = (_authenticated(string_pb2.StringMatcher(prefix=f"{domain.id}/")) for domain in others)
    alone = [principal, *(rbac_pb2.Principal(not_id=one) for one in strange)]
    return rbac_pb2.Principal(and_ids=rbac_pb2.Principal.Set(ids=alone))


def _authenticated(name: Any) -> Any:
    return rbac_pb2.Principal(authenticated=rbac_pb2.Principal.Authenticated(principal_name=name))
