"""Every feature of a spec as traffic through real Envoys; all tests share four of them."""

from __future__ import annotations

import math
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from harness.features import ENTRIES, MATCHERS
from harness.stage import Answer, Stage, ask
from harness.world import World, eventually, spiffe

from meshca.envoy import tcp

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.places import Options


# Drain time 1 s and the promise of 0.5 s beyond it; a busy machine gets as much again.
_GONE = 3.0


@pytest.fixture(scope="module")
def stage(root_place: Options) -> Iterator[Stage]:

    if os.geteuid() != 0:
        pytest.skip("needs root, to run Envoys as users of their own")
    world = World.make(*root_place()).start()
    try:
        made = Stage.start(world)
        yield made
        made.close()
    finally:
        world.close()


@pytest.mark.parametrize("name", MATCHERS)
def test_a_matcher_takes_what_it_says_and_nothing_else(stage: Stage, name: str) -> None:
    _, taken, left = MATCHERS[name]
    if taken:
        assert stage.call("color.local", **taken).app == "b"
    assert stage.call("color.local", **left).app == "a"


@pytest.mark.parametrize(("port", "app"), [("color", "a"), ("two", "b")])
def test_a_router_with_two_listeners_leads_by_port(stage: Stage, port: str, app: str) -> None:
    assert stage.call("two.local", "/any", port=port).app == app


def test_weights_are_kept_within_three_sigma(stage: Stage) -> None:
    total = 300
    with ThreadPoolExecutor(4) as pool:
        apps = list(pool.map(lambda _: stage.call("weighted.local").app, range(total)))
    assert set(apps) == {"a", "b"}
    assert abs(apps.count("b") - total * 3 / 4) <= 3 * math.sqrt(total * 3 / 16)


def test_weights_that_are_all_zero_are_a_503(stage: Stage) -> None:
    assert stage.call("zero.local").status == 503


def test_a_node_in_cloud_map_is_a_503_as_long_as_nobody_tells_its_endpoints(stage: Stage) -> None:
    assert stage.call("cloud.local").status == 503
    assert stage.envoys["front"].stat(f"cluster.cds_egress_m_cloud_http_{stage.ports['color']}.update_success") >= 1


def test_endpoints_that_are_told_are_called_until_they_are_taken_back(stage: Stage) -> None:
    at = f"127.0.0.1:{stage.ports['a']}"
    others = {name: envoy.stat("cluster_manager.cds.update_success") for name, envoy in stage.envoys.items()}
    added = stage.world.run("endpoint", "add", "cloud", at, "-o", "json").json
    assert [(row["address"], row["port"]) for row in added] == [("127.0.0.1", stage.ports["a"])]
    try:
        eventually(lambda: stage.call("cloud.local").app == "a", what="a call to the endpoint")
        assert stage.world.run("endpoint", "list", "-o", "json").json == added
    finally:
        stage.world.run("endpoint", "remove", "cloud", at)
    eventually(lambda: stage.call("cloud.local").status == 503, what="its end")
    assert {name: envoy.stat("cluster_manager.cds.update_success") for name, envoy in stage.envoys.items()} == others


def test_a_name_that_is_no_backend_is_a_404(stage: Stage) -> None:
    assert stage.call("unknown.local").status == 404


@pytest.mark.parametrize(
    ("service", "fail", "status", "hits"),
    [
        pytest.param("retry", "500*2", 200, 3, id="as-often-as-said"),
        pytest.param("retry", "500*9", 500, 3, id="and-no-more"),
        pytest.param("retry", "404*9", 404, 1, id="events-alone"),
        pytest.param("plain", "503*2", 200, 3, id="default-on-503"),
        pytest.param("plain", "500*9", 500, 1, id="default-not-on-500"),
        pytest.param("hasty", "503*9", 503, 1, id="none"),
    ],
)
def test_retries_are_counted(stage: Stage, service: str, fail: str, status: int, hits: int) -> None:
    asked = f"{service}-{fail}"
    assert stage.call(f"{service}.local", x_fail=fail, x_id=asked).status == status
    assert stage.apps["a"].hits[asked] == hits


@pytest.mark.parametrize("service", ["hasty", "slow"])
def test_a_timeout_holds_on_either_end(stage: Stage, service: str) -> None:
    """``hasty`` by the client's route; ``slow`` by the server's listener, though its route would wait for 5 s."""
    answer = stage.call(f"{service}.local", x_sleep="1.5")
    assert answer.status == 504
    assert 0.3 < answer.took < 1.4
    assert stage.call(f"{service}.local").status == 200


def test_a_full_pool_breaks(stage: Stage) -> None:
    with ThreadPoolExecutor(6) as pool:
        statuses = list(pool.map(lambda _: stage.call("small.local", x_sleep="0.5").status, range(6)))
    assert 200 in statuses
    assert 503 in statuses
    cluster = f"cluster.cds_ingress_m_a_http_{stage.ports['small']}"
    assert stage.envoys["a"].stat(f"{cluster}.upstream_rq_pending_overflow") > 0


def test_an_outlier_is_ejected_by_its_client(stage: Stage) -> None:
    cluster = f"cluster.cds_egress_m_a_http_{stage.ports['sick']}"
    assert stage.envoys["front"].stat(f"{cluster}.outlier_detection.ejections_active") == 0
    assert [stage.call("sick.local", x_fail="500*9", x_id="sick").status for _ in range(3)] == [500] * 3
    eventually(lambda: stage.envoys["front"].stat(f"{cluster}.outlier_detection.ejections_active") == 1)


