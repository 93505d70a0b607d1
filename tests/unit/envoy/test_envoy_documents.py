from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from envoy_binary import require_valid
from envoy_meshes import client, message, mutual, node_key, route, router, server, service, snapshot
from envoy_pki import T0, Pki
from google.protobuf import json_format

from meshca.envoy import documents, secrets
from meshca.envoy.documents import Bootstrap
from meshca.envoy.generator import generate
from meshca.envoy.placement import Placement, placement_of
from meshca.envoy.resources import SECRET, Resources
from meshca.envoy.snapshot import Snapshot

START = Bootstrap("mesh/demo/virtualNode/front", "/run/meshca.sock", Placement.parse("127.0.0.1:15000", "127.0.0.2"))
NODES = ("blue", "calls-only", "db", "front", "g", "plain", "quiet")


@pytest.fixture(scope="module")
def mesh() -> Snapshot:
    """Return a mesh with every kind of listener, route and cluster that is generated."""
    log = {"accessLog": {"file": {"path": "/dev/stdout", "format": {"json": [{"key": "a", "value": "%PROTOCOL%"}]}}}}
    return snapshot(
        server("blue", "http", tls=mutual()),
        server("db", "tcp", 5432, mutual()),
        server("g", "grpc", 50051, mutual(names=None)),
        server("plain", "http2", 80),
        server("quiet", tls=mutual()),
        router("r"),
        route("r", "a", {"blue": 1, "quiet": 0}),
        route("r", "zero", {"blue": 0}, match={"prefix": "/zero"}),
        router("rt", "tcp", 5432),
        route("rt", "t", {"db": 1}, kind="tcpRoute"),
        router("rg", "grpc", 50051),
        route("rg", "t", {"g": 1}, kind="grpcRoute"),
        service("color", router="r"),
        service("db", router="rt"),
        service("g", router="rg"),
        service("p", node="plain"),
        service("blue", node="blue"),
        service("none"),
        client("front", "color", "db", "g", "p", "blue", "none", logging=log),
        client("calls-only", "color"),
    )


def _resources(mesh: Snapshot, node: str) -> Resources:
    return generate(node_key(node), mesh, Placement())


@pytest.mark.slow
@pytest.mark.parametrize("node", NODES)
def test_the_real_envoy_accepts_the_static_file_of_every_node(mesh: Snapshot, node: str, tmp_path: Path) -> None:
    document = documents.static(_resources(mesh, node), START)
    assert '"ads"' not in json.dumps(document)
    assert '"rds"' not in json.dumps(document)
    require_valid(document, tmp_path)


def test_the_real_envoy_accepts_the_bootstrap(tmp_path: Path) -> None:
    require_valid(documents.bootstrap(START), tmp_path)


@pytest.mark.parametrize("node", NODES)
def test_a_rendered_document_says_all_that_the_bytes_say(mesh: Snapshot, node: str) -> None:
    for resource in _resources(mesh, node):
        decoded = documents.decode(resource.type_url, resource.body)
        read_back = json_format.ParseDict(decoded, type(message(resource))())
        assert read_back.SerializeToString(deterministic=True) == resource.body


def test_a_rendered_document_has_a_section_for_each_type(mesh: Snapshot) -> None:
    rendered = documents.render(_resources(mesh, "blue"))
    assert {section: [one["name"] for one in found] for section, found in rendered.items()} == {
        "clusters": ["cds_ingress_demo_blue_http_9080"],
        "endpoints": [],
        "listeners": ["lds_ingress_0.0.0.0_9080"],
        "routes": ["rds_ingress_http_9080"],
    }
    socket = rendered["listeners"][0]["filter_chains"][0]["transport_socket"]["typed_config"]
    assert socket["@type"].endswith("DownstreamTlsContext")


def _find(part: Any, key: str) -> list[Any]:
    if isinstance(part, dict):
        here = [part[key]] if key in part else []
        return here + [one for value in part.values() for one in _find(value, key)]
    if isinstance(part, list):
        return [one for value in part for one in _find(value, key)]
    return []


def test_a_static_file_gets_its_secrets_from_the_socket(mesh: Snapshot) -> None:
    document = documents.static(_resources(mesh, "front"), START)
    sources = _find(document, "sds_config")
    assert sources
    for source in sources:
        assert source["initial_fetch_timeout"] == "0s"
        (service_,) = source["api_config_source"]["grpc_services"]
        assert service_["envoy_grpc"]["cluster_name"] == "static_cluster_sds_unix_socket"
    assert _find(document, "pipe") == [{"path": "/run/meshca.sock"}]


def test_the_bootstrap_waits_for_ever_and_comes_back_fast() -> None:
    document = documents.bootstrap(START)
    dynamic = document["dynamic_resources"]
    assert [dynamic[one]["initial_fetch_timeout"] for one in ("lds_config", "cds_config")] == ["0s", "0s"]
    ads = dynamic["ads_config"]
    assert ads["set_node_on_first_message_only"] is True
    back_off = ads["grpc_services"][0]["envoy_grpc"]["retry_policy"]["retry_back_off"]
    assert back_off == {"base_interval": "0.100s", "max_interval": "1s"}
    assert document["admin"]["address"]["socket_address"] == {"address": "127.0.0.1", "port_value": 0}
    assert placement_of(document["node"]["metadata"]) == START.placement


def test_the_command_line_drains_at_once() -> None:
    command = " ".join(documents.command_line("front.yaml"))
    assert command.startswith("envoy --config-path front.yaml ")
    assert "--drain-time-s 1 --drain-strategy immediate" in command


def test_yaml_reads_back_the_same() -> None:
    document = documents.bootstrap(START)
    assert yaml.safe_load(documents.as_yaml(document)) == document


def test_a_decoded_secret_shows_its_key_only_when_asked() -> None:
    pki = Pki()
    body = secrets.tls_certificate("default", *pki.svid("spiffe://m.test/a"), now=T0)
    assert "private_key" not in documents.decode(SECRET, body)["tls_certificate"]
    assert "private_key" in documents.decode(SECRET, body, reveal=True)["tls_certificate"]


def test_a_validation_context_decodes() -> None:
    pki = Pki()
    body = secrets.validation_context("clients", secrets.Anchors(pki.bundle, pki.crls), ["spiffe://m.test/a"], now=T0)
    matchers = documents.decode(SECRET, body)["validation_context"]["match_typed_subject_alt_names"]
    assert matchers == [{"san_type": "URI", "matcher": {"exact": "spiffe://m.test/a"}}]
