"""An apply is followed to the Envoys: acknowledged, rejected and rolled back; what is taken away leaves nothing."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from harness.world import FIRST_UID, eventually, free_port, mesh, node, service, spiffe

from meshca.cli.demo.apps import App
from meshca.cli.demo.load import get

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.world import World

    from meshca.cli.demo.envoy import EnvoyProcess

CDS = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
LDS = "type.googleapis.com/envoy.config.listener.v3.Listener"
SDS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
FRONT, BACK = "mesh/m/virtualNode/front", "mesh/m/virtualNode/back"


class Shop:
    """`front` calls `back` through Envoys that are driven over ADS."""

    def __init__(self, world: World, api_type: str) -> None:
        self.world = world
        self.host, plain = world.host(), world.host()
        self.port = free_port("0.0.0.0")
        self.address = (plain, self.port)
        world.apply(*self.objects())
        self.envoys: dict[str, EnvoyProcess] = {}
        places = {"back": ("--ingress", self.host), "front": ("--egress", plain)}
        for uid, (name, place) in enumerate(places.items(), start=FIRST_UID):
            world.register(name, uid)
            config = yaml.safe_load(world.run("envoy", "bootstrap", name, *place).out)
            config["dynamic_resources"]["ads_config"]["api_type"] = api_type
            self.envoys[name] = world.envoy_with(json.dumps(config), name, uid=uid)

    def objects(self, *, port: int = 0, backends: tuple[str, ...] = ("back.local",)) -> list[dict[str, Any]]:
        back = node("back", host=self.host, port=port or self.port)
        return [mesh(), back, node("front", backends=backends), service("back.local", "back")]

    def apply(self, *options: str, code: int = 0, **spec: Any) -> Any:
        text = "\n---\n".join(json.dumps(one) for one in self.objects(**spec))
        return self.world.run("apply", "-f", "-", "-o", "json", *options, text=text, code=code)

    def ask(self) -> int:
        return get(self.address, "back.local").status

    def nacks(self) -> list[str]:
        return [row["nack"] for row in self.world.run("envoy", "list", "-o", "json").json if row["nack"]]


@pytest.fixture(params=["GRPC", "DELTA_GRPC"])
def shop(world: World, other_users: None, request: pytest.FixtureRequest) -> Iterator[Shop]:
    made = Shop(world, request.param)
    with App("back", "127.0.0.1", made.port):
        eventually(lambda: made.ask() == 200, what="the first call")
        yield made


def test_a_nack_is_seen_at_once_and_rolled_back(shop: Shop) -> None:
    world = shop.world
    before = world.run("get", "-o", "json").json
    with socket.socket() as taken:
        taken.bind((shop.host, 0))
        taken.listen()
        port = taken.getsockname()[1]

        done = shop.apply("--wait", "20", code=1, port=port)
        (envoy,) = [row for row in done.json["envoys"] if row["node_id"] == BACK]
        assert (envoy["state"], envoy["spiffe_id"]) == ("rejected", spiffe("back"))
        assert "cannot bind" in envoy["message"]
        assert f"{BACK} has rejected revision 2: " in done.err
        assert [("cannot bind" in nack) for nack in shop.nacks()] == [True]
        assert any("has rejected a Listener" in text for text in world.run("status", "-o", "json").json["warnings"])

        shop.apply("--wait")
        eventually(lambda: not shop.nacks(), what="the Envoy's consent to what it had")
        done = shop.apply("--rollback-on-nack", code=1, port=port)

    assert done.json["revision"] == 4
    assert done.json["rolled_back_to"] == 5
    assert "cannot bind" in done.err
    assert world.run("status", "-o", "json").json["revision"] == 5
    assert world.run("get", "-o", "json").json == before
    eventually(lambda: shop.ask() == 200, what="calls as before")
    eventually(lambda: not shop.nacks(), what="the Envoy's consent to what it had")
    assert world.run("audit", "tail", "-o", "json").json[-1]["action"] == "rollback"


def test_a_removed_backend_leaves_neither_cluster_nor_secret(shop: Shop) -> None:
    dry = shop.apply("--dry-run", backends=()).json
    assert [(p["client"], p["server"], p["allowed"]) for p in dry["permissions"]] == [
        (spiffe("front"), spiffe("back"), False)
    ]
    effects = {effect["node"]: effect for effect in dry["effects"]}
    assert {node: effect["envoys"] for node, effect in effects.items()} == {FRONT: [FRONT], BACK: [BACK]}
    sent = {(r["change"], r["type_url"], r["name"]) for r in effects[FRONT]["resources"]}
    assert {("removed", CDS, f"cds_egress_m_back_http_{shop.port}"), ("removed", SDS, "servers:back.local")} <= sent
    of_back = {(r["change"], r["type_url"], r["name"]) for r in effects[BACK]["resources"]}
    assert {("changed", SDS, f"clients:{shop.port}"), ("removed", SDS, f"client:{spiffe('front')}")} <= of_back

    done = shop.apply("--wait", backends=()).json

    assert {row["node_id"]: row["state"] for row in done["envoys"]} == dict.fromkeys((FRONT, BACK), "acknowledged")
    assert "cds_egress_m_back" not in shop.envoys["front"].admin("clusters")
    # What drains still shows for a second.
    eventually(lambda: "servers:back.local" not in shop.envoys["front"].admin("config_dump"), what="the secret's end")
    assert not shop.nacks()


def test_what_an_envoy_would_get_is_what_it_gets(shop: Shop) -> None:
    world = shop.world
    place = ("--ingress", shop.host)
    rendered = world.run("envoy", "render", "back", *place, "-o", "json").json
    refused = world.run("envoy", "inspect", "back", *place, "-o", "json")
    assert refused.json["source"] == "render"
    assert "not entitled to" in refused.err

    world.register("back", 0)  # who runs this test
    for transport in ("delta", "sotw"):
        found = world.run("envoy", "inspect", "back", *place, "--transport", transport, "-o", "json")
        assert found.json["source"] == f"ads-{transport}"
        assert {name: found.json[name] for name in ("listeners", "clusters", "routes")} == {
            name: rendered[name] for name in ("listeners", "clusters", "routes")
        }
        names = {secret["name"] for secret in found.json["secrets"]}
        assert names == {f"clients:{shop.port}", f"client:{spiffe('front')}"}
    before = len(world.run("certs", "--node", "back", "-o", "json").json)
    found = world.run("envoy", "inspect", "back", *place, "--leaf", "-o", "json")
    (leaf,) = [secret for secret in found.json["secrets"] if "tls_certificate" in secret]
    assert set(leaf["tls_certificate"]) == {"certificate_chain"}
    assert "PRIVATE" not in found.out
    assert len(world.run("certs", "--node", "back", "-o", "json").json) == before + 1
