"""Two trust domains that believe each other about their own identities, and one that lies about ours; real Envoys."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from harness.strangers import Stranger, call, mutual, validation
from harness.world import FIRST_UID, World, eventually, free_port, mesh, node, service, spiffe

from meshca.cli.demo import handwritten
from meshca.cli.demo.apps import App
from meshca.cli.demo.load import get
from meshca.envoy.names import sni_for
from meshca.spiffe.id import SpiffeId

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.asking import Address

BACK, FRONT, OTHER = FIRST_UID, FIRST_UID + 1, FIRST_UID + 2
THEIR_FRONT = "spiffe://n.test/mesh/m/virtualNode/front"
EVIL = "spiffe://e.test/caller"
NOWHERE = "https://127.0.0.1:1/"


def _federate(world: World, other: World, trust_domain: str) -> None:
    bundle = world.folder / f"{trust_domain}.json"
    bundle.write_text(other.run("bundle", "--format", "spiffe").out)
    at = other.admin.status().federation
    world.run("federate", trust_domain, "--url", f"https://{at}/", "--bundle", str(bundle))


def _calling(name: str, host: str, port: int) -> list[dict[str, Any]]:
    """Return a mesh in which a node calls another trust domain's server."""
    caller = node(name)
    policy = {"tls": {"validation": validation(spiffe("back"))}}
    caller["spec"]["backends"] = [{"virtualService": {"virtualServiceName": "b.local", "clientPolicy": policy}}]
    return [mesh(), node("there", host=host, port=port), caller, service("b.local", "there")]


def test_two_servers_federate(make_world: Callable[..., World], other_users: None) -> None:
    ours = make_world().start("--federation", "127.0.0.1:0")
    theirs = make_world(trust_domain="n.test").start("--federation", "127.0.0.1:0")
    _federate(ours, theirs, "n.test")
    _federate(theirs, ours, "m.test")
    host, plain, port = ours.host(), theirs.host(), free_port("0.0.0.0")
    ours.apply(mesh(), node("back", host=host, port=port, tls=mutual(THEIR_FRONT)))
    theirs.apply(*_calling("front", host, port), *_calling("other", host, port)[2:3])
    ours.register("back", BACK)
    theirs.register("front", FRONT)
    theirs.register("other", OTHER)
    other = theirs.host()
    with App("back", "127.0.0.1", port):
        ours.envoy("back", uid=BACK, ingress=host)
        theirs.envoy("front", uid=FRONT, egress=plain)
        theirs.envoy("other", uid=OTHER, egress=other)

        def status(at: str) -> int:
            return get((at, port), "b.local").status

        eventually(lambda: status(plain) == 200, what="a call across trust domains")
        assert status(other) != 200, "only the identity that policy names is admitted"

        theirs.run("rotate", "root", "--wait")
        shown = ours.run("federate", "n.test", "--refresh", "-o", "json").json
        assert (shown["roots"], shown["failure"]) == (2, None)
        theirs.run("rotate", "leaf", "front")
        eventually(lambda: status(plain) == 200, what="a call under the new root")

        ours.run("federate", "n.test", "--remove")
        eventually(lambda: status(plain) != 200, what="the end of what is no longer believed, open connections too")
        assert ours.run("federate", "-o", "json").json == []
        _federate(ours, theirs, "n.test")
        eventually(lambda: status(plain) == 200, what="a call once it is believed again")
    acts = [row["action"] for row in ours.run("audit", "tail", "-o", "json").json]
    assert {"federate", "unfederate", "fetch-bundle"} <= set(acts)
    assert not [row for row in ours.run("envoy", "list", "-o", "json").json if row["nack"]]


@pytest.fixture
def evil() -> Stranger:
    return Stranger("e.test")


def test_a_foreign_ca_cannot_mint_our_identities(world: World, other_users: None, evil: Stranger) -> None:
    world.run("federate", "e.test", "--url", NOWHERE, "--profile", "https_web", "--bundle", _bundle(world, evil))
    host, port = world.host(), free_port("0.0.0.0")
    world.apply(mesh(), node("back", host=host, port=port, tls=mutual(EVIL, spiffe("front"))), node("front"))
    world.register("back", BACK)
    world.admin.register("front", [f"unix:uid:{FRONT}"])
    with App("back", "127.0.0.1", port):
        world.envoy("back", uid=BACK, ingress=host)
        at = (host, port)
        their_door, our_door = sni_for(SpiffeId.parse(EVIL)), sni_for(SpiffeId.parse(spiffe("front")))
        ours = _issued(world, "front")

        assert call(at, evil.minted(EVIL), their_door) == 200
        assert call(at, ours, our_door) == 200
        for door in (their_door, our_door, ""):
            assert call(at, evil.minted(spiffe("front")), door) == 0, door
        assert call(at, evil.minted("spiffe://e.test/another"), their_door) == 0
        assert call(at, ours, their_door) == 0, "each door is one identity's"
        # Envoy looks at any URI SAN: both names in one certificate must not bring ours to the application.
        assert call(at, evil.minted(EVIL, spiffe("front")), their_door) in {0, 403}
        assert call(at, evil.minted(spiffe("front"), EVIL), their_door) in {0, 403}


def test_bundles_by_name_are_kept_apart(world: World, other_users: None, evil: Stranger) -> None:
    world.run("federate", "e.test", "--url", NOWHERE, "--profile", "https_web", "--bundle", _bundle(world, evil))
    world.apply(mesh(), node("back", host="127.0.0.1", port=9080), node("front"))
    world.admin.register("back", [f"unix:uid:{BACK}"], federates_with=["e.test"])
    host = world.host()
    everybody, theirs = (host, free_port(host)), (host, free_port(host))
    socket = world.home / "run/meshca.sock"
    world.envoy_with(handwritten.server("b", socket, everybody, "default", "ALL"), "all", uid=BACK)
    world.envoy_with(handwritten.server("b", socket, theirs, "default", "spiffe://e.test"), "theirs", uid=BACK)
    ours = _issued(world, "front")

    def answers(at: Address) -> list[int]:
        return [call(at, pem) for pem in (ours, evil.minted(EVIL), evil.minted(spiffe("front")))]

    assert answers(everybody) == [200, 200, 0]
    assert answers(theirs) == [0, 200, 0]

    world.run("federate", "e.test", "--remove")
    eventually(lambda: answers(everybody) == [200, 0, 0], what="ALL without it")
    eventually(lambda: answers(theirs) == [0, 0, 0], what="nobody in its place")


def _bundle(world: World, stranger: Stranger) -> str:
    return stranger.bundle_file(world.folder)


def _issued(world: World, name: str) -> bytes:
    out = world.folder / f"issued-{name}"
    files = world.run("issue", name, "--out", str(out), "-o", "json").json["files"]
    return b"".join(Path(files[part]).read_bytes() for part in ("certificate", "private_key"))
