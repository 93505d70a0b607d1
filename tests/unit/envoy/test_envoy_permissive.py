from __future__ import annotations

from typing import Any

import pytest
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy_meshes import client, messages, mutual, server, service, snapshot, unpacked


def _listener(mode: str, protocol: str = "http", names: tuple[str, ...] | None = ()) -> Any:
    blue = server("blue", protocol, tls=mutual(mode, names))
    found = messages(snapshot(blue, service("color", node="blue"), client("front", "color")), "blue")
    return found["lds_ingress_0.0.0.0_9080"]


@pytest.mark.parametrize("protocol", ["http", "http2", "grpc", "tcp"])
def test_permissive_is_strict_and_one_chain_for_plaintext(protocol: str) -> None:
    strict, permissive = _listener("STRICT", protocol), _listener("PERMISSIVE", protocol)
    assert permissive.filter_chains[:-1] == strict.filter_chains[:]
    plain = permissive.filter_chains[-1]
    assert plain.name == "plaintext:9080#0"
    assert plain.filter_chain_match.transport_protocol == "raw_buffer"
    assert not plain.HasField("transport_socket")
    # Else Envoy would replace the listener, and cut its streams, instead of changing it in place.
    del permissive.filter_chains[-1]
    assert permissive == strict


def test_plaintext_is_checked_by_nobody_and_passes_no_identity_on() -> None:
    plain = _listener("PERMISSIVE").filter_chains[-1]
    manager = unpacked(plain.filters[0].typed_config, http_connection_manager_pb2.HttpConnectionManager)
    assert [one.name for one in manager.http_filters] == ["envoy.filters.http.router"]
    assert manager.forward_client_cert_details == manager.SANITIZE


def test_without_validation_there_are_two_chains() -> None:
    names = [one.name for one in _listener("PERMISSIVE", names=None).filter_chains]
    assert names == ["anyone:9080#0", "plaintext:9080#0"]


@pytest.mark.parametrize(("protocol", "waits"), [("http", True), ("tcp", False)])
def test_a_tcp_server_may_speak_first(protocol: str, waits: bool) -> None:
    listener = _listener("PERMISSIVE", protocol)
    assert listener.continue_on_listener_filters_timeout is not waits
    assert listener.HasField("listener_filters_timeout") is not waits
