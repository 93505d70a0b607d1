"""Envoys: what is connected, and what a node would be sent."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from meshca.delivery.callers import Caller, as_node
from meshca.delivery.naming import WantedLeaf, all_names, resolve
from meshca.envoy import wire
from meshca.envoy.placement import METADATA_KEY, placement_of
from meshca.errors import InvalidInputError
from meshca.server.parts import Parts
from meshca.server.services.calls import Unary
from meshca.v1 import admin_pb2 as pb
from meshca.xds.resource import SDS

_SECRET_NAME = 1  # field of envoy.extensions.transport_sockets.tls.v3.Secret


class EnvoyService:
    """What people ask about Envoys."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def calls(self) -> Mapping[str, Unary]:
        """Return the methods by the names of the API."""
        return {"ListStreams": self.streams, "Render": self.render}

    async def streams(self, _: Any, __: str) -> Any:
        """Return one row for each stream and type."""
        return pb.ListStreamsReply(streams=[_stream(row) for row in self._parts.streams.rows()])

    async def render(self, request: Any, _: str) -> Any:
        """Return all that a node would be sent, without private keys."""
        snapshot, desk = self._parts.state.snapshot, self._parts.desk
        node = snapshot.mesh.identities.resolve(request.node)
        caller = as_node(snapshot.mesh.identities.of(node), node)
        by_type = desk.generated.get(node, placement_of(_metadata(request.placement)), snapshot)
        resources = [found for kind in by_type.values() for found in kind.values()]
        sent = [pb.Resource(type_url=r.type_url, name=r.name, body=r.body) for r in resources]
        return pb.RenderReply(node_id=str(node), resources=[*sent, *self._secrets(caller)])

    def _secrets(self, caller: Caller) -> Iterator[Any]:
        snapshot, desk = self._parts.state.snapshot, self._parts.desk
        for name in sorted(all_names(caller, snapshot)):
            wanted = resolve(name, caller, snapshot)
            if isinstance(wanted, WantedLeaf):
                body = wire.message(_SECRET_NAME, name.encode())
            else:
                body = desk.contexts.get(wanted, snapshot.trust, snapshot.federated).body
            yield pb.Resource(type_url=SDS, name=name, body=body)


def _metadata(text: str) -> dict[str, object]:
    if not text:
        return {}
    try:
        return {METADATA_KEY: json.loads(text)}
    except ValueError as error:
        raise InvalidInputError("not JSON", field="placement") from error


def _stream(row: Any) -> Any:
    message = pb.Stream(
        node_id=row.node_id,
        spiffe_id=row.spiffe_id,
        type_url=row.type_url,
        version_sent=row.version_sent,
        version_acked=row.version_acked,
        nack=row.nack,
    )
    message.connected_since.FromDatetime(row.connected_since)
    return message
