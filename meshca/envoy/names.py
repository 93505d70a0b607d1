"""The names that Envoy, dashboards and the delivery of secrets share.

Rules kept here:
- Resources are called what App Mesh called them, because dashboards and runbooks look for these names.
- SDS names are a superset of SPIRE's, so that configurations written for SPIRE work unchanged.
- A scope names one counter of drains: whoever raises it ends the connections whose names or metadata carry it.
"""

from __future__ import annotations

import functools
import hashlib
import re
from dataclasses import dataclass

from meshca.errors import InvalidInputError
from meshca.spiffe.id import SpiffeId, TrustDomain

DEFAULT = "default"
ROOTCA = "ROOTCA"
ALL = "ALL"
CLIENTS = "clients"
SDS_CLUSTER = "static_cluster_sds_unix_socket"
XDS_CLUSTER = "meshca_xds"

MAX_SECRET_NAME = 4096

_CLIENTS_PREFIX = "clients:"
_CLIENT_PREFIX = "client:"
_SERVERS_PREFIX = "servers:"
_SPIFFE_PREFIX = "spiffe://"
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_MAX_PORT = 65535
_SNI_DIGITS = 32
_SNI_SUFFIX = ".client.meshca"
NO_SNI = "-" * _SNI_DIGITS + _SNI_SUFFIX
"""As long as every SNI, and nobody's."""


class SecretNameError(InvalidInputError):
    """The text is not a name under which SDS serves anything."""


@dataclass(frozen=True, slots=True)
class Default:
    """``default``: the caller's own SVID."""


@dataclass(frozen=True, slots=True)
class Svid:
    """``spiffe://<td>/<path>``: that SVID."""

    spiffe_id: SpiffeId


@dataclass(frozen=True, slots=True)
class Roots:
    """``spiffe://<td>``, or ``ROOTCA`` (no trust domain: our own): roots and CRLs without any SAN."""

    trust_domain: TrustDomain | None


@dataclass(frozen=True, slots=True)
class All:
    """``ALL``: SPIFFE validator over own and federated trust domains."""


@dataclass(frozen=True, slots=True)
class Clients:
    """``clients`` or ``clients:<port>``: every client that policy admits to the caller's own listener."""

    port: int | None


@dataclass(frozen=True, slots=True)
class Client:
    """``client:<SPIFFE ID>``: one admitted client alone."""

    spiffe_id: SpiffeId


@dataclass(frozen=True, slots=True)
class Servers:
    """``servers:<virtual service>``: the servers that the caller's policy admits for a backend."""

    service: str


SecretName = Default | Svid | Roots | All | Clients | Client | Servers


@functools.lru_cache(maxsize=8192)  # few enough for names as long as they may be, which anybody may ask for
def parse_secret_name(text: str) -> SecretName:
    """Return what an SDS name asks for.

    Raises:
        SecretNameError: nothing is served under such a name.
        IdentityError: it names a SPIFFE ID that breaks a rule.
    """
    if len(text) > MAX_SECRET_NAME:
        raise SecretNameError(f"a secret name has at most {MAX_SECRET_NAME} characters", field="name", value=text)
    if text in _FIXED:
        return _FIXED[text]
    if text.lower().startswith(_SPIFFE_PREFIX):
        named = SpiffeId.parse(text)
        return Svid(named) if named.path else Roots(named.trust_domain)
    if text.startswith(_CLIENT_PREFIX):
        return Client(SpiffeId.parse(text.removeprefix(_CLIENT_PREFIX)))
    if text.startswith(_CLIENTS_PREFIX):
        return Clients(_port(text))
    if text.startswith(_SERVERS_PREFIX) and text != _SERVERS_PREFIX:
        return Servers(text.removeprefix(_SERVERS_PREFIX))
    raise SecretNameError(
        "no secret has such a name",
        field="name",
        value=text,
        remedy="ask for default, ROOTCA, ALL, spiffe://…, clients, clients:<port>, client:<SPIFFE ID> or "
        "servers:<virtual service>",
    )


def clients_name(port: int | None) -> str:
    """Return the SDS name of the context that admits every client of the caller's own listener."""
    return CLIENTS if port is None else f"{_CLIENTS_PREFIX}{port}"


def client_name(client: SpiffeId) -> str:
    """Return the SDS name of the context that admits this client alone."""
    return f"{_CLIENT_PREFIX}{client}"


def servers_name(service: str) -> str:
    """Return the SDS name of the context that admits the servers of a backend."""
    return f"{_SERVERS_PREFIX}{service}"


@functools.lru_cache(maxsize=65536)
def sni_for(client: SpiffeId) -> str:
    """Return the SNI that selects this client's own filter chain; a host name, whatever the ID's length."""
    return f"{hashlib.sha256(str(client).encode()).hexdigest()[:_SNI_DIGITS]}{_SNI_SUFFIX}"


def identity_scope(identity: SpiffeId) -> str:
    """Return the drain scope of everything that this identity speaks, as client and as server."""
    return f"identity:{identity}"


def listener_scope(server: SpiffeId, port: int) -> str:
    """Return the drain scope of a server's listener: raised where its admitted clients become fewer."""
    return f"listener:{server}|{port}"


def backend_scope(client: SpiffeId, service: str) -> str:
    """Return the drain scope of one backend: raised where the servers that a client admits become fewer."""
    return f"backend:{client}|{service}"


def ingress_listener(host: str, port: int) -> str:
    """Return App Mesh's name of an ingress listener."""
    return f"lds_ingress_{host}_{port}"


def egress_listener(host: str, port: int) -> str:
    """Return App Mesh's name of an egress listener."""
    return f"lds_egress_{host}_{port}"


def ingress_routes(port: int) -> str:
    """Return App Mesh's name of the route table of an ingress listener."""
    return f"rds_ingress_http_{port}"


def egress_routes(port: int) -> str:
    """Return App Mesh's name of the route table of an egress port."""
    return f"rds_egress_http_{port}"


def ingress_cluster(mesh: str, node: str, protocol: str, port: int) -> str:
    """Return App Mesh's name of the cluster that leads to the node's own application."""
    return f"cds_ingress_{mesh}_{node}_{protocol}_{port}"


def egress_cluster(mesh: str, node: str, protocol: str, port: int) -> str:
    """Return App Mesh's name of the cluster that leads to another node."""
    return f"cds_egress_{mesh}_{node}_{protocol}_{port}"


def anywhere_cluster(mesh: str) -> str:
    """Return App Mesh's name of the cluster that leads where an intercepted connection was going (ALLOW_ALL)."""
    return f"cds_egress_{mesh}_mesh-allow-all"


_FIXED: dict[str, SecretName] = {
    DEFAULT: Default(),
    ROOTCA: Roots(None),
    ALL: All(),
    CLIENTS: Clients(None),
}


def _port(text: str) -> int:
    digits = text.removeprefix(_CLIENTS_PREFIX)
    # fullmatch on ASCII digits: int() would also take "+80", " 80" and other scripts' digits.
    if not _PORT.fullmatch(digits) or int(digits) > _MAX_PORT:
        raise SecretNameError("the port is a number from 1 to 65535", field="name", value=text)
    return int(digits)
