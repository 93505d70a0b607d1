"""The Workload API of a real server, followed by the public Python client through every rotation there is."""

from __future__ import annotations

import json
import os
import ssl
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from harness.world import TRUST_DOMAIN, World, eventually, mesh, node, spiffe
from spiffe import TrustDomain, WorkloadApiClient
from spiffe.workloadapi.errors import ValidateJwtSvidError
from spiffe.workloadapi.x509_context import X509Context


class Follower:
    """A workload that follows its identity, as a user of the public library does."""

    def __init__(self, socket: Path) -> None:
        self.newest: X509Context | None = None
        self.errors: list[Exception] = []
        self._client = WorkloadApiClient(f"unix://{socket}")
        self._handle = self._client.stream_x509_contexts(self._take, self.errors.append)
        eventually(lambda: self.newest, what="the first context")

    def _take(self, context: X509Context) -> None:
        self.newest = context

    @property
    def context(self) -> X509Context:
        """The newest context."""
        assert self.newest is not None
        return self.newest

    @property
    def issuer(self) -> bytes:
        """The issuing CA of the newest leaf."""
        return bytes(self.context.default_svid.cert_chain[1].tbs_certificate_bytes)

    @property
    def roots(self) -> int:
        """How many roots it trusts."""
        bundle = self.context.x509_bundle_set.get_bundle_for_trust_domain(TrustDomain(TRUST_DOMAIN))
        assert bundle is not None
        return len(bundle.x509_authorities)

    def tls(self, folder: str, *, server: bool) -> ssl.SSLContext:
        """Return a TLS context made of nothing but what it was sent."""
        chain, key = Path(folder, "chain.pem"), Path(folder, "key.pem")
        self.context.default_svid.save(str(chain), str(key), Encoding.PEM)
        bundle = self.context.x509_bundle_set.get_bundle_for_trust_domain(TrustDomain(TRUST_DOMAIN))
        assert bundle is not None
        anchors = Path(folder, "bundle.pem")
        bundle.save(str(anchors), Encoding.PEM)
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        made.check_hostname = False
        made.verify_mode = ssl.CERT_REQUIRED
        made.load_verify_locations(anchors)
        made.load_cert_chain(chain, key)
        return made

    def stop(self) -> None:
        """Follow no more."""
        self._handle.cancel()
        self._client.close()


def _shake_hands(client: Follower, server: Follower) -> str:
    """Do a mutual TLS handshake in memory and return the server's identity, as the client has verified it."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    with tempfile.TemporaryDirectory() as folder:
        ours = client.tls(folder, server=False).wrap_bio(to_client, to_server)
        theirs = server.tls(folder, server=True).wrap_bio(to_server, to_client, server_side=True)
    open_sides = [ours, theirs]
    while open_sides:
        for side in tuple(open_sides):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            open_sides.remove(side)
    certificate = ours.getpeercert()
    assert certificate is not None
    names = certificate["subjectAltName"]
    assert isinstance(names, tuple)
    return str(dict(names)["URI"])  # type: ignore[arg-type]


def _await_another_issuer(first: Follower, second: Follower, old: bytes) -> None:
    eventually(lambda: first.issuer == second.issuer != old, what="a leaf of the new CA")


def test_the_key_of_tokens_is_replaced_and_tainted_by_the_command_line(make_world: Callable[..., World]) -> None:
    world = make_world("--lifetimes", "root=5m,issuing=60s,leaf=20s").start()  # published for 5 s before it signs
    world.apply(mesh(), node("web"))
    world.register("web", os.getuid())
    client = WorkloadApiClient(f"unix://{world.home / 'run/meshca.sock'}", default_timeout=20)
    try:
        before = client.fetch_jwt_svid({"db"})
        rotated = world.run("rotate", "jwt", "--wait", "-o", "json")
        assert rotated.json["state"] == "active"
        assert f"JWT signing key {rotated.json['id']}: active" in rotated.err
        client.validate_jwt_svid(before.token, "db")
        shown = {key["id"]: key["state"] for key in world.run("ca", "show", "-o", "json").json["jwt"]}
        assert (shown.pop(rotated.json["id"]), list(shown.values())) == ("active", ["old"])
        assert "jwt" in world.run("ca", "show").out
        (old,) = shown
        assert world.run("ca", "taint", old, "-o", "json").json == {"tainted": [old]}
        with pytest.raises(ValidateJwtSvidError):
            client.validate_jwt_svid(before.token, "db")
        keys = json.loads(world.run("bundle", "--format", "spiffe").out)["keys"]
        assert [key["kid"] for key in keys if key["use"] == "jwt-svid"] == [rotated.json["id"]]
    finally:
        client.close()


def test_no_handshake_fails_while_leaf_issuing_ca_and_root_rotate(world: World) -> None:
    world.apply(mesh(), node("web"))
    world.register("web", os.getuid())
    socket = world.home / "run/meshca.sock"
    first, second = Follower(socket), Follower(socket)
    done, hands = threading.Event(), [0]
    failures: list[Exception] = []

    def keep_shaking() -> None:
        while not done.is_set():
            for client, server in ((first, second), (second, first)):
                try:
                    assert _shake_hands(client, server) == spiffe("web")
                    hands[0] += 1
                except Exception as error:
                    failures.append(error)
            done.wait(0.02)

    shaking = threading.Thread(target=keep_shaking)
    shaking.start()
    try:
        old = first.issuer
        for role in ("issuing", "root"):
            world.run("rotate", role, "--wait")
            world.run("rotate", "leaf", "web")
            _await_another_issuer(first, second, old)
            old = first.issuer
        assert (first.roots, second.roots) == (2, 2)
    finally:
        done.set()
        shaking.join()
        for follower in (first, second):
            follower.stop()
    assert (failures, first.errors, second.errors) == ([], [], [])
    assert hands[0] > 10
