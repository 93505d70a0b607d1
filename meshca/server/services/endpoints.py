"""Endpoints: where nodes are that no DNS finds."""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import Mapping, Sequence
from typing import Any

from meshca.authority import audit
from meshca.authority.audit import OK, AuditEntry
from meshca.envoy.snapshot import Endpoint
from meshca.errors import InvalidInputError
from meshca.mesh.model import VIRTUAL_NODE, ObjectKey
from meshca.mesh.noderef import parse_node_id
from meshca.server.parts import Parts
from meshca.server.services.calls import Unary
from meshca.store.endpoints import MOST, shown
from meshca.v1 import admin_pb2 as pb

_PORT = re.compile(r"[1-9][0-9]{0,4}")
_MAX_PORT = 65535
_LONGEST = 64
_NAMED = 10  # in the audit log


class EndpointService:
    """What people do with endpoints."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def calls(self) -> Mapping[str, Unary]:
        """Return the methods by the names of the API."""
        return {"AddEndpoints": self.add, "RemoveEndpoints": self.remove, "ListEndpoints": self.list}

    async def add(self, request: Any, actor: str) -> Any:
        """Add addresses at which a node is to be found."""
        node = self._node(request.node)
        endpoints = parse_endpoints(request.addresses)
        entry = _entry(audit.ADD_ENDPOINTS, node, endpoints, actor)
        house = self._parts.house
        await asyncio.to_thread(house.endpoints.add, node, endpoints, house.clock.now(), entry)
        return await self._changed(node)

    async def remove(self, request: Any, actor: str) -> Any:
        """Remove some of them; the node may be gone from its mesh."""
        reference = parse_node_id(request.node)
        node = reference.key if reference is not None else self._node(request.node)
        endpoints = parse_endpoints(request.addresses)
        entry = _entry(audit.REMOVE_ENDPOINTS, node, endpoints, actor)
        await asyncio.to_thread(self._parts.house.endpoints.remove, node, endpoints, entry)
        return await self._changed(node)

    async def list(self, request: Any, _: str) -> Any:
        """Return the endpoints of one node, or of all."""
        found = await asyncio.to_thread(self._parts.house.endpoints.load)
        if request.node:
            node = self._node(request.node)
            return _reply({node: found.get(node, ())})
        return _reply(found)

    async def _changed(self, node: ObjectKey) -> Any:
        await self._parts.state.endpoints_changed()
        found = await asyncio.to_thread(self._parts.house.endpoints.load)
        return _reply({node: found.get(node, ())})

    def _node(self, text: str) -> ObjectKey:
        node = self._parts.state.snapshot.mesh.identities.resolve(text)
        if node.kind != VIRTUAL_NODE:
            raise InvalidInputError("a gateway is called by nobody in the mesh", field="NODE", value=text)
        return node


def parse_endpoints(texts: Sequence[str]) -> tuple[Endpoint, ...]:
    """Read ADDRESS, ADDRESS:PORT or [ADDRESS]:PORT; each one once.

    Raises:
        InvalidInputError: one of them is none, or there are none, or more than a node may have.
    """
    if not 1 <= len(texts) <= MOST:
        raise InvalidInputError(f"1 to {MOST} endpoints at a time", field="ADDRESS", value=f"{len(texts)} of them")
    return tuple(dict.fromkeys(map(parse_endpoint, texts)))


def parse_endpoint(text: str) -> Endpoint:
    """Read one endpoint.

    Raises:
        InvalidInputError: it is none.
    """
    host, port = _split(text) if len(text) <= _LONGEST else (text, None)
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise InvalidInputError(
            "is no IP address",
            field="ADDRESS",
            value=text[:_LONGEST],
            remedy="ADDRESS, ADDRESS:PORT or [ADDRESS]:PORT; for a host name use serviceDiscovery.dns",
        ) from None
    if address.is_unspecified or address.is_multicast or getattr(address, "scope_id", None):
        raise InvalidInputError("is no address of one host", field="ADDRESS", value=text)
    if port is not None and (not _PORT.fullmatch(port) or int(port) > _MAX_PORT):
        raise InvalidInputError(f"a port is a number from 1 to {_MAX_PORT}", field="ADDRESS", value=text)
    return str(address), None if port is None else int(port)


def _split(text: str) -> tuple[str, str | None]:
    """Split host and port; an IPv6 address with a port needs brackets (RFC 3986 §3.2.2)."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            return text, None  # no address either
        return host, rest[1:] if rest else None
    if text.count(":") == 1:
        host, _, port = text.partition(":")
        return host, port
    return text, None


def _entry(action: str, node: ObjectKey, endpoints: Sequence[Endpoint], actor: str) -> AuditEntry:
    several = f" and {len(endpoints) - _NAMED} more" if len(endpoints) > _NAMED else ""
    return AuditEntry(action, str(node), OK, " ".join(map(shown, endpoints[:_NAMED])) + several, actor)


def _reply(found: Mapping[ObjectKey, Sequence[Endpoint]]) -> Any:
    return pb.EndpointsReply(
        endpoints=[
            pb.Endpoint(node_id=str(node), address=address, port=port or 0)
            for node, endpoints in found.items()
            for address, port in endpoints
        ]
    )
