"""Time, chance and keys for tests, and a CA made with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fakes.acknowledgements import InMemoryAcknowledgements
from fakes.ledger import InMemoryLedger

from meshca.authority.authority import DEFAULTS, Authority, Settings
from meshca.authority.create import NewRealm, create
from meshca.authority.events import Event
from meshca.authority.lifetimes import Lifetimes
from meshca.authority.ports import KeyUnavailableError, Ports, Signer
from meshca.authority.records import AuthorityRecord, Role
from meshca.authority.requests import IssueRequest, Kind
from meshca.spiffe.id import SpiffeId, TrustDomain
from meshca.x509.issuer import ca_id

T0 = datetime(2026, 11, 25, 12, 0, 0, tzinfo=UTC)
TRUST_DOMAIN = TrustDomain("m.test")
LIVES = Lifetimes(root=timedelta(days=3650), issuing=timedelta(days=30), leaf=timedelta(hours=1))


@dataclass
class FakeClock:
    """A clock that stands until it is moved."""

    at: datetime = T0

    def now(self) -> datetime:
        return self.at

    def move(self, span: timedelta) -> None:
        self.at += span


@dataclass
class CountingEntropy:
    """1, 2, 3, … behind a first byte that is never zero."""

    count: int = 0

    def __call__(self, size: int, /) -> bytes:
        self.count += 1
        return b"\x01" + self.count.to_bytes(size - 1, "big")


def spki_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@dataclass
class FakeSigner:
    """A key in memory; ``failing`` makes it raise what a key store may raise."""

    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()), repr=False)
    failing: Exception | None = None
    signatures: int = 0

    @property
    def spki(self) -> bytes:
        return spki_of(self.key)

    @property
    def key_id(self) -> str:
        return ca_id(self.spki)

    @property
    def key_ref(self) -> str:
        return self.key_id

    def sign(self, data: bytes) -> bytes:
        if self.failing is not None:
            raise self.failing
        self.signatures += 1
        return self.key.sign(data, ec.ECDSA(hashes.SHA256()))


UNREACHABLE = KeyUnavailableError("the key store does not answer")


@dataclass
class FakeKeys:
    """Makes signers and remembers them by key id."""

    signers: dict[str, FakeSigner] = field(default_factory=dict)

    def signer(self, record: AuthorityRecord) -> FakeSigner:
        if record.key_ref not in self.signers:
            raise KeyUnavailableError("no such key", field="key", value=record.key_ref)
        return self.signers[record.key_ref]

    def create(self, role: Role, trust_domain: TrustDomain, generation: int) -> FakeSigner:
        signer = FakeSigner()
        self.signers[signer.key_id] = signer
        return signer

    def reference(self, signer: Signer, generation: int) -> str:
        return signer.key_ref


@dataclass
class World:
    """A whole CA in memory. ``events`` holds what it emitted."""

    ledger: InMemoryLedger = field(default_factory=InMemoryLedger)
    clock: FakeClock = field(default_factory=FakeClock)
    entropy: CountingEntropy = field(default_factory=CountingEntropy)
    keys: FakeKeys = field(default_factory=FakeKeys)
    events: list[Event] = field(default_factory=list)
    lives: Lifetimes = LIVES
    settings: Settings = DEFAULTS
    acknowledgements: InMemoryAcknowledgements = field(init=False)

    def __post_init__(self) -> None:
        self.acknowledgements = InMemoryAcknowledgements(self.ledger)
        self.created = create(NewRealm(TRUST_DOMAIN, self.lives), self.clock, self.entropy, self.keys, self.ledger)
        self.authority = self.restarted()

    def restarted(self) -> Authority:
        """Return another authority on the same ledger, as after a crash."""
        self.authority = Authority(
            Ports(self.ledger, self.acknowledgements, self.keys, self.clock, self.entropy), self.settings
        )
        self.authority.subscribe(self.events.append)
        return self.authority

    @property
    def root_signer(self) -> FakeSigner:
        return self.keys.signers[self.created.root.key_ref]

    @property
    def issuing_signer(self) -> FakeSigner:
        return self.keys.signers[self.created.issuing.key_ref]


LEAF_KEY = ec.generate_private_key(ec.SECP256R1())


def node(name: str) -> SpiffeId:
    """Return the identity of a virtual node in mesh m."""
    return SpiffeId(TRUST_DOMAIN, f"/mesh/m/virtualNode/{name}")


def request(
    spiffe_id: SpiffeId | str = "web",
    *,
    ttl: timedelta | None = None,
    kind: Kind = "stream",
    spki: bytes = b"",
    holder: str = "stream:42",
) -> IssueRequest:
    """Return a good request; a test changes one thing of it."""
    return IssueRequest(
        spiffe_id=node(spiffe_id) if isinstance(spiffe_id, str) else spiffe_id,
        spki=spki or spki_of(LEAF_KEY),
        ttl=ttl,
        holder=holder,
        kind=kind,
        requested_by="uid 1000",
    )
