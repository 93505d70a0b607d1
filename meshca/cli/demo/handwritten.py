"""Envoy configurations as a person writes them who comes from SPIRE: secrets by name from one socket, no ADS."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

Address = tuple[str, int]

_TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3."
_HTTP = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_HCM = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"


def server(node_id: str, socket: Path, at: Address, certificate: str, validation: str) -> str:
    """Return an Envoy that answers over mTLS and says in `x-peer` who called."""
    context = {
        "@type": _TLS + "DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": _common(certificate, validation),
    }
    reply = {"status": 200, "body": {"inline_string": "ok"}}
    peer = {"header": {"key": "x-peer", "value": "%DOWNSTREAM_PEER_URI_SAN%"}}
    route = {"match": {"prefix": "/"}, "direct_response": reply, "response_headers_to_add": [peer]}
    return _bootstrap(node_id, socket, [_listener(at, route, _socket(context))], [])


def client(node_id: str, socket: Path, at: Address, to: Address, secrets: tuple[str, str]) -> str:
    """Return an Envoy that takes plain HTTP and calls ``to`` over mTLS, one handshake a request."""
    context = {"@type": _TLS + "UpstreamTlsContext", "common_tls_context": _common(*secrets)}
    cluster = {
        "name": "backend",
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": "backend", "endpoints": [{"lb_endpoints": [_endpoint(to)]}]},
        "transport_socket": _socket(context),
        # A pool would hide a failing handshake behind a connection that is already open.
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": _HTTP,
                "common_http_protocol_options": {"max_requests_per_connection": 1},
                "explicit_http_config": {"http_protocol_options": {}},
            }
        },
    }
    route = {"match": {"prefix": "/"}, "route": {"cluster": "backend", "timeout": "3s"}}
    return _bootstrap(node_id, socket, [_listener(at, route, None)], [cluster])


def _common(certificate: str, validation: str) -> dict[str, Any]:
    return {
        "tls_certificate_sds_secret_configs": [_sds(certificate)],
        "validation_context_sds_secret_config": _sds(validation),
    }


def _sds(name: str) -> dict[str, Any]:
    # As docs/sds.md advises: without it, Envoy is away for up to half a minute after the server has been.
    back_off = {"retry_back_off": {"base_interval": "0.1s", "max_interval": "1s"}}
    source = {
        "api_type": "GRPC",
        "transport_api_version": "V3",
        "grpc_services": [{"envoy_grpc": {"cluster_name": "meshca", "retry_policy": back_off}}],
    }
    return {"name": name, "sds_config": {"resource_api_version": "V3", "api_config_source": source}}


def _socket(context: dict[str, Any]) -> dict[str, Any]:
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


def _listener(at: Address, route: dict[str, Any], transport: dict[str, Any] | None) -> dict[str, Any]:
    manager = {
        "@type": _HCM,
        "stat_prefix": "http",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": _ROUTER}}],
    }
    chain: dict[str, Any] = {
        "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    }
    if transport:
        chain["transport_socket"] = transport
    return {"name": "main", "address": _address(at), "filter_chains": [chain]}


def _address(at: Address) -> dict[str, Any]:
    return {"socket_address": {"address": at[0], "port_value": at[1]}}


def _endpoint(at: Address) -> dict[str, Any]:
    return {"endpoint": {"address": _address(at)}}


def _bootstrap(node_id: str, socket: Path, listeners: list[dict[str, Any]], clusters: list[dict[str, Any]]) -> str:
    pipe = {"endpoint": {"address": {"pipe": {"path": str(socket)}}}}
    meshca = {
        "name": "meshca",
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": "meshca", "endpoints": [{"lb_endpoints": [pipe]}]},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": _HTTP,
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
    }
    # JSON is YAML.
    return json.dumps(
        {
            "node": {"id": node_id, "cluster": "handwritten"},
            "admin": {"address": _address(("127.0.0.1", 0))},
            "static_resources": {"listeners": listeners, "clusters": [meshca, *clusters]},
        }
    )
