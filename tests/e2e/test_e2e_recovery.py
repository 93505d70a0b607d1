"""The server is killed and comes back: nothing that a client received is unknown, and Envoys go on.

Must show 5 of the first slice.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from harness.asking import ask
from harness.world import FIRST_UID, eventually, free_port, mesh, node, service, spiffe

from meshca.cli.demo import handwritten
from meshca.client.admin import AdminClient
from meshca.client.values import Issued, SigningRequest
from meshca.errors import MeshcaError

if TYPE_CHECKING:
    from harness.traffic import Address
    from harness.world import World


def signing_request() -> bytes:
    """Return a DER CSR of a new key."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return csr.public_bytes(serialization.Encoding.DER)


def test_every_certificate_received_before_a_kill_is_in_the_ledger(world: World) -> None:
    world.apply(mesh(), node("worker"))
    received: list[str] = []
    ended = threading.Event()

    def issue(batch: int) -> None:
        requests = [SigningRequest(node="worker", csr=signing_request()) for _ in range(batch)]
        with AdminClient(world.home / "run/admin.sock") as admin:
            while not ended.is_set():
                try:
                    answers = admin.issue(requests)
                except MeshcaError:
                    return
                received.extend(answer.serial for answer in answers if isinstance(answer, Issued))

    threads = [threading.Thread(target=issue, args=(batch,)) for batch in (1, 7, 50, 1)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(received) > 300)
    world.kill()
    ended.set()
    for thread in threads:
        thread.join(70)
    world.start()

    ledger = {row["serial"]: row["state"] for row in world.run("certs", "-o", "json").json}
    assert [serial for serial in received if ledger.get(serial) != "valid"] == []
    assert set(ledger.values()) <= {"valid", "pending"}
    verified = world.run("audit", "verify", "-o", "json").json
    assert verified["intact"]


@pytest.fixture
def pair(world: World, other_users: None) -> Address:
    """Two hand-written Envoys that shake hands for each request; the plain address of the first."""
    world.apply(
        mesh(),
        node("back", host="127.0.0.1", port=9080),
        node("front", backends=["b.local"]),
        service("b.local", "back"),
    )
    world.register("back", FIRST_UID)
    world.register("front", FIRST_UID + 1)
    host = world.host()
    at, plain = (host, free_port(host)), (host, free_port(host))
    socket = world.home / "run/meshca.sock"
    world.envoy_with(handwritten.server("b", socket, at, "default", "clients"), "back", uid=FIRST_UID)
    world.envoy_with(
        handwritten.client("f", socket, plain, at, ("default", "servers:b.local")), "front", uid=FIRST_UID + 1
    )
    return plain


def test_envoys_go_on_without_the_server_and_reconnect(world: World, pair: Address) -> None:
    assert ask(pair) == (200, spiffe("front"))
    before = {row["serial"] for row in world.run("certs", "-o", "json").json}

    world.kill()
    outage = time.monotonic()
    while time.monotonic() - outage < 3:
        assert ask(pair) == (200, spiffe("front"))
    world.start()

    rows = eventually(
        lambda: len({r["spiffe_id"] for r in world.run("envoy", "list", "-o", "json").json}) == 2, 40, "both Envoys"
    )
    assert rows
    assert ask(pair) == (200, spiffe("front"))
    assert before <= {row["serial"] for row in world.run("certs", "-o", "json").json}


def test_no_handshake_depends_on_a_fresh_crl(world: World, pair: Address) -> None:
    """A CRL in SDS lives as long as its issuer, so an outage longer than the HTTP copy's life stops nothing."""
    import urllib.request

    shown = world.run("ca", "show", "-o", "json").json
    http = world.run("status", "-o", "json").json["http"]
    for authority in (*shown["roots"], *shown["issuing"]):
        with urllib.request.urlopen(f"http://{http}/crl/{authority['id']}.crl", timeout=5) as answer:
            crl = x509.load_der_x509_crl(answer.read())
            assert answer.headers["content-type"] == "application/pkix-crl"
            assert "max-age" in answer.headers["cache-control"]
        assert crl.next_update_utc is not None
        assert crl.next_update_utc.isoformat()[:19] == authority["not_after"][:19]
    assert ask(pair) == (200, spiffe("front"))


def test_sigterm_drains_and_a_second_server_is_refused(world: World) -> None:
    second = world.run("serve", code=1)

    assert "already" in second.err or "another" in second.err
    assert world.stop() == 0
    world.start()
    assert world.run("status", "-o", "json").json["state"] == "ready"
