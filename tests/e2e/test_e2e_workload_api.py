"""The Workload API of a real server, followed by the public Python client through every rotation there is."""

from __future__ import annotations

import os
import ssl
import tempfile
import threading
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding
from harness.world import TRUST_DOMAIN, World, eventually, mesh, node, spiffe
from spiffe import TrustDomain, WorkloadApiClient
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
    return str(dict(certificate["subjectAltName"])["URI"])


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
            eventually(lambda: first.issuer == second.issuer != old, what=f"a leaf of the new {role} CA")
            old = first.issuer
        assert (first.roots, second.roots) == (2, 2)
    finally:
        done.set()
        shaking.join()
        for follower in (first, second):
            follower.stop()
    assert (failures, first.errors, second.errors) == ([], [], [])
    assert hands[0] > 10
