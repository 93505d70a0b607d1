"""Documents for people: bootstrap, rendered and static configuration, and the command line that goes with them.

Rules kept here:
- What is rendered is decoded from the bytes that are or would be sent, never generated a second time.
- What is written here by hand passes through envoy-data-plane's types, which know each field: a typing error shows
  itself here, not in Envoy.
- The library takes its time to import, so that nothing here imports it before a document is asked for.
- The admin endpoint listens on loopback alone.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import yaml

from meshca.envoy.names import SDS_CLUSTER, XDS_CLUSTER
from meshca.envoy.placement import Placement
from meshca.envoy.resources import CLUSTER, ENDPOINTS, LISTENER, ROUTES, SECRET, Generated

Document = dict[str, Any]

DRAIN_ARGUMENTS = ("--drain-time-s", "1", "--drain-strategy", "immediate", "--parent-shutdown-time-s", "5")
"""Connections of a revoked peer end within this time and not after Envoy's default 600 s."""

_LIBRARY = "envoy_data_plane"
_SECTIONS = {CLUSTER: "clusters", ENDPOINTS: "endpoints", LISTENER: "listeners", ROUTES: "routes"}
_NESTED_TYPES = (
    "envoy.extensions.access_loggers.file.v3",
    "envoy.extensions.filters.http.rbac.v3",
    "envoy.extensions.filters.http.router.v3",
    "envoy.extensions.filters.listener.original_dst.v3",
    "envoy.extensions.filters.listener.tls_inspector.v3",
    "envoy.extensions.filters.network.http_connection_manager.v3",
    "envoy.extensions.filters.network.rbac.v3",
    "envoy.extensions.filters.network.tcp_proxy.v3",
    "envoy.extensions.retry.host.previous_hosts.v3",
    "envoy.extensions.transport_sockets.tls.v3",
    "envoy.extensions.upstreams.http.v3",
)
_PROTOCOL_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_TYPE_PREFIX = "type.googleapis.com/"


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """What one Envoy is started with."""

    node_id: str
    socket_path: str
    placement: Placement = field(default_factory=Placement)
    admin_port: int = 0


def bootstrap(start: Bootstrap) -> Document:
    """Return the bootstrap of an Envoy that gets everything else over ADS."""
    source = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
    document = {
        **_common(start),
        "dynamic_resources": {
            "lds_config": source,
            "cds_config": source,
            "ads_config": _grpc_source(XDS_CLUSTER),
        },
        "static_resources": {"clusters": [_pipe_cluster(XDS_CLUSTER, start.socket_path)]},
    }
    return _checked_bootstrap(document)


def static(resources: Sequence[Generated], start: Bootstrap) -> Document:
    """Return one complete configuration that runs without ADS; its secrets come from the socket by SDS."""
    rendered = render(resources)
    tables = {table["name"]: table for table in rendered["routes"]}
    assignments = {one["cluster_name"]: one for one in rendered["endpoints"]}
    for part in _dicts(rendered):
        if "sds_config" in part:
            part["sds_config"] = {
                "api_config_source": _grpc_source(SDS_CLUSTER),
                "resource_api_version": "V3",
                "initial_fetch_timeout": "0s",
            }
        if "rds" in part:
            part["route_config"] = tables[part.pop("rds")["route_config_name"]]
        if part.pop("eds_cluster_config", None) is not None:
            part.update(type="STATIC", load_assignment=assignments[part["name"]])
    document = _checked_bootstrap(
        {**_common(start), "static_resources": {"clusters": [_pipe_cluster(SDS_CLUSTER, start.socket_path)]}}
    )
    document["static_resources"]["clusters"] += rendered["clusters"]
    document["static_resources"]["listeners"] = rendered["listeners"]
    return document


def render(resources: Sequence[Generated]) -> dict[str, list[Document]]:
    """Return all resources as one document, decoded from their bytes."""
    rendered: dict[str, list[Document]] = {section: [] for section in _SECTIONS.values()}
    for resource in resources:
        rendered[_SECTIONS[resource.type_url]].append(decode(resource.type_url, resource.body))
    return rendered


def decode(type_url: str, body: bytes, *, reveal: bool = False) -> Document:
    """Return a resource as a document, with the extensions inside it decoded and named by ``@type``.

    A private key is left out, unless the caller asks to ``reveal`` it.
    """
    for nested in _NESTED_TYPES:
        _load(nested)
    package, _, name = type_url.removeprefix(_TYPE_PREFIX).rpartition(".")
    decoded = _as_document(getattr(_load(package), name).parse(body))
    if type_url == SECRET and not reveal:
        decoded.get("tls_certificate", {}).pop("private_key", None)
    return decoded


def command_line(configuration: str) -> list[str]:
    """Return how to start Envoy: revocation keeps its promise only with these drain flags."""
    return ["envoy", "--config-path", configuration, *DRAIN_ARGUMENTS]


def as_yaml(document: Document) -> str:
    """Return a document as a person reads it."""
    return yaml.safe_dump(document, sort_keys=False, default_flow_style=False, width=120)


def _checked_bootstrap(document: Document) -> Document:
    _load("envoy.extensions.upstreams.http.v3")
    return _as_document(_load("envoy.config.bootstrap.v3").Bootstrap.from_dict(document))


def _as_document(message: Any) -> Document:
    # The library's own casings turn consecutive_5xx into consecutive_5_xx; its attributes have the names as written.
    document: Document = message.to_dict(casing=str)
    return document


def _load(package: str) -> ModuleType:
    """Import the types of a package, which also makes them known inside extension points."""
    with warnings.catch_warnings():
        # The generated classes use a form of validator that pydantic 2.12 deprecates.
        warnings.simplefilter("ignore", DeprecationWarning)
        return importlib.import_module(f"{_LIBRARY}.{package}")


def _common(start: Bootstrap) -> Document:
    return {
        "node": {"id": start.node_id, "cluster": start.node_id, "metadata": start.placement.metadata()},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": start.admin_port}}},
        "layered_runtime": {
            "layers": [
                {"name": "static_layer_0", "static_layer": {"re2.max_program_size.error_level": 1000}},
                {"name": "admin_layer", "admin_layer": {}},
            ]
        },
    }


def _grpc_source(cluster: str) -> Document:
    # Back within 0.6 s of the server's return, instead of up to 15 s (measured).
    back_off = {"retry_back_off": {"base_interval": "0.1s", "max_interval": "1s"}}
    return {
        "api_type": "GRPC",
        "transport_api_version": "V3",
        "set_node_on_first_message_only": True,
        "grpc_services": [{"envoy_grpc": {"cluster_name": cluster, "retry_policy": back_off}}],
    }


def _pipe_cluster(name: str, socket_path: str) -> Document:
    keepalive = {"connection_keepalive": {"interval": "10s", "timeout": "20s"}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            _PROTOCOL_OPTIONS: {
                "@type": _TYPE_PREFIX + _PROTOCOL_OPTIONS,
                "explicit_http_config": {"http2_protocol_options": keepalive},
            }
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": socket_path}}}}]}],
        },
    }


def _dicts(part: Any) -> Iterator[Document]:
    """Yield every object inside a document, outermost first; a yielded one may be changed."""
    if isinstance(part, dict):
        yield part
        part = list(part.values())
    if isinstance(part, list):
        for inner in part:
            yield from _dicts(inner)
