"""`envoy bootstrap` and `envoy render`: whole files, decoded from what the server would send."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import yaml
from envoy.config.cluster.v3 import cluster_pb2
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from fakes.admin import NODE

from meshca.client.values import Rendered, Resource
from meshca.envoy.resources import CLUSTER, SECRET

if TYPE_CHECKING:
    from fakes.shell import Shell


@pytest.mark.parametrize("form", ["table", "yaml", "json"])
def test_bootstrap_is_a_file_for_envoy_and_says_how_to_start_it(shell: Shell, form: str) -> None:
    place = ["--ingress", "127.0.0.9:1234", "--egress", "127.0.0.8", "--admin-port", "9901"]
    result = shell.run("envoy", "bootstrap", "front", *place, "-o", form)
    document = json.loads(result.stdout) if form == "json" else yaml.safe_load(result.stdout)

    assert document["node"]["id"] == NODE
    assert document["node"]["metadata"]["meshca"] == {
        "ingress": "127.0.0.9:1234", "egress": "127.0.0.8", "app": "127.0.0.1",
    }  # fmt: skip
    assert document["admin"]["address"]["socket_address"] == {"address": "127.0.0.1", "port_value": 9901}
    assert str(shell.home / "run/meshca.sock") in result.stdout
    command = result.stderr if form == "json" else result.stdout
    assert "envoy --config-path bootstrap." in command
    assert "--drain-time-s 1 --drain-strategy immediate" in command


def test_bootstrap_says_that_the_kernel_intercepts(shell: Shell) -> None:
    document = json.loads(shell.run("envoy", "bootstrap", "front", "--intercepted", "-o", "json").stdout)
    assert document["node"]["metadata"]["meshca"]["intercepted"] == "yes"


def test_bootstrap_for_the_host_of_an_agent(shell: Shell) -> None:
    result = shell.run("envoy", "bootstrap", "front", "--socket", "/run/meshca/run/meshca.sock")
    assert "path: /run/meshca/run/meshca.sock" in result.stdout
    assert str(shell.home) not in result.stdout
    assert "from the root on" in shell.run("envoy", "bootstrap", "front", "--socket", "meshca.sock", code=2).stderr


def test_egress_beyond_loopback_is_warned_about(shell: Shell) -> None:
    assert "egress on 10.0.0.1" in shell.run("envoy", "bootstrap", "front", "--egress", "10.0.0.1").stderr
    assert "is not an IP address" in shell.run("envoy", "bootstrap", "front", "--ingress", "host", code=1).stderr


def rendered() -> Rendered:
    cluster = cluster_pb2.Cluster(name="cds_egress_m_back_http_80").SerializeToString()
    secret = secret_pb2.Secret(name="ROOTCA").SerializeToString()
    return Rendered(NODE, (Resource(CLUSTER, "cds_egress_m_back_http_80", cluster), Resource(SECRET, "ROOTCA", secret)))


def test_render_decodes_what_the_server_would_send(shell: Shell) -> None:
    shell.admin.rendered = rendered()
    document = shell.json("envoy", "render", "front", "--egress", "127.0.0.8")

    assert [cluster["name"] for cluster in document["clusters"]] == ["cds_egress_m_back_http_80"]
    assert [secret["name"] for secret in document["secrets"]] == ["ROOTCA"]
    static = ["envoy", "render", "front", "--static", "--socket", "/run/meshca/run/meshca.sock"]
    assert "path: /run/meshca/run/meshca.sock" in shell.run(*static).stdout
    shell.admin.calls.pop()
    (call,) = shell.admin.calls
    assert call[:2] == ("render", "front")
    assert json.loads(call[2])["egress"] == "127.0.0.8"
    assert yaml.safe_load(shell.run("envoy", "render", "front").stdout) == document


def test_render_static_is_one_whole_file(shell: Shell) -> None:
    shell.admin.rendered = rendered()
    document = yaml.safe_load(shell.run("envoy", "render", "front", "--static").stdout)

    assert document["node"]["id"] == NODE
    names = [cluster["name"] for cluster in document["static_resources"]["clusters"]]
    assert "cds_egress_m_back_http_80" in names
    assert len(names) == 2