def test_grpc_routes_tell_methods_and_metadata_apart(stage: Stage) -> None:
    assert stage.rpc("test.Echo/One") == "rpc-a"
    assert stage.rpc("test.Echo/Two", ("x-h", "v")) == "rpc-b"
    assert stage.rpc("test.Echo/Two") == "UNIMPLEMENTED"


@pytest.mark.parametrize(("fail", "answer", "hits"), [("2", "rpc-a", 3), ("9", "UNAVAILABLE", 3)])
def test_grpc_retries_are_counted(stage: Stage, fail: str, answer: str, hits: int) -> None:
    assert stage.rpc("test.Echo/One", ("x-fail", fail), ("x-id", fail)) == answer
    assert stage.grpc_apps["rpc-a"].hits[fail] == hits


def test_tcp_goes_over_mtls(stage: Stage) -> None:
    address = tcp.addresses(["raw.local"], stage.hosts["front"])["raw.local"]
    port = stage.ports["raw"]
    with socket.create_server(("127.0.0.1", port)) as server:
        threading.Thread(target=_echo_once, args=(server,), daemon=True).start()
        with socket.create_connection((address, port), 5) as connection:
            connection.sendall(b"ping")
            assert connection.recv(4) == b"ping"
    cluster = f"cluster.cds_egress_m_a_tcp_{port}"
    assert stage.envoys["front"].stat(f"{cluster}.ssl.handshake") == 1
    with socket.create_connection((stage.hosts["a"], port), 5) as stranger:
        stranger.sendall(b"ping")
        assert _gone(stranger)


def _echo_once(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        connection.sendall(connection.recv(4))


def _gone(connection: socket.socket) -> bool:
    try:
        return connection.recv(4) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("name", ENTRIES)
def test_a_gateway_leads_inside(stage: Stage, name: str) -> None:
    entry = ENTRIES[name]
    echo = stage.enter(**entry.asked).echo
    assert (echo["app"], echo["path"], echo["host"]) == entry.seen
    assert f"URI={spiffe('gw', 'virtualGateway')}" in echo["headers"]["x-forwarded-client-cert"]
    if entry.left is not None:
        assert stage.enter(**entry.left).status == 404


def test_the_application_learns_who_called_and_nobody_can_pretend(stage: Stage) -> None:
    seen = stage.call("color.local", x_forwarded_client_cert="URI=spiffe://m.test/forged").echo["headers"]
    assert f"URI={spiffe('front')}" in seen["x-forwarded-client-cert"]
    assert "forged" not in seen["x-forwarded-client-cert"]


def test_permissive_takes_both_and_strict_comes_without_a_failed_request(stage: Stage) -> None:
    plain = (stage.hosts["a"], stage.ports["open"])
    assert ask(plain, host="open.local").app == "open"
    assert stage.call("open.local").app == "open"
    before = stage.envoys["a"].stat("listener_manager.listener_modified")
    statuses: list[int] = []
    ended = threading.Event()

    def load() -> None:
        while not ended.wait(0.01):
            statuses.append(stage.call("open.local").status)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        stage.world.apply(*stage.objects(open_mode="STRICT"))
        eventually(lambda: ask(plain, host="open.local").status == 0, what="the end of plaintext")
        eventually(lambda: stage.envoys["a"].stat("listener_manager.listener_modified") > before)
        enough = len(statuses) + 10
        eventually(lambda: len(statuses) > enough, what="requests after the change")
    finally:
        ended.set()
        thread.join()
        stage.world.apply(*stage.objects())
    assert set(statuses) == {200}


def ended_by_revoking(stage: Stage, node: str) -> Answer:
    """Revoke a node while a request is under way through the gateway to ``b``; return how that ended, in time."""
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(stage.enter, "/s/1", "a.example.org", x_sleep="14")
        eventually(lambda: stage.envoys["gw"].stat("http.ingress.downstream_rq_active") == 1)
        stage.world.run("revoke", "--node", node, "--wait")
        return asked.result(_GONE)


def test_a_revoked_server_ends_what_is_open_through_a_gateway(stage: Stage) -> None:
    try:
        # Its connection is closed; 504 would be Envoy's own time limit, 200 the application's answer.
        assert ended_by_revoking(stage, "b").status in {0, 503}
        assert stage.enter("/s/1", "a.example.org").status == 503
        assert stage.enter("/d/x").app == "a"
    finally:
        stage.world.run("resume", "b")
    eventually(lambda: stage.enter("/s/1", "a.example.org").app == "b", what="service after the resume")


def test_a_suspended_gateway_loses_what_is_open_through_it_and_other_clients_nothing(stage: Stage) -> None:
    statuses: list[int] = []
    ended = threading.Event()

    def load() -> None:
        while not ended.is_set():
            statuses.append(stage.call("two.local", "/any", port="two").status)

    thread = threading.Thread(target=load)
    try:
        thread.start()
        assert ended_by_revoking(stage, "gw").status in {0, 503}
        assert {stage.enter("/s/1", "a.example.org").status, stage.enter("/d/x").status} == {503}
    finally:
        ended.set()
        thread.join()
        stage.world.run("resume", "gw")
    assert set(statuses) == {200}
    eventually(lambda: stage.enter("/s/1", "a.example.org").app == "b", what="service after the resume")


def test_no_envoy_refused_anything_or_met_a_deprecated_field(stage: Stage) -> None:
    assert [row for row in stage.world.run("envoy", "list", "-o", "json").json if row["nack"]] == []
    for envoy in stage.envoys.values():
        assert envoy.stat("runtime.deprecated_feature_use") == 0
        assert envoy.stat("listener_manager.lds.update_rejected") == 0
        assert envoy.stat("cluster_manager.cds.update_rejected") == 0
