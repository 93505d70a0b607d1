"""Discovery requests and responses as bytes.

Rules this module keeps:
- Requests are parsed by protobuf and checked here, once: size of names, number of names, type, node.
- Whoever isn't known yet can be heard, so a limit is looked at before the work that it bounds.
- Responses are joined from a few header bytes and the resources' own bytes; no resource is parsed, copied into a
  message or serialised again on its way to a stream.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from typing import Any

from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DiscoveryRequest
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError

from meshca.errors import InvalidInputError
from meshca.xds.messages import Request, Response
from meshca.xds.resource import Resource
from meshca.xds.source import NodeInfo

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
MAX_NAMES = 5_000
MAX_NAME_BYTES = 2_048  # SPIFFE-ID §2.3, the longest name there is a use for
MAX_METADATA_BYTES = 64 * 1024  # half a microsecond a byte to convert, on the event loop
_MAX_ERROR_CHARACTERS = 4_096
_WHOLE = "send one whole envoy.service.discovery.v3 request"


class BadRequestError(InvalidInputError):
    """A discovery request that can't be taken."""


def parse(raw: bytes, types: frozenset[str], *, delta: bool) -> tuple[Request, Any]:
    """Return a request and its ``Node`` message.

    Raises:
        BadRequestError: it is no discovery request, or breaks a limit.
    """
    try:
        message = DeltaDiscoveryRequest.FromString(raw) if delta else DiscoveryRequest.FromString(raw)
    except DecodeError as error:
        raise BadRequestError("the message is not a discovery request", remedy=_WHOLE) from error
    return _request(message, _type_url(message.type_url, types), delta=delta), message.node


def node_info(node: Any) -> NodeInfo:
    """Return what a ``Node`` message says.

    Raises:
        BadRequestError: its id is too long, or its metadata too large.
    """
    if len(node.id.encode()) > MAX_NAME_BYTES:
        raise BadRequestError(f"node.id is longer than {MAX_NAME_BYTES} bytes", field="node.id", value=node.id)
    if node.HasField("metadata") and node.metadata.ByteSize() > MAX_METADATA_BYTES:
        raise BadRequestError(f"node.metadata is longer than {MAX_METADATA_BYTES} bytes", field="node.metadata")
    agent = f"{node.user_agent_name}/{node.user_agent_version}" if node.user_agent_version else node.user_agent_name
    return NodeInfo(node.id, node.cluster, agent, MessageToDict(node.metadata) if node.HasField("metadata") else {})


def require_names(count: int) -> None:
    """Raise unless a client may ask for so many names of one type.

    Raises:
        BadRequestError: it may not.
    """
    if count > MAX_NAMES:
        raise BadRequestError(
            f"{count} resource names; at most {MAX_NAMES} are answered on one stream and type",
            field="resource_names",
            remedy="spread them over several streams",
        )


def sotw(type_url: str, response: Response) -> bytes:
    """Return a ``DiscoveryResponse``."""
    url, parts = _start(type_url, response)
    for resource in response.resources:
        head = url + _header(2, len(resource.body))
        parts += (_header(2, len(head) + len(resource.body)), head, resource.body)
    return b"".join(parts)


def delta(type_url: str, response: Response) -> bytes:
    """Return a ``DeltaDiscoveryResponse``."""
    url, parts = _start(type_url, response)
    parts += [_field(6, name.encode()) for name in response.removed]
    for resource in response.resources:
        parts += _delta_resource(url, resource)
    return b"".join(parts)


def _start(type_url: str, response: Response) -> tuple[bytes, list[bytes]]:
    in_any, in_response = _type_fields(type_url)
    return in_any, [_field(1, response.version.encode()), in_response, _field(5, response.nonce.encode())]


@cache
def _type_fields(type_url: str) -> tuple[bytes, bytes]:
    """Return the type as a field of ``Any`` and of a response; only types we serve get here."""
    return _field(1, type_url.encode()), _field(4, type_url.encode())


def _delta_resource(url: bytes, resource: Resource) -> tuple[bytes, ...]:
    size = len(resource.body)
    any_head = url + _header(2, size)
    head = _field(1, resource.version.encode()) + _field(3, resource.name.encode()) + _header(2, len(any_head) + size)
    return _header(2, len(head) + len(any_head) + size), head, any_head, resource.body


def _type_url(found: str, types: frozenset[str]) -> str:
    if found in types:
        return found
    if not found and len(types) == 1:
        return next(iter(types))  # implied by the service
    raise BadRequestError(
        "unknown resource type", field="type_url", value=found, remedy=f"ask for {', '.join(sorted(types))}"
    )


def _request(message: Any, type_url: str, *, delta: bool) -> Request:
    error = message.error_detail.message[:_MAX_ERROR_CHARACTERS] if message.HasField("error_detail") else None
    if not delta:
        return Request(type_url, message.response_nonce, error, _names(message.resource_names))
    held = message.initial_resource_versions
    _names(held)
    return Request(
        type_url,
        message.response_nonce,
        error,
        _names(message.resource_names_subscribe),
        _names(message.resource_names_unsubscribe),
        dict(held),
    )


def _names(names: Collection[str]) -> frozenset[str]:
    require_names(len(names))
    found = frozenset(names)
    for name in found:
        if len(name) > MAX_NAME_BYTES or len(name.encode()) > MAX_NAME_BYTES:
            raise BadRequestError(
                f"a resource name is longer than {MAX_NAME_BYTES} bytes",
                field="resource_names",
                value=name,
                remedy="use a shorter one",
            )
    return found


def _field(number: int, value: bytes) -> bytes:
    return _header(number, len(value)) + value


def _header(number: int, size: int) -> bytes:
    """Return tag and length of a length-delimited field (protobuf encoding, wire type 2)."""
    head = bytearray((number << 3 | 2,))
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head)
