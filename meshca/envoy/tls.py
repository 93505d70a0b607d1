"""TLS contexts of listeners and clusters; all their secrets come over SDS.

Rules kept here (measured, design: what real Envoy does):
- Both session resumptions are off in every downstream context: a ticket lets a client with an expired leaf back in.
- A context that asks for a client certificate requires it.
- The validation context comes from SDS alone: Envoy unites the SANs of a default context with those from SDS.
- A secret is awaited for ever (`initial_fetch_timeout: 0s`): after a timeout Envoy would open the port and reset
  every connection.
"""

from __future__ import annotations

import functools
from typing import Any

from envoy.config.core.v3 import base_pb2, config_source_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2, tls_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.wrappers_pb2 import BoolValue

from meshca.envoy import wire
from meshca.envoy.names import DEFAULT
from meshca.envoy.resources import packed, serialised

TRANSPORT_SOCKET = "envoy.transport_sockets.tls"

HTTP1 = "http/1.1"
HTTP2 = "h2"

# Field numbers of TransportSocket, Any and UpstreamTlsContext.
_SOCKET_NAME, _TYPED_CONFIG = 1, 3
_ANY_TYPE, _ANY_VALUE = 1, 2
_UPSTREAM_COMMON, _UPSTREAM_SNI = 1, 2
_UPSTREAM_HEAD = wire.message(_SOCKET_NAME, TRANSPORT_SOCKET.encode())
_UPSTREAM_TYPE = wire.message(_ANY_TYPE, packed(tls_pb2.UpstreamTlsContext()).type_url.encode())

_OFFERED = {"http": (HTTP1,), "http2": (HTTP2,), "grpc": (HTTP2,), "tcp": ()}
_ACCEPTED = {"http": (HTTP2, HTTP1), "http2": (HTTP2,), "grpc": (HTTP2,), "tcp": ()}


@functools.cache
def ads_source() -> Any:
    """Return the config source of everything that comes over the one ADS stream."""
    return config_source_pb2.ConfigSource(
        ads=config_source_pb2.AggregatedConfigSource(),
        resource_api_version=config_source_pb2.ApiVersion.V3,
        initial_fetch_timeout=Duration(),
    )


@functools.lru_cache(maxsize=8192)
def downstream(protocol: str, context_name: str | None) -> Any:
    """Return the transport socket of a listener; a context name makes it mutual."""
    context = tls_pb2.DownstreamTlsContext(
        common_tls_context=_common(_ACCEPTED[protocol], context_name),
        disable_stateless_session_resumption=True,
        disable_stateful_session_resumption=True,
    )
    if context_name is not None:
        context.require_client_certificate.CopyFrom(BoolValue(value=True))
    return base_pb2.TransportSocket(name=TRANSPORT_SOCKET, typed_config=packed(context))


def upstream(protocol: str, context_name: str, sni: str) -> bytes:
    """Return the transport socket of a cluster; it validates the server and offers the node's own certificate.

    In its wire form, for it is each caller's own: only the SNI differs between callers of one service.
    """
    context = _upstream_common(protocol, context_name) + wire.message(_UPSTREAM_SNI, sni.encode())
    return _UPSTREAM_HEAD + wire.message(_TYPED_CONFIG, _UPSTREAM_TYPE + wire.message(_ANY_VALUE, context))


@functools.lru_cache(maxsize=8192)
def _upstream_common(protocol: str, context_name: str) -> bytes:
    return wire.message(_UPSTREAM_COMMON, serialised(_common(_OFFERED[protocol], context_name)))


@functools.lru_cache(maxsize=8192)
def _common(alpn: tuple[str, ...], context_name: str | None) -> Any:
    common = tls_pb2.CommonTlsContext(
        alpn_protocols=alpn,
        tls_params=_parameters(),
        tls_certificate_sds_secret_configs=[_secret(DEFAULT)],
    )
    if context_name is not None:
        common.validation_context_sds_secret_config.CopyFrom(_secret(context_name))
    return common


@functools.cache
def _parameters() -> Any:
    return common_pb2.TlsParameters(tls_minimum_protocol_version=common_pb2.TlsParameters.TLSv1_2)


def _secret(name: str) -> Any:
    return secret_pb2.SdsSecretConfig(name=name, sds_config=ads_source())
