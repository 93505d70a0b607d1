"""Material of a CA in memory, and a source that gives what it is told to."""

from __future__ import annotations

import queue
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from fakes.ca import FakeClock, World, request, spki_of

from meshca.authority.requests import Issued
from meshca.drop.material import Material
from meshca.errors import MeshcaError


def living_world() -> World:
    """Return a CA whose certificates are valid at this moment, for programs that read the clock of the machine."""
    return World(clock=FakeClock(datetime.now(UTC)))


def new_material(world: World, name: str = "front") -> Material:
    """Return a new leaf of a node with the CA's trust."""
    key = ec.generate_private_key(ec.SECP256R1())
    (issued,) = world.authority.issue([request(name, spki=spki_of(key), kind="file")])
    assert isinstance(issued, Issued)
    trust = world.authority.trust
    return Material(
        chain=issued.chain_pem,
        key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        bundle=trust.bundle_pem,
        crl=trust.crl_pem,
        trust=f"generation {trust.generation}",
    )


@dataclass
class FakeSource:
    """Gives what is sent to it, and counts what is acknowledged."""

    feed: queue.SimpleQueue[Material | MeshcaError] = field(default_factory=queue.SimpleQueue)
    acknowledged: queue.SimpleQueue[str] = field(default_factory=queue.SimpleQueue)
    given: Material | None = None
    closed: bool = False

    def wait(self, seconds: float) -> Material | None:
        try:
            found = self.feed.get(timeout=max(seconds, 0.001))
        except queue.Empty:
            return None
        if isinstance(found, MeshcaError):
            raise found
        self.given = found
        return found

    def acknowledge(self) -> None:
        assert self.given is not None
        self.acknowledged.put(self.given.serial)

    def __enter__(self) -> FakeSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True
